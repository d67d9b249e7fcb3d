"""How a handshake is asked about: by whom, in which order, and whose answer counts.

The first answer wins, and is a value: `Accepted`, `Denied` or `Gone`. Whoever
comes after it is not asked. The host, the origin, the number of connections and
the identity come before the resource is made; then hooks, parents and resource.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence, Sized
from typing import Any, NamedTuple, TypeAlias

import falcon
import falcon.asgi

from falcon_pachinko.connection.connection import Connection, chosen_subprotocol
from falcon_pachinko.connection.inbox import Inbox
from falcon_pachinko.errors import MessageError, SetupError
from falcon_pachinko.messages.hooks import HookChain
from falcon_pachinko.messages.outcomes import sole_error
from falcon_pachinko.session.admission import Admission

__all__ = ["Accepted", "Arguments", "Denied", "Gone", "Handshake", "Outcome", "closed_early"]

log = logging.getLogger("falcon_pachinko")

RETRY_AFTER = 1
"""Seconds after which a client may come back that was turned away by a server going down."""

_LATER = (1001, 1012, 1013)  # going away, restart, overloaded


class Accepted(NamedTuple):
    """The client is in, even if somebody has closed the connection since."""


class Denied(NamedTuple):
    """The client is not let in."""

    error: BaseException | None = None
    """Why: an HTTP error or status; another exception is for Falcon's error handlers."""
    close: tuple[int, str] | None = None
    """The code and reason, where the application closed instead."""
    readable: bool = True
    """Whether a browser may be told why."""


class Gone(NamedTuple):
    """The client left before there was an answer."""


Outcome: TypeAlias = Accepted | Denied | Gone

Arguments: TypeAlias = tuple[Collection[str], "Callable[[str], Any] | None"]
"""What one ``on_connect`` gets: which of the path's fields, and what reads its ``query``."""

Attend = Callable[[Any], Any]
"""How a session awaits a decision that may take long."""


class Handshake:
    """One handshake.

    Args:
        req: The request.
        params: The fields of its path.
        arguments: What each ``on_connect`` gets, outermost parent first.
        make: Makes the resource, with its parents.
        admission: What the app's settings say about hosts, origins and identity.
        hooks: The route's hooks.
    """

    __slots__ = ("admission", "arguments", "hooks", "make", "params", "req", "welcomed")

    def __init__(
        self,
        req: falcon.asgi.Request,
        params: Mapping[str, Any],
        arguments: Sequence[Arguments],
        make: Callable[[], Coroutine[Any, Any, Any]],
        *,
        admission: Admission,
        hooks: HookChain,
    ) -> None:
        self.req, self.params, self.arguments, self.make = req, params, arguments, make
        self.admission, self.hooks = admission, hooks
        self.welcomed: list[Any] = []
        """The resources that get an ``on_disconnect``: whose ``on_connect`` returned True,
        or during whose ``on_connect`` the connection was accepted. Outermost first."""

    async def settle(self, connection: Connection, inbox: Inbox, attend: Attend) -> Outcome:
        """Ask everybody until one has answered; on acceptance, the answer is sent."""
        try:
            return await self._ask(connection, inbox, attend)
        except falcon.WebSocketDisconnected as error:
            if connection.closed:
                return self._ending(connection, inbox) or Gone()
            return self._failed(connection, error)
        except (falcon.HTTPError, falcon.HTTPStatus) as error:
            if error.status_code < 300:  # success, which is no answer to a handshake
                return self._failed(connection, error)
            return self._refused(connection, error)
        except MessageError as error:
            return self._refused(connection, _denial_of(error))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            stray = RuntimeError("CancelledError, raised by the application itself")
            stray.__cause__ = error
            return self._failed(connection, stray)
        except Exception as error:  # noqa: BLE001  # raised again for Falcon's handlers, or logged
            only = sole_error(error) if isinstance(error, ExceptionGroup) else None
            if only is None:
                return self._failed(connection, error)
            return self._refused(connection, _denial_of(only))

    async def _ask(self, connection: Connection, inbox: Inbox, attend: Attend) -> Outcome:
        refusal = self._turned_away(connection)
        if refusal is not None:
            return refusal
        await attend(self._identify(connection))
        ended = self._ending(connection, inbox)
        if ended is not None:
            return ended
        connection.resource = resource = await attend(self.make())
        ended = self._ending(connection, inbox)
        if ended is not None:
            return ended
        chosen = chosen_subprotocol(connection.subprotocols, resource.subprotocols)
        if chosen is not None:
            connection._speak(chosen, connection.manager._codecs.of(chosen))
        for hook in self.hooks.before_connect:
            await attend(hook(self.req, connection, self.params))
            ended = self._ending(connection, inbox)
            if ended is not None:
                return ended
        connection.manager._revocations.identified(connection)
        ended = self._ending(connection, inbox)
        if ended is not None:
            return ended
        for each, (names, read_query) in zip(_line(resource), self.arguments, strict=True):
            each.ws = connection
            given = {name: self.params[name] for name in names}
            if read_query is not None:
                given["query"] = read_query(self.req.query_string)
            ended = await self._ask_one(each, given, connection, inbox, attend)
            if ended is not None:
                return ended
        if connection.unaccepted:
            await connection.accept()
        for hook in self.hooks.after_connect:
            await attend(hook(self.req, connection))
            if connection.closed:
                break
        return Accepted()

    async def _ask_one(
        self,
        resource: Any,
        given: dict[str, Any],
        connection: Connection,
        inbox: Inbox,
        attend: Attend,
    ) -> Outcome | None:
        """Ask one ``on_connect``; return the outcome if this decides it."""
        was_accepted, decision = connection.accepted, None
        try:
            decision = await attend(resource.on_connect(self.req, connection, **given))
        finally:
            if decision is True or (connection.accepted and not was_accepted):
                self.welcomed.append(resource)
        ended = self._ending(connection, inbox)
        if ended is not None:
            return ended
        if decision is False:
            return self._refused(connection, falcon.HTTPForbidden())
        if decision is not True and connection.unaccepted:
            raise SetupError(
                f"{type(resource).__name__}.on_connect returned {decision!r:.200}; "
                "return True to accept the connection, or False to deny it"
            )
        return None

    def _ending(self, connection: Connection, inbox: Inbox) -> Outcome | None:
        """Return the outcome if somebody has closed meanwhile, or the client has gone."""
        if connection.accepted:
            return Accepted() if connection.closed or inbox.gone else None
        connection.manager._revocations.apply(connection)
        if inbox.gone:
            return Gone()
        if connection.closed:
            code = connection.close_code
            return Gone() if code is None else closed_early(code, connection.close_reason)
        return None

    def _refused(
        self, connection: Connection, error: falcon.HTTPError | falcon.HTTPStatus
    ) -> Outcome:
        """Deny with a status, or close with 3000 and the status where it is too late for that."""
        if not connection.accepted:
            return Denied(error)
        title = getattr(error, "title", None) or ""
        connection._outbox.close(3000 + error.status_code, title)  # see session
        return Accepted()

    def _failed(self, connection: Connection, error: BaseException) -> Outcome:
        """Leave an error to Falcon as long as that can answer it; else close."""
        if not connection.accepted:
            return Denied(error)
        log.error(
            "%s failed after it was accepted", type(connection.resource).__name__,
            exc_info=error, extra=connection._outbox.where(),  # see session
        )  # fmt: skip
        connection._outbox.close(1011, "internal error")  # see session
        return Accepted()

    def _turned_away(self, connection: Connection) -> Denied | None:
        """Return a denial for what is decided without asking anybody's code."""
        manager, limits = connection.manager, connection.limits
        self.admission.check(self.req.scope)
        if limits.connections is not None and len(manager._registry) > limits.connections:
            sentence = f"The limit of {limits.connections} connections is reached (connections)."
            error = falcon.HTTPServiceUnavailable(description=sentence)
            return Denied(error, readable=False)
        address = connection._address  # the registry counts by it
        if address is not None:
            there = manager._registry.at_address(address)
            full = _full(there, limits.connections_per_address, "connections_per_address")
            if full is not None:
                return Denied(full, readable=False)
        if manager._draining:
            return Denied(
                falcon.HTTPServiceUnavailable(
                    description="The server is going down.", retry_after=RETRY_AFTER
                )
            )
        return None

    async def _identify(self, connection: Connection) -> None:
        """Find out who the client is, and whether one more connection of that user may come.

        Raises:
            falcon.HTTPError: ``authenticate`` denies, or there are too many.
        """
        manager, limits = connection.manager, connection.limits
        principal = await self.admission.identify(self.req)
        if principal is None:
            return
        connection.user_id = principal.user_id
        there = manager._registry.of_user(principal.user_id)
        full = _full(there, limits.connections_per_user, "connections_per_user")
        if full is not None:
            raise full
        tags = set(principal.tags)
        if limits.tags is not None and len(tags) > limits.tags:
            log.warning(
                "denied a handshake: authenticate gave %d tags, and %d are allowed (Limits.tags)",
                len(tags), limits.tags,
            )  # fmt: skip
            raise falcon.HTTPForbidden(description="This user is not admitted.")
        for tag in tags:
            manager._registry.tag(connection, tag)
        seconds = principal.seconds_left()
        if seconds is not None:
            connection._expire_in(seconds)  # only the handshake may
        await manager._live("user", principal.user_id)  # what is sent to the user arrives


def closed_early(code: int, reason: str) -> Denied:
    """Return the denial that a close before the accept comes to.

    Without the code, all that a client sees is a status, and 403 would tell it never to
    come back: so a code that says "later" has one that says so too.

    >>> closed_early(4401, "").error is None, closed_early(1012, "").error.status_code
    (True, 503)
    """
    error = None
    if code in _LATER:
        error = falcon.HTTPServiceUnavailable(
            description=reason or "The server is going down.", retry_after=RETRY_AFTER
        )
    return Denied(error, (code, reason))


def _denial_of(error: MessageError | falcon.HTTPError) -> falcon.HTTPError:
    """Return the HTTP error with which what was raised denies."""
    if isinstance(error, falcon.HTTPError):
        return error
    return falcon.HTTPError(
        error.status or 400, title=error.code, description=error.message or None
    )


def _line(resource: Any) -> list[Any]:
    """Return the resource and its parents, outermost first."""
    line = []
    while resource is not None:
        line.append(resource)
        resource = resource.parent
    return line[::-1]


def _full(there: Sized, most: int | None, setting: str) -> falcon.HTTPError | None:
    if most is None or len(there) <= most:
        return None
    sentence = f"The limit of {most} such connections is reached ({setting})."
    return falcon.HTTPTooManyRequests(description=sentence)
