"""The OpenAPI document of the server: a table of its operations, the replies' types, and the document made of both."""
