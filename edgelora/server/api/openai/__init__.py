"""OpenAI's routes: chat, completions, models, embeddings, files; and `/tokenize` beside them."""
