"""The OpenAI-style HTTP server over one resident base."""
