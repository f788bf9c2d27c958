"""The page at / in a real browser: `python -m tests.page [--shots DIR]`."""
