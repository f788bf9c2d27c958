"""Authentication and authorization: credentials, the gate of each endpoint, rate limits, and the scoped runtime."""
