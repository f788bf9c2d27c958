"""The whole path on the built-in base: real files, the real converter, llama.cpp, the CLI and the HTTP server."""
