"""The published OpenAPI document held against a real server: schemathesis makes requests of it, right and wrong."""
