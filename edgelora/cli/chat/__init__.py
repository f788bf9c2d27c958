"""The chat in a terminal: the conversation with its slash commands, and the line prompt."""
