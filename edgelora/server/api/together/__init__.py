"""Together's API: its dialect, its model uploads, its projects, and uploads of local files in parts."""
