"""Together's routes and dialect: uploads, projects, uploads in parts, and its shapes of chunks."""
