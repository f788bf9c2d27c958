"""HTTP itself, apart from any API: the connection, bodies, uploads, endpoints, errors, timeouts and draining."""
