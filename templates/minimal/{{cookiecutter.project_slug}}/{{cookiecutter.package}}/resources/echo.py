"""Says back what it is told: the smallest conversation there is."""

from falcon_pachinko import Connection, WebSocketResource, handles_message

from ..messages import Words


class Echo(WebSocketResource):
    """One connection: every client has its own instance."""

    @handles_message("echo")
    async def echo(self, ws: Connection, payload: Words) -> Words:
        """Reply with the same words; what a handler returns goes to the one who asked."""
        return payload
