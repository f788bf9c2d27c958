"""Changing what is installed over HTTP: the manager, the jobs it runs, and the routes that show them."""
