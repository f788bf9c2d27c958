"""Speculative decoding by prompt lookup: which tokens to draft, how likely they are, and how many pay off.

Pure. Answers never depend on drafts, since every drafted token is verified as the sampler draws it.
"""
