"""OpenAI's Responses API: bodies, items and events, and a bounded memory of answers. A response is a chat."""
