"""The page at / in a real browser: `python -m tests.system.page [--shots DIR]`."""
