"""An app under test, alive: its lifespan, its workers, and as many clients as it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import falcon.testing

from falcon_pachinko.extension import installed
from falcon_pachinko.manager import WebSocketConnectionManager
from falcon_pachinko.testing.client import TIMEOUT, Client

__all__ = ["Simulator", "simulate"]


class Simulator:
    """A running app; `simulate` makes it, and ``connect`` its clients.

    Its lifespan runs on Falcon's own ASGI test conductor, ``http``, which also
    simulates HTTP requests.
    """

    def __init__(self, app: Any, timeout: float = TIMEOUT) -> None:
        self.app = app
        self.http: falcon.testing.ASGIConductor = falcon.testing.ASGIConductor(app)
        """Falcon's conductor: ``await client.http.simulate_get("/health")``."""
        self._timeout = timeout

    @property
    def manager(self) -> WebSocketConnectionManager:
        """The app's connection manager."""
        pachinko = installed(self.app)
        if pachinko is None:
            raise TypeError("the app has no connection manager: install(app) first")
        return pachinko.ws_connection_manager

    async def __aenter__(self) -> Self:
        await self.http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.http.__aexit__(kind, error, traceback)

    def connect(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        timeout: float | None = None,
        **scope: Any,
    ) -> Client:
        """Make a client of a path, such as ``"/ws/chat/tea?name=Ann"``; enter it to connect.

        Args:
            path: The path, with the query if there is one.
            headers: The handshake's headers.
            subprotocols: What the client offers, in its order of preference.
            timeout: Seconds that it waits for a frame, in place of the simulator's.
            scope: More arguments for `falcon.testing.create_scope_ws`, such as
                ``remote_addr``.

        Raises:
            HandshakeDenied: On entering, if the app denies the connection.
        """
        path, _, query = path.partition("?")
        made = falcon.testing.create_scope_ws(
            path,
            query_string=query,
            headers=dict(headers or {}),
            subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]  # mistyped in Falcon 4.4
            spec_version="2.3",
            **scope,
        )
        pairs = [
            tuple(pair) for pair in made["headers"]
        ]  # a server's are lists, Falcon's iterators
        if any(name.lower() == "host" for name in headers or ()):
            # The conductor adds a Host of its own, the last, beside the one that was given.
            pairs.remove([pair for pair in pairs if pair[0] == b"host"][-1])
        made["headers"] = pairs
        made["extensions"] = {"websocket.http.response": {}}
        return Client(self.app, made, self._timeout if timeout is None else timeout)


def simulate(app: Any, *, timeout: float = TIMEOUT) -> Simulator:
    """Run an app in memory, for as long as an ``async with`` lasts.

    Startup and shutdown run as under a server, workers included.

    Args:
        app: A Falcon app with `install` done.
        timeout: Seconds that every wait of every client takes at most.
    """
    return Simulator(app, timeout)
