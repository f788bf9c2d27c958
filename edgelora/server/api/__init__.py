"""The APIs a client knows: OpenAI, Responses, Together, Groq, vLLM and the adapters API of this server.

Each is a thin translation to `generation` or `management`.
"""
