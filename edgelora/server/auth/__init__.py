"""Who calls and what they may do: credentials, the gate of each endpoint, rate limits, and the scoped runtime."""
