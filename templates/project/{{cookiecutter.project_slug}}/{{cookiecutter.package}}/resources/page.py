"""The page that people open."""

import asyncio
from pathlib import Path

import falcon
from falcon.asgi import Request, Response

# The page uses only its own script, style sheet and server; the browser blocks everything else.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class Page:
    """One HTML file, read for every request, so that an edit shows at once."""

    def __init__(self, file: Path) -> None:
        self.file = file

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer with the file, and a policy that blocks the code of other sites."""
        resp.content_type = falcon.MEDIA_HTML
        resp.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        resp.text = await asyncio.to_thread(self.file.read_text, "utf-8")
