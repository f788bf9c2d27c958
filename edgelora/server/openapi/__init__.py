"""The OpenAPI document: the types of the replies, and the document made of them and of the endpoints."""
