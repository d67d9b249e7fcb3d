"""A chat over WebSockets, with Falcon."""
