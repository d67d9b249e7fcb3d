"""The health check, for load balancers and people."""

from falcon.asgi import Request, Response


class Health:
    """An ordinary Falcon resource: HTTP, beside the WebSockets."""

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer 200 as long as the app runs."""
        resp.media = {"status": "ok"}
