"""The OpenAI-style HTTP server over one resident base. `app` wires the routes, `run` owns the process.

Imports `runtime` and what stands below it; never the command line.
"""
