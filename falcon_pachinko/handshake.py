"""How a handshake is asked about and answered: accepted, or denied with a status that says why."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence, Sized
from typing import Any

import falcon
import falcon.asgi

from falcon_pachinko.admission import Admission
from falcon_pachinko.connection import Connection
from falcon_pachinko.errors import MessageError, SetupError
from falcon_pachinko.hooks import HookChain
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.typing import AsgiEvent, AsgiReceive, AsgiSend, Scope

__all__ = ["Gate", "Handshake"]

log = logging.getLogger("falcon_pachinko")

_KEY = "falcon_pachinko.gate"
_RESPONSE = "websocket.http.response"  # the ASGI extension that lets a denial have a status

_MOMENT = 0.01  # seconds

_FALCONS, _SESSIONS, _ANSWERED, _PASSING = range(4)  # whose word counts


Attend = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
"""How a session awaits what may take long."""


class Handshake:
    """One handshake: who is asked about it, in which order, and what the client is told.

    Args:
        req: The request.
        params: The fields of its path.
        arguments: Which of them each ``on_connect`` gets, outermost parent first.
        gate: What answers it.
        admission: What the app's settings say.
        hooks: The route's hooks.
    """

    def __init__(
        self,
        req: falcon.asgi.Request,
        params: Mapping[str, Any],
        arguments: Sequence[Collection[str]],
        *,
        gate: Gate,
        admission: Admission,
        hooks: HookChain,
    ) -> None:
        self.req, self.params, self.arguments = req, params, arguments
        self.gate, self.admission, self.hooks = gate, admission, hooks

    async def settle(
        self, connection: Connection, line: Sequence[WebSocketResource], attend: Attend
    ) -> None:
        """Ask everybody and answer; ``connection.accepted`` tells the outcome.

        Args:
            connection: The connection that it would open.
            line: The resource and its parents, outermost first.
            attend: What awaits their decisions.

        Raises:
            falcon.WebSocketDisconnected: The client went before it was accepted.
            Exception: What an ``on_connect`` raised that has no answer of its own:
                for Falcon's error handlers, which close; the gate makes that a status.
        """
        try:
            await self._ask(connection, line, attend)
        except falcon.HTTPError as error:
            await self._refuse(connection, error)
        except MessageError as error:
            status, title = error.status or 400, error.code
            refusal = falcon.HTTPError(status, title=title, description=error.message or None)
            await self._refuse(connection, refusal)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            stray = RuntimeError("CancelledError, raised by the application itself")
            stray.__cause__ = error
            self._fail(connection, line, stray)
        except Exception as error:  # noqa: BLE001  # raised again, or logged
            self._fail(connection, line, error)
        finally:
            if not connection.unaccepted:
                self.gate.answered()

    async def _refuse(self, connection: Connection, error: falcon.HTTPError) -> None:
        """Deny with a status, or close with 3000 and the status where it is too late for that."""
        if connection.unaccepted:
            connection.manager.forget(connection)  # the client has its answer in a moment
            await self.gate.deny(error)
        else:
            connection.begin_close(3000 + error.status_code, error.title or "")

    def _fail(
        self, connection: Connection, line: Sequence[WebSocketResource], error: Exception
    ) -> None:
        """Pass an error on as long as Falcon can answer it; close where it is too late for that."""
        if connection.closed and isinstance(error, falcon.WebSocketDisconnected):
            raise error
        if connection.unaccepted:
            raise error
        name = type(line[-1]).__name__
        log.error("%s failed after it was accepted", name, exc_info=error, extra=connection.where())
        connection.begin_close(1011, "internal error")

    async def _ask(
        self, connection: Connection, line: Sequence[WebSocketResource], attend: Attend
    ) -> None:
        await attend(self._let_in(connection))
        for hook in self.hooks.before_connect:
            await attend(hook(self.req, connection, self.params))
        for resource, names in zip(line, self.arguments, strict=True):
            resource.ws = connection
            given = {name: self.params[name] for name in names}
            decision = await attend(resource.on_connect(self.req, connection, **given))
            if decision is False:
                raise falcon.HTTPForbidden
            if decision is not True and connection.unaccepted:
                raise SetupError(
                    f"{type(resource).__name__}.on_connect returned {decision!r}; "
                    "return True to accept the connection, or False to deny it"
                )
        if connection.unaccepted:
            await connection.manager.cluster.settled()  # what is sent to its user arrives
            await connection.accept()
        for hook in self.hooks.after_connect:
            await attend(hook(self.req, connection))

    async def _let_in(self, connection: Connection) -> None:
        """Check what the app's settings say about a client, before a resource is asked.

        Raises:
            falcon.HTTPError: It may not come in, or there are too many of its kind.
        """
        manager, limits = connection.manager, connection.limits
        if manager.draining:
            raise falcon.HTTPServiceUnavailable(description="The server is going down.")
        if len(manager) > limits.connections:
            sentence = f"{limits.connections} are connected already (connections)."
            raise falcon.HTTPServiceUnavailable(description=sentence)
        if connection.address is not None:
            many = manager.at_address(connection.address)
            _check_count(many, limits.connections_per_address, "connections_per_address")
        principal = await self.admission.ask(self.req)
        if principal is None:
            return
        connection.user_id = principal.user_id
        many = manager.of_user(principal.user_id)
        _check_count(many, limits.connections_per_user, "connections_per_user")
        for tag in principal.tags:
            manager.tag(connection, tag)
        seconds = principal.seconds_left()
        if seconds is not None:
            connection.expire_in(seconds)


def _check_count(many: Sized, most: int | None, setting: str) -> None:
    if most is not None and len(many) > most:
        sentence = f"{most} such connections are open already ({setting})."
        raise falcon.HTTPTooManyRequests(description=sentence)


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
