"""Shows what travels over every WebSocket, frame by frame, as it happens.

It stands around the app, between it and uvicorn, and sees the frames; and it is the outermost hook
of every route, which sees the handlers.  Neither is there unless a trace is asked for.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from falcon_pachinko import Hook
from falcon_pachinko.app import installed
from falcon_pachinko.messages.hooks import HookChain
from falcon_pachinko.session.gate import Gate
from pachinko_cli.server.log import opens_something, redact, wants_colours

if TYPE_CHECKING:
    from falcon_pachinko.messages.hooks import ReceivedMessage
    from falcon_pachinko.typing import AsgiEvent, AsgiReceive, AsgiSend, Scope
    from pachinko_cli.console import Console

SHOWN = 200
"""How many characters of a frame are shown."""

_ID = 6  # characters at the end of a connection's id, which begins with that of its process
_KEY = "pachinko_cli.trace"
_RESPONSE = "websocket.http.response"
_COLOURS = {"in": 36, "out": 32, "done": 2, "failed": 31, "denied": 33, "open": 1, "closed": 2}
_PAIR = re.compile(r"""(["']?)([\w.-]+)\1(\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s&,;}"']+)""")


class Tracer(Hook):
    """Writes a line for each thing that happens on a WebSocket, or with `--json` an event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._colours = wants_colours()
        self._started: dict[int, float] = {}  # by the identity of a message, while it is handled
        self._wires: WeakKeyDictionary[Any, Wire] = WeakKeyDictionary()  # by connection

    def around(self, app: Any) -> Any:
        """Put it around an app, and around the handlers of all its routes."""
        pachinko = installed(app)
        for route in pachinko.routes if pachinko else ():
            route.hooks = HookChain((self, *route.hooks.hooks))

        async def traced(scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
            if scope["type"] != "websocket":
                await app(scope, receive, send)
                return
            wire = Wire(self, scope, receive, send)
            try:
                await app(scope, wire.receive, wire.send)
            finally:
                wire.end()

        return traced

    def tell(self, what: str, wire: Wire, words: str, **fields: Any) -> None:
        """Write what has happened: `words` for people, `fields` for machines."""
        now = datetime.now().astimezone()
        connection = wire.connection_id
        if self._console.as_json:
            time_of = {"time": now.isoformat(timespec="milliseconds")}
            place = {"connection": connection, "route": wire.route, "path": wire.target}
            self._console.event("trace", what=what, **time_of, **place, **fields)
            return
        label = f"{what:<6}"
        if self._colours:
            label = f"\x1b[{_COLOURS[what]}m{label}\x1b[0m"
        stamp = f"{now:%H:%M:%S}.{now.microsecond // 1000:03}"
        with contextlib.suppress(OSError):  # nobody reads it any more
            # One write, so that the lines of several processes do not mix.
            sys.stderr.write(f"{stamp}  {connection[-_ID:] or '-':<{_ID}}  {label}  {words}\n")
            sys.stderr.flush()

    async def before_connect(self, req: Any, ws: Any, params: Any) -> None:
        """Note which connection a wire is of."""
        wire = req.scope.get(_KEY)
        if wire is not None:
            wire.connection = ws
            self._wires[ws] = wire

    async def before_message(self, ws: Any, message: ReceivedMessage) -> None:
        """Note when a handler begins."""
        self._started[id(message)] = time.perf_counter()

    async def after_message(
        self, ws: Any, message: ReceivedMessage, error: BaseException | None
    ) -> None:
        """Tell what a handler did, and how long that took."""
        seconds = time.perf_counter() - self._started.pop(id(message))
        wire = self._wires.get(ws)
        if wire is None:  # somebody between us and the app has changed the scope
            return
        handler = _handler_of(ws.resource, message.type)
        words = f"{_plain(message.type or '-'):<12}  {seconds * 1000:>8.1f} ms  {handler}"
        if error is not None:
            words += f"  {type(error).__name__}"
        self.tell(
            "done" if error is None else "failed",
            wire,
            words,
            type=message.type,
            handler=handler,
            seconds=round(seconds, 6),
            error=None if error is None else type(error).__name__,
        )


class Wire:
    """One WebSocket between uvicorn and the app: passes everything on, and tells of it."""

    def __init__(self, tracer: Tracer, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        self.connection: Any = None
        self.target = _target(scope)
        self._tracer, self._receive, self._send = tracer, receive, send
        self._began = time.monotonic()
        self._is_open = self._is_over = False
        self._is_denial = False  # whether it was accepted only to tell why it is denied
        self._status = 403
        self._scope = scope
        scope[_KEY] = self

    @property
    def connection_id(self) -> str:
        """The connection's id; empty before it has one, and where the library has no part in it."""
        return self.connection.id if self.connection is not None else ""

    @property
    def route(self) -> str:
        """The template of its route, where that is known."""
        return self.connection.route if self.connection is not None else ""

    @property
    def transport(self) -> Any:
        """The server's own, which the library looks for behind `send` to cut a connection."""
        return getattr(getattr(self._send, "__self__", None), "transport", None)

    async def receive(self) -> AsgiEvent:
        """Pass on what the client sent."""
        event = await self._receive()
        if event["type"] == "websocket.receive":
            self._tell_frame("in", event)
        elif event["type"] == "websocket.disconnect":
            self._tell_end("the client", event.get("code"), event.get("reason"))
        return event

    async def send(self, event: AsgiEvent) -> None:
        """Pass on what the app sends; told when it has left."""
        await self._send(event)
        kind = event["type"]
        if kind == "websocket.send":
            self._tell_frame("out", event)
        elif kind == "websocket.accept" and self._is_being_denied():
            self._is_denial = True
        elif kind == "websocket.accept":
            self._is_open = True
            subprotocol = event.get("subprotocol")
            words = [self.target, self.route or "a responder of its own"]
            words += [subprotocol] if subprotocol else []
            self._tracer.tell("open", self, "  ".join(words), subprotocol=subprotocol)
        elif kind == "websocket.close" and self._is_open:
            self._tell_end("the server", event.get("code", 1000), event.get("reason"))
        elif kind == "websocket.close" and self._is_denial:
            code = event["code"]
            self._tell_denial(code - 3000 if 3300 <= code <= 3599 else 403, event["reason"], code)
        elif kind == "websocket.close":
            self._tell_denial(403, "")
        elif kind == f"{_RESPONSE}.start":
            self._status = event["status"]
        elif kind == f"{_RESPONSE}.body":
            self._tell_denial(self._status, event.get("body", b"").decode(errors="replace"))

    def end(self) -> None:
        """The app is done with it; if no close was seen by now, there is none to be seen."""
        if self._is_open:
            self._tell_end("nobody", 1006, "")

    def _tell_frame(self, what: str, event: AsgiEvent) -> None:
        text = event.get("text")
        frame = event.get("bytes", b"") if text is None else text
        name, shown = _read(frame, self._decodes_msgpack)
        size = len(frame if isinstance(frame, bytes) else frame.encode("utf-8", "surrogatepass"))
        words = f"{_plain(name or '-'):<12}  {size:>8} B   {shown}"
        self._tracer.tell(what, self, words, type=name, bytes=size, frame=shown)

    @property
    def _decodes_msgpack(self) -> bool:
        return getattr(self.connection, "subprotocol", None) == "pachinko.msgpack"

    def _is_being_denied(self) -> bool:
        gate = Gate.of(self._scope)
        return gate is not None and gate.denies

    def _tell_denial(self, status: int, body: str, code: int | None = None) -> None:
        if not self._is_over:
            self._is_over = True
            words = f"{status}  {self.target}  {_cut(body) if body else ''}".rstrip()
            if code is not None:
                words += f"  (told by closing with {code})"
            self._tracer.tell("denied", self, words, status=status, code=code, body=_cut(body))

    def _tell_end(self, by: str, code: int | None, reason: str | None) -> None:
        if self._is_over or not self._is_open:
            return
        self._is_over = True
        seconds = time.monotonic() - self._began
        words = f"{code or 1005} by {by} after {seconds:.1f} s"
        if reason:
            words += f": {_cut(reason)}"
        fields = {"code": code, "reason": _cut(reason or ""), "seconds": round(seconds, 3)}
        self._tracer.tell("closed", self, words, by=by, **fields)


def _handler_of(resource: Any, message_type: str | None) -> str:
    handler = resource.__pachinko_table__.handlers.get(message_type)
    if handler is None:
        return f"{type(resource).__name__}.on_message"
    name: str = getattr(handler.function, "__qualname__", handler.name)
    return name.rpartition("<locals>.")[2]


def _target(scope: Scope) -> str:
    raw = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    target = (raw + b"?" + query if query else raw).decode("ascii", "backslashreplace")
    return _plain(redact(target))


def _read(frame: str | bytes, is_msgpack: bool) -> tuple[str | None, str]:  # noqa: FBT001 - the codec
    """The type of a frame's message, and the frame as it may be shown."""
    message: Any = None
    try:
        if isinstance(frame, str):
            message = json.loads(frame)
        elif is_msgpack:
            message = msgspec.msgpack.decode(frame)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        pass  # shown as it is
    if isinstance(message, (dict, list)):
        name = message.get("type") if isinstance(message, dict) else None
        try:
            text = json.dumps(_redacted(message), ensure_ascii=False, default=repr)
        except (RecursionError, TypeError):  # deep, or with keys that JSON does not have
            return None, _cut(frame)
        return name if isinstance(name, str) else None, _cut(text)
    return None, _cut(_PAIR.sub(_redacted_pair, frame) if isinstance(frame, str) else frame)


def _redacted(message: Any) -> Any:
    """A message with `***` in place of what goes by the name of a secret."""
    if isinstance(message, dict):
        return {
            name: "***" if isinstance(name, str) and opens_something(name) else _redacted(value)
            for name, value in message.items()
        }
    return [_redacted(each) for each in message] if isinstance(message, list) else message


def _redacted_pair(match: re.Match[str]) -> str:
    quote, name, equals, _ = match.groups()
    return f"{quote}{name}{quote}{equals}***" if opens_something(name) else match[0]


def _cut(frame: str | bytes) -> str:
    """A frame between quotes, control characters escaped, and no more of it than is shown."""
    shown = repr(frame[:SHOWN])
    cut = len(frame) > SHOWN or len(shown) > SHOWN
    return f"{shown[:SHOWN]}…" if cut else shown


def _plain(text: str) -> str:
    """A name or an address that somebody else chose, without anything that moves a cursor."""
    short = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return short if short.isprintable() else repr(short)[1:-1]
