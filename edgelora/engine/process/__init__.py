"""The engine in a process of its own, and the supervisor that keeps it running.

See docs/decisions/0008-engine-process.md. The parent's side is `remote` and `supervisor`, the child's `worker`.
"""
