"""One client: who it is, what it sends, and what waits for it."""
