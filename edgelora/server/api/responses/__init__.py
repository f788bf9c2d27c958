"""OpenAI's Responses API: bodies, items and events, and a bounded store of responses. Each is generated as a chat."""
