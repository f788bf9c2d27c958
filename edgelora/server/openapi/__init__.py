"""The OpenAPI document, made of the endpoints, and the endpoint that serves it."""
