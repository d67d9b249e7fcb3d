"""What stands between the ASGI server and Falcon while a WebSocket is open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping

import falcon

from falcon_pachinko.typing import AsgiEvent, AsgiReceive, AsgiSend, Scope

__all__ = ["Gate"]

_KEY = "falcon_pachinko.gate"
_RESPONSE = "websocket.http.response"  # the ASGI extension that lets a denial have a status

_MOMENT = 0.01  # seconds

_FALCONS, _SESSIONS, _ANSWERED, _PASSING = range(4)  # whose word counts


class Gate:
    """What stands between the ASGI server and Falcon while a WebSocket is open.

    A session talks to the server directly. Falcon, which routes to it, closes
    every WebSocket itself once the responder is done; the gate lets that pass
    only where nobody has answered the handshake. The close codes that Falcon
    gives its errors (3000 and the HTTP status: a path without a route, a
    middleware that refuses) it turns into that very status, which a client can
    see, where the server knows how to send one.
    """

    __slots__ = ("_scope", "_send", "_stage", "receive")

    def __init__(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        self._scope = scope
        self._send = send
        self._stage = _FALCONS
        self.receive = receive
        scope[_KEY] = self

    @staticmethod
    def of(scope: Scope) -> Gate:
        """Return the gate of a request's scope."""
        gate: Gate = scope[_KEY]
        return gate

    def leave(self) -> None:
        """Break the cycle between the scope and this: the WebSocket is over."""
        self._scope.pop(_KEY, None)

    def take_over(self) -> AsgiSend:
        """Let a session answer from here on; return the server's own ``send``."""
        self._stage = _SESSIONS
        return self._send

    def answered(self) -> None:
        """Note that the handshake has its answer: nothing of Falcon's passes any more."""
        self._stage = _ANSWERED

    def send(self, event: AsgiEvent) -> Awaitable[None]:
        """Stand in as the ``send`` that Falcon gets."""
        kind = event["type"]
        if kind == "websocket.accept":  # an on_websocket of the application's own
            self._stage = _PASSING
        if kind != "websocket.close" or self._stage == _PASSING:
            return self._send(event)
        if self._stage == _ANSWERED:
            return _nothing()
        code = event.get("code", 1011)
        if 3400 <= code <= 3599 and self._knows_statuses:
            return self.deny(code - 3000)
        return self._send(event) if self._stage == _FALCONS else self.deny(500)

    @property
    def _knows_statuses(self) -> bool:
        return _RESPONSE in (self._scope.get("extensions") or {})

    async def deny(self, error: falcon.HTTPError | int) -> None:
        """Deny the handshake with an HTTP status, or with 403 where the server has no other."""
        self._stage = _ANSWERED
        if not self._knows_statuses:
            await self._send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        status, headers, body = _response(error)
        await self._send({"type": f"{_RESPONSE}.start", "status": status, "headers": headers})
        await self._send({"type": f"{_RESPONSE}.body", "body": body, "more_body": False})
        # uvicorn's sansio back end logs an error if the app returns before the socket is closed.
        await asyncio.sleep(_MOMENT)


async def _nothing() -> None:
    """What Falcon's close of a WebSocket that is over comes to."""


def _response(error: falcon.HTTPError | int) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Compose a denial, as Falcon would the HTTP response of the same error."""
    if isinstance(error, int):
        error = falcon.HTTPError(error)
    body = json.dumps(error.to_dict(), ensure_ascii=False).encode("utf-8", "replace")
    given = error.headers or ()
    pairs = given.items() if isinstance(given, Mapping) else given
    headers = [
        (str(name).lower().encode("latin-1"), str(value).encode("latin-1", "replace"))
        for name, value in pairs
    ]
    headers += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    return error.status_code, headers, body
