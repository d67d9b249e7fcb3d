"""What an ASGI server runs: the name `app` of this module."""

from .app import create_app

app = create_app()
