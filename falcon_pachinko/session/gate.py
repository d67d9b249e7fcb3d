"""What stands between the ASGI server and Falcon while a WebSocket is open: who may answer.

A session talks to the server directly. Falcon, which routes to it, closes every
WebSocket itself once the responder is done; the gate lets that pass only where
the handshake is still unanswered. The close codes that Falcon gives its errors
(3000 and the HTTP status: a path without a route, a middleware that refuses) it
turns into that very status, or into what a browser can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable

import falcon

from falcon_pachinko.connection.ends import fit_reason
from falcon_pachinko.counters import Counters
from falcon_pachinko.messages.codec import SUBPROTOCOLS
from falcon_pachinko.rooms.revocations import Revocations
from falcon_pachinko.session.denials import as_close, as_response
from falcon_pachinko.typing import AsgiEvent, AsgiReceive, AsgiSend, Scope

__all__ = ["DENIED_WAIT", "Gate"]

log = logging.getLogger("falcon_pachinko")

DENIED_WAIT = 2.0
"""Seconds that the socket of a denial which a browser can read lives at most."""

_KEY = "falcon_pachinko.gate"
_RESPONSE = "websocket.http.response"  # the ASGI extension that lets a denial have a status
_MOMENT = 0.01  # seconds


class Turn(enum.Enum):
    """Whose word counts."""

    FALCON = "the app's routing and middleware"
    SESSION = "the session of one of our routes: nothing of Falcon's passes"
    HANDLERS = "Falcon's error handlers, with what the session has no answer for"
    NOBODY = "the handshake was denied by us: nothing passes any more"
    RESPONDER = "an on_websocket of the application's own has accepted: everything passes"


class Gate:
    """Answers one handshake, once.

    Args:
        scope: The handshake's ASGI scope.
        receive: The server's.
        send: The server's, or a middleware's.
        counters: Where a denial is counted.
        revocations: What is told that a handshake begins, and is over.
        readable: Tells whether a denial may be made readable for this scope: its host and
            origin are allowed, and the app has not switched it off.
    """

    __slots__ = (
        "_counters",
        "_readable",
        "_revocations",
        "_scope",
        "_send",
        "_turn",
        "error",
        "receive",
        "subprotocol",
    )

    def __init__(
        self,
        scope: Scope,
        receive: AsgiReceive,
        send: AsgiSend,
        *,
        counters: Counters,
        revocations: Revocations,
        readable: Callable[[Scope], bool],
    ) -> None:
        self._scope, self._send = scope, send
        self._counters, self._readable = counters, readable
        self._revocations = revocations
        revocations.begin(self)
        self._turn = Turn.FALCON
        self.receive = receive
        self.error: falcon.HTTPError | falcon.HTTPStatus | None = None
        """What a middleware or a responder raised to deny, noted by the app's error handler."""
        self.subprotocol: str | None = None
        """What an ``on_websocket`` of the application's own has agreed on, which Falcon forgets."""
        scope[_KEY] = self

    @staticmethod
    def of(scope: Scope) -> Gate | None:
        """Return the gate of a request's scope; None for one that did not come through it."""
        return scope.get(_KEY)

    @property
    def denies(self) -> bool:
        """Whether the handshake is denied, be it by accepting and closing at once."""
        return self._turn is Turn.NOBODY

    def leave(self) -> None:
        """Break the cycles with the scope and with the frames of an error: it is over."""
        if self._turn is not Turn.SESSION:  # else the session has done so
            self._revocations.end(self)
        self._scope.pop(_KEY, None)
        self.error = None

    def take_over(self) -> AsgiSend:
        """Let a session answer from here on; return the server's own ``send``."""
        self._turn = Turn.SESSION
        return self._send

    def give_back(self) -> None:
        """Leave the answer to Falcon's error handlers; the session has raised."""
        self._turn = Turn.HANDLERS

    async def gone(self) -> None:
        """Note that the client left before it had an answer; it counts as denied.

        The server gets an answer all the same: without one, some log that as an error.
        """
        if self._turn is not Turn.NOBODY:
            self._turn = Turn.NOBODY
            self._counters.denied += 1
            with contextlib.suppress(Exception):  # whatever a server raises, the client has gone
                await self._send({"type": "websocket.close", "code": 1000, "reason": ""})

    async def send(self, event: AsgiEvent) -> None:
        """Stand in as the ``send`` that Falcon gets."""
        kind = event["type"]
        if kind == "websocket.accept":
            self._turn = Turn.RESPONDER
            self._revocations.end(self)
            self.subprotocol = event.get("subprotocol")
        if kind != "websocket.close" or self._turn is Turn.RESPONDER:
            await self._send(event)
            return
        if self._turn in (Turn.SESSION, Turn.NOBODY):
            return  # Falcon closes every WebSocket when its responder is done
        code = event.get("code", 1000)
        if 3300 <= code <= 3599:
            error = self.error
            if error is None or error.status_code != code - 3000:
                error = falcon.HTTPError(code - 3000)
            await self.deny(error)
        elif self._turn is Turn.HANDLERS or code == 1011:
            await self.deny(falcon.HTTPInternalServerError())
        else:
            await self.deny(None, (code, event.get("reason") or ""))

    async def deny(
        self,
        error: falcon.HTTPError | falcon.HTTPStatus | None,
        close: tuple[int, str] | None = None,
        *,
        readable: bool = True,
    ) -> None:
        """Deny the handshake, as far as server and client allow to say why.

        A client that offers one of the library's subprotocols is accepted, and closed
        with 3000 and the status at once, since a browser cannot see an HTTP status.
        All others get the status, or 403 where the server has no other.

        Args:
            error: The status, with what belongs to it; None for a plain denial.
            close: The close code and reason that the application gave instead.
            readable: Whether the denial may be made readable at all.
        """
        if self._turn is Turn.NOBODY:
            return
        self._turn = Turn.NOBODY
        self._counters.denied += 1
        offered = self._scope.get("subprotocols") or ()
        protocol = next((each for each in offered if each in SUBPROTOCOLS), None)
        try:
            if readable and protocol is not None and self._readable(self._scope):
                await self._close(protocol, close or as_close(error))
            elif error is not None and _RESPONSE in (self._scope.get("extensions") or {}):
                status, headers, body = as_response(error)
                start = {"type": f"{_RESPONSE}.start", "status": status, "headers": headers}
                await self._send(start)
                await self._send({"type": f"{_RESPONSE}.body", "body": body, "more_body": False})
                # uvicorn's sansio back end logs an error if the app returns before it has closed.
                await asyncio.sleep(_MOMENT)
            else:
                await self._send({"type": "websocket.close", "code": 1008, "reason": ""})
        except (OSError, AttributeError):
            pass  # the client went first; uvicorn's `websockets` misses its transport then
        except Exception as failure:  # noqa: BLE001  # whatever it is, the client has its end
            log.warning("a denial could not be sent: %.200r", failure)

    async def _close(self, protocol: str, close: tuple[int, str]) -> None:
        """Accept and close, and wait for the client to take note."""
        code, reason = close
        await self._send({"type": "websocket.accept", "subprotocol": protocol})
        await self._send({"type": "websocket.close", "code": code, "reason": fit_reason(reason)})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DENIED_WAIT):
                while (await self.receive())["type"] == "websocket.receive":
                    pass
