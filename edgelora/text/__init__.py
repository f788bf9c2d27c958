"""Text in and out of tokens: prompts and chat templates, tool calls, grammars for schemas, detokenization.

Pure: no I/O, clock or thread. Imports `core`.
"""
