"""HTTP clients for an app under test: Falcon's conductor, in memory and over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json as jsons
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

import falcon.testing

from falcon_pachinko.typing import AsgiReceive, AsgiSend, Scope

__all__ = ["LiveHttp", "MemoryHttp"]


class MemoryHttp(falcon.testing.ASGIConductor):
    """Falcon's conductor, which asks for ``localhost`` unless it is told otherwise.

    Example::

        health = await client.http.get("/health")
        assert (health.status_code, health.json) == (200, {"ok": True})
    """

    async def simulate_request(self, *args: Any, **kwargs: Any) -> Any:
        """Make a request, with the arguments of `falcon.testing.simulate_request`."""
        return await super().simulate_request(*args, **{"host": "localhost", **kwargs})

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        """`simulate_request`, as Falcon's conductor calls it too."""
        return await self.simulate_request(*args, **kwargs)


class LiveHttp(falcon.testing.ASGIConductor):
    """The same over HTTP: a connection to a real server for each request.

    Args:
        url: Where the server is, ``http://127.0.0.1:49152``.
        timeout: Seconds that a request may take.
    """

    def __init__(self, url: str, timeout: float) -> None:
        async def app(scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
            """Stand for the app, which is behind a real server."""

        super().__init__(app)
        self._url, self._timeout = url, timeout

    async def simulate_request(  # type: ignore[override]  # what makes sense on a real server
        self,
        method: str = "GET",
        path: str = "/",
        *,
        query_string: str = "",
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        json: Any = None,
        content_type: str | None = None,
        host: str | None = None,
    ) -> falcon.testing.Result:
        """Make a request; the arguments are those of `falcon.testing.simulate_request`.

        Raises:
            OSError: The server is not there, or did not answer in time.
        """
        given = dict(headers or {})
        if json is not None:
            body, content_type = (
                jsons.dumps(json, ensure_ascii=False),
                content_type or falcon.MEDIA_JSON,
            )
        if content_type is not None:
            given["Content-Type"] = content_type
        if host is not None:
            given["Host"] = host
        query = query_string or urlencode(params or {}, doseq=True)
        target = f"{path}{'&' if '?' in path else '?'}{query}" if query else path
        data = body.encode() if isinstance(body, str) else body
        return await asyncio.to_thread(self._ask, method, target, given, data)

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        """`simulate_request`, as Falcon's conductor calls it too."""
        return await self.simulate_request(*args, **kwargs)

    def simulate_ws(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: `LiveServer.connect` makes the clients of WebSockets.

        Raises:
            TypeError: Always.
        """
        raise TypeError("http is for HTTP; server.connect(path) makes a WebSocket client")

    def _ask(
        self, method: str, target: str, headers: dict[str, str], body: bytes | None
    ) -> falcon.testing.Result:
        """Ask and wait, in a thread: the app has a loop of its own."""
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=self._timeout)
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            return falcon.testing.Result(
                [answer.read()], f"{answer.status} {answer.reason}", answer.getheaders()
            )
        finally:
            connection.close()
