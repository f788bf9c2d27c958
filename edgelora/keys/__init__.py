"""Who may call: the token of this installation, and named API keys. Files in the configuration folder, and no HTTP."""
