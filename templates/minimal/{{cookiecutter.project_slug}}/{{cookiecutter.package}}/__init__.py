"""WebSockets, with Falcon."""
