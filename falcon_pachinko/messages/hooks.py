"""What runs around a resource's own methods: layers, from the app to the resource.

A hook is an object; subclass `Hook` and override what you need. Hooks stand at
three tiers, the app's outside, then those of routers, then the resource's own.
What comes before something runs from the outside in, what comes after it and
what ends a connection from the inside out; a layer's ``after`` runs if and only
if the layer was entered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple

from falcon_pachinko.errors import HandlerDefinitionError
from falcon_pachinko.messages.handlers import require_coroutine

__all__ = ["Hook", "HookChain", "ReceivedMessage"]

POINTS = (
    "before_connect",
    "after_connect",
    "before_message",
    "after_message",
    "before_disconnect",
)


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

    Example::

        class Timed(Hook):
            async def before_message(self, ws, message):
                ws.state.began = time.perf_counter()

            async def after_message(self, ws, message, error):
                seconds = time.perf_counter() - ws.state.began
                log.info("%s took %.1f ms", message.type, seconds * 1000)
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


_Method = Callable[..., Coroutine[Any, Any, Any]]
_Layer = tuple[_Method | None, _Method | None]


class HookChain:
    """The hooks of one route, sorted by what they override, made once.

    A point that no hook overrides costs nothing: its tuple is empty.
    """

    __slots__ = ("after_connect", "before_connect", "before_disconnect", "hooks", "layers")

    def __init__(self, hooks: Iterable[object] = ()) -> None:
        self.hooks = tuple(hooks)
        for hook in self.hooks:
            _check(hook)
        self.before_connect = self._overridden("before_connect")
        self.after_connect = self._overridden("after_connect")
        self.before_disconnect = self._overridden("before_disconnect")[::-1]
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

    def _overridden(self, point: str) -> tuple[_Method, ...]:
        methods = (_overridden(hook, point) for hook in self.hooks)
        return tuple(method for method in methods if method is not None)


def _overridden(hook: object, point: str) -> _Method | None:
    """Return a hook's method for a point; None if it has none of its own."""
    method: _Method | None = getattr(hook, point, None)
    plain = getattr(method, "__func__", method) is getattr(Hook, point)
    return None if plain else method


def _check(hook: object) -> None:
    """Refuse an object that could never be a hook.

    Raises:
        HandlerDefinitionError: It is a class, has none of the points, or one is no coroutine.
    """
    name = hook.__name__ if isinstance(hook, type) else type(hook).__name__
    if isinstance(hook, type):
        raise HandlerDefinitionError(name, f"is a class; hooks are instances: {name}()")
    points = [point for point in POINTS if hasattr(hook, point)]
    if not points:
        raise HandlerDefinitionError(name, f"is no hook: it has none of {', '.join(POINTS)}")
    for point in points:
        require_coroutine(getattr(hook, point), "is awaited by the library")
