"""Changing what is installed over HTTP: the manager, its installation jobs, and the endpoints that show them."""
