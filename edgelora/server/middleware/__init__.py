"""The middleware before every route: the error boundary, and the guard of Host, Origin and request sizes."""
