"""Real clients of every major, each in an environment of its own, through everything the server offers them.

They are strict: a reply of another shape than their types raises. `python -m tests.system.clients` makes the
environments
from the package registries that pip and npm are set up with, starts one `edgelora serve`, and runs a script for each.
"""
