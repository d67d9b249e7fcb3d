"""How a handshake is asked about and answered: accepted, or denied with a status that says why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence, Sized
from typing import Any

import falcon
import falcon.asgi

from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.errors import MessageError, SetupError
from falcon_pachinko.messages.hooks import HookChain
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.session.admission import Admission
from falcon_pachinko.session.gate import Gate

__all__ = ["Handshake"]

log = logging.getLogger("falcon_pachinko")


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
            if connection.user_id is not None:  # what is sent to its user arrives
                channel = f"user:{connection.user_id}"
                await connection.manager.cluster.subscriptions.live(channel)
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
