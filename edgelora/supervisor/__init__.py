"""The engine in a process of its own, and what keeps it running: see docs/decisions/0008-engine-process.md."""
