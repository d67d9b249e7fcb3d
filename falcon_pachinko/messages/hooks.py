"""What runs around a resource's own methods: layers, from the app to the resource.

A hook is an object; subclass `Hook` and override what you need. Hooks stand at
three tiers, the app's outside, then those of routers, then the resource's own.
``before_connect``, ``after_connect`` and ``before_message`` run from the outside
in, ``after_message`` and ``before_disconnect`` from the inside out; an
``after_message`` runs if and only if its layer was entered. ``on_refused`` is
asked from the outside in, until one answers.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple

from falcon_pachinko.errors import HandlerDefinitionError, MessageError
from falcon_pachinko.messages.signatures import name_of, require_callback

__all__ = ["Hook", "HookChain", "ReceivedMessage", "as_hooks"]

POINTS = {
    "before_connect": ("req", "ws", "params"),
    "after_connect": ("req", "ws"),
    "before_message": ("ws", "message"),
    "after_message": ("ws", "message", "error"),
    "before_disconnect": ("ws", "close_code"),
    "on_refused": ("ws", "refusal", "frame"),
}
"""What the library calls of a hook, and with what."""

log = logging.getLogger("falcon_pachinko")


class ReceivedMessage(NamedTuple):
    """One message of a client, as hooks see it."""

    type: str | None
    """The message's type; None for a frame that ``on_message`` takes."""
    payload: Any
    """The decoded payload (in schema style the struct), or the frame itself."""
    ref: str | int | None
    """The client's mark on it."""


class Hook:
    """One layer around a connection's life; override what you need.

    What is raised before a connection is accepted denies it (`falcon.HTTPError`
    with its status, anything else with 500, logged). What is raised around a
    message becomes that message's one answer, as if the handler had raised it.
    ``after_connect`` that raises closes with 1011; ``before_disconnect`` that
    raises is logged, and the clean-up goes on.

    ``before_message`` and ``after_message`` of one message get the same object, by
    which they can find each other's values. ``ws.state`` is not the place for those:
    with ``concurrent=True``, several messages of a connection are handled at once.

    Example::

        class Timed(Hook):
            def __init__(self):
                self.began = {}

            async def before_message(self, ws, message):
                self.began[id(message)] = time.perf_counter()

            async def after_message(self, ws, message, error):
                seconds = time.perf_counter() - self.began.pop(id(message))
                log.info("%r took %.1f ms", message.type, seconds * 1000)
    """

    async def before_connect(self, req: Any, ws: Any, params: Mapping[str, Any]) -> None:
        """Run before ``on_connect``, with the route's parameters; raise to deny."""

    async def after_connect(self, req: Any, ws: Any) -> None:
        """Run when the connection is accepted, before its first message."""

    async def before_message(self, ws: Any, message: ReceivedMessage) -> None:
        """Run before a message's handler; raise `MessageError` to refuse it."""

    async def after_message(
        self, ws: Any, message: ReceivedMessage, error: BaseException | None
    ) -> None:
        """Run after a message's handler, before the answer; ``error`` is what it raised."""

    async def before_disconnect(self, ws: Any, close_code: int) -> None:
        """Run once for every accepted connection, before ``on_disconnect``."""

    async def on_refused(
        self, ws: Any, refusal: MessageError, frame: str | bytes
    ) -> MessageError | None:
        """See a message that the library turned away before any hook or handler was called.

        Args:
            ws: The connection.
            refusal: The error that is about to be sent.
            frame: The message as it came.

        Returns:
            Another `MessageError` to send instead; hooks further inside are not asked
            then. Anything else counts as None.
        """
        return None


_Method = Callable[..., Coroutine[Any, Any, Any]]
_Layer = tuple[_Method | None, _Method | None]


class HookChain:
    """The hooks of one route, sorted by what they override, made once.

    A point that no hook overrides costs nothing: its tuple is empty.
    """

    __slots__ = (
        "after_connect",
        "before_connect",
        "before_disconnect",
        "hooks",
        "layers",
        "on_refused",
    )

    def __init__(self, hooks: Iterable[object] = ()) -> None:
        self.hooks = tuple(hooks)
        for hook in self.hooks:
            _check(hook)
        self.before_connect = self._overridden("before_connect")
        self.after_connect = self._overridden("after_connect")
        self.before_disconnect = self._overridden("before_disconnect")[::-1]
        self.on_refused = self._overridden("on_refused")
        layers = (
            (_overridden(hook, "before_message"), _overridden(hook, "after_message"))
            for hook in self.hooks
        )
        self.layers: tuple[_Layer, ...] = tuple(layer for layer in layers if any(layer))

    async def around(
        self,
        ws: Any,
        message: ReceivedMessage,
        handling: Callable[[], Awaitable[Any]],
        depth: int = 0,
    ) -> Any:
        """Run a message's handler within its layers, and return what it returned."""
        if depth == len(self.layers):
            return await handling()
        before, after = self.layers[depth]
        if before is not None:
            await before(ws, message)
        try:
            answer = await self.around(ws, message, handling, depth + 1)
        except BaseException as error:
            if after is not None:
                await after(ws, message, error)
            raise
        if after is not None:
            await after(ws, message, None)
        return answer

    async def refused(
        self, ws: Any, refusal: MessageError, frame: str | bytes, own: _Method | None = None
    ) -> MessageError:
        """Ask what to tell the client about a message that was refused.

        Args:
            ws: The connection.
            refusal: What would be sent.
            frame: The message as it came.
            own: The resource's own ``on_refused``, asked last; None if it has none.

        Returns:
            The first `MessageError` that a hook or the resource returned, else ``refusal``.
            What one of them raises is logged, and counts as None.
        """
        for ask in self.on_refused if own is None else (*self.on_refused, own):
            try:
                answer = await ask(ws, refusal, frame)
            except Exception:
                name = getattr(ask, "__qualname__", repr(ask))
                log.exception("%s failed on a refused message (%.200r)", name, refusal.code)
                continue
            if isinstance(answer, MessageError):
                return answer
        return refusal

    def _overridden(self, point: str) -> tuple[_Method, ...]:
        methods = (_overridden(hook, point) for hook in self.hooks)
        return tuple(method for method in methods if method is not None)


def _overridden(hook: object, point: str) -> _Method | None:
    """Return a hook's method for a point; None if it has none of its own."""
    method: _Method | None = getattr(hook, point, None)
    plain = getattr(method, "__func__", method) is getattr(Hook, point)
    return None if plain else method


def as_hooks(given: Any, owner: str) -> tuple[object, ...]:
    """Return hooks as a tuple, and refuse what could never be one.

    Args:
        given: What ``hooks`` was set to.
        owner: Where, for the error.

    Raises:
        HandlerDefinitionError: It is not a list of hooks; see `HookChain`.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise HandlerDefinitionError(owner, f"has hooks={given!r:.200}; give a list of hooks")
    return HookChain(given).hooks


def _check(hook: object) -> None:
    """Refuse an object that could never be a hook.

    Raises:
        HandlerDefinitionError: It is a class, has none of the points, or one of them is not
            a coroutine or cannot take what it is called with.
    """
    name = hook.__name__ if isinstance(hook, type) else type(hook).__name__
    if inspect.isroutine(hook) or isinstance(hook, functools.partial):
        raise HandlerDefinitionError(
            name_of(hook),
            "is a function, and a hook is an object with one of the methods "
            f"{', '.join(POINTS)}; write a class derived from Hook, and give an instance",
        )
    if isinstance(hook, type):
        raise HandlerDefinitionError(name, f"is a class; hooks are instances: {name}()")
    points = [point for point in POINTS if hasattr(hook, point)]
    if not points:
        raise HandlerDefinitionError(name, f"is not a hook: it has none of {', '.join(POINTS)}")
    for point in points:
        method = getattr(hook, point)
        require_callback(method, point, POINTS[point])
