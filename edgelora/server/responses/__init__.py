"""OpenAI's Responses API: bodies, conversations, events, a bounded memory of answers, and the routes over them."""
