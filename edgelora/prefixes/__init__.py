"""KV of prompts' beginnings on disk: kept across restarts, found by what they are, never in anybody's way."""
