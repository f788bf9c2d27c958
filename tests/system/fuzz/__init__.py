"""Seeded malformed requests over real sockets, against a server in a process of its own, on every route it has.

`python -m tests.system.fuzz --count 50000` runs them all; the default suite a few hundred. A finding is a 5xx
that is not
documented, an answer of another shape, a connection that never ends, an error in the log, or something left behind:
memory, threads, descriptors, running requests, leases.
"""
