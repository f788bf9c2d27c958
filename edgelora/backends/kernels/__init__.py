"""The LoRA delta on a CPU: a numpy reference, and the same in C for AVX2, AVX-512 and NEON.

Owns the native library; `native` loads it, and every form is tested against `reference`.
"""
