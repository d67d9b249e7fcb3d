"""One connection as a client has it, from the handshake to the close, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import websockets.asyncio.client as websockets_client
import websockets.exceptions as ws_errors

from pachinko_cli.client import display, refusals
from pachinko_cli.client.address import Address
from pachinko_cli.client.input import Lines
from pachinko_cli.client.lines import HELP, Ask, Close, Message, read
from pachinko_cli.client.vocabulary import MessageRefusedError, Vocabulary
from pachinko_cli.console import Console, fail, note
from pachinko_cli.errors import CliError, InterruptedByUserError

QUIET = 1.0
"""Seconds without a frame after which a conversation on a pipe is over."""

_CLOSE_SECONDS = 2.0  # what the server gets to answer our close frame
_MOST_BYTES = 2**26  # of one message that comes: a wrong server shall not fill the memory
_SHOWN = 10  # what came instead of what was expected


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to say to whom, and what to wait for.

    `timeout` seconds are for the handshake, and again for all that is expected.
    """

    to: Address
    words: Vocabulary
    console: Console
    lines: Lines
    headers: tuple[tuple[str, str], ...] = ()
    origin: str | None = None
    subprotocols: tuple[str, ...] = ()
    send: tuple[str, ...] = ()
    expect: tuple[str, ...] = ()
    timeout: float = 10.0
    check: bool = True
    marks_frames: bool = False
    """Whether stdout is a terminal, where `< ` stands before what came."""


class NotExpectedError(CliError):
    """What was expected did not come; `missing` are types, `came` what came since `after`."""

    def __init__(self, missing: list[str], came: list[str], why: str, after: str = "") -> None:
        self.missing, self.came = missing, came
        since = f" after {after}" if after else ""
        others = len(came) - _SHOWN
        earlier = f"{others} earlier ones; " if others > 0 else ""
        super().__init__(
            f"{', '.join(missing)} did not come{why}",
            hint=f"what came{since}: {earlier}{'; '.join(came[-_SHOWN:])}"
            if came
            else f"nothing came{since or ' at all'}",
        )


def message_of(line: str, plan: Plan) -> Message | Close | Ask | None:
    """What a line means, after it was checked against what the route takes.

    Raises:
        MessageRefusedError: The server would refuse it, or it means nothing.
    """
    meant = read(line, plan.words)
    is_binary = display.MSGPACK in plan.subprotocols
    if isinstance(meant, Message) and plan.check and (not meant.is_plain or is_binary):
        plan.words.check(meant.text)
    return meant


async def hold(plan: Plan) -> None:
    """Connect, talk, and close; returns when all that was wanted has happened.

    Raises:
        CliError: It did not: no connection, an expectation that was not met, a server that closed
            with anything but 1000, a line that could not be sent.
        InterruptedByUserError: Ctrl-C or SIGTERM while something was pending.
    """
    stop = asyncio.Event()
    with _signals(stop):
        opened = await _unless(stop, _open(plan))
        if opened is None:
            raise InterruptedByUserError("interrupted during the handshake")
        await Conversation(plan, opened, stop).run()


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C is a KeyboardInterrupt
            loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in numbers:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` gives; None if `stop` was set before that, and then it is cancelled."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.wait((working,))
    return None


async def _open(plan: Plan) -> websockets_client.ClientConnection:
    try:
        connection = await websockets_client.connect(
            plan.to.url,
            additional_headers=list(plan.headers),
            origin=plan.origin,  # type: ignore[arg-type]  # a NewType of str
            subprotocols=plan.subprotocols or None,  # type: ignore[arg-type]  # see above
            open_timeout=plan.timeout,
            close_timeout=_CLOSE_SECONDS,
            user_agent_header="pachinko connect",
            max_size=_MOST_BYTES,
            proxy=None if plan.to.is_local else True,
        )
    except (OSError, EOFError, ImportError, ValueError, ws_errors.WebSocketException) as error:
        raise refusals.not_opened(
            error, plan.to, plan.words, offered=plan.subprotocols, seconds=plan.timeout
        ) from error
    if plan.subprotocols and connection.subprotocol is None:
        await connection.close()
        raise refusals.no_subprotocol(plan.to, plan.words, plan.subprotocols)
    return connection


@dataclass
class Conversation:
    """An open connection: what is sent, what comes, and what is still missing."""

    plan: Plan
    ws: websockets_client.ClientConnection
    stop: asyncio.Event
    unsent: int = 0
    _missing: deque[str] = field(default_factory=deque)
    _came: list[str] = field(default_factory=list)
    _matched: str = ""
    _met: asyncio.Event = field(default_factory=asyncio.Event)
    _last: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._missing.extend(self.plan.expect)
        self.unsent = len(self.plan.send)
        self.console, self.is_binary = self.plan.console, self.ws.subprotocol == display.MSGPACK

    async def run(self) -> None:
        """Talk until one side has had enough, and close.

        Raises:
            CliError: As `hold` says.
        """
        self._announce()
        talking = asyncio.ensure_future(self._talk())  # first: frames come above the prompt
        listening = asyncio.ensure_future(self._listen())
        met, stopped = (asyncio.ensure_future(each.wait()) for each in (self._met, self.stop))
        everything = (listening, talking, met, stopped)
        wish, by_server = Close(), False
        try:
            await asyncio.wait(
                everything,
                timeout=self.plan.timeout if self.plan.expect else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            by_server = listening.done() and not self._met.is_set()
            if talking.done():
                wish = talking.result() or wish
        finally:
            for each in (talking, met, stopped):
                each.cancel()
            await asyncio.wait((talking, met, stopped))
            await self.ws.close(wish.code, wish.reason)
            await asyncio.wait((listening,))
            if listening.exception() is None:  # else nobody reads what it would say
                self._report_close(by_server=by_server)
        listening.result()
        self._judge(by_server=by_server)

    def _report_close(self, *, by_server: bool) -> None:
        code, reason = self.ws.close_code or 1006, self.ws.close_reason or ""
        self.console.event(
            "closed", code=code, reason=reason, by="server" if by_server else "client"
        )
        if not by_server:
            said = display.printable(f" {reason}" if reason else "")
            self._tell(f"Closed: {code}{said} ({display.meaning(code)})")

    def _judge(self, *, by_server: bool) -> None:
        """Raise what `run` says, unless all is well."""
        why = f" within {self.plan.timeout:g} s"
        if by_server:
            code = self.ws.close_code or 1006
            closed = refusals.closed_by_server(code, self.ws.close_reason or "")
            if code not in {1000, 1005} and not self._missing:
                raise closed
            self._tell(f"{closed.message[0].upper()}{closed.message[1:]}")
            why = f": {closed.message}"
        elif self.stop.is_set() and (self._missing or self.unsent):
            what = f"before {self._missing[0]} came" if self._missing else "before all was sent"
            raise InterruptedByUserError(f"interrupted {what}")
        if self._missing:
            raise NotExpectedError([*self._missing], self._came, why, self._matched)

    async def _listen(self) -> None:
        """Show what comes, until the connection is closed."""
        with contextlib.suppress(ws_errors.ConnectionClosed):
            async for frame in self.ws:
                if self._met.is_set():
                    continue
                try:
                    self._receive(display.Received(frame, msgpack=self.is_binary))
                except SystemExit:  # Rich's way to say that nobody reads stdout any more
                    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None

    def _receive(self, came: display.Received) -> None:
        self._last = time.monotonic()
        self.console.event("received", **came.fields)
        mark = "< " if self.plan.marks_frames else ""
        with self.plan.lines.aside():
            self.console.line(mark + came.line, style="red" if came.type == "error" else "")
        if not self.plan.expect:
            return
        if self._missing and came.type == self._missing[0]:
            self._matched = self._missing.popleft()
            self._came.clear()
        else:
            self._came.append(came.summary)
        if not self._missing:
            self._met.set()

    async def _talk(self) -> Close | None:
        """Send what is to be sent; returns when there is no more to say.

        With expectations it never returns: those end the conversation.
        """
        for line in self.plan.send:
            if wish := await self._say(line, is_typed=False):
                return wish
            self.unsent -= 1
        async with contextlib.aclosing(self.plan.lines.read()) as lines:  # type: ignore[type-var]  # a generator
            async for line in lines:
                try:
                    wish = await self._say(line, is_typed=self.plan.lines.is_prompt)
                except MessageRefusedError as refused:
                    if not self.plan.lines.is_prompt:
                        raise
                    fail(refused)
                    continue
                if wish:
                    return wish
        if self._missing:
            await self._met.wait()
        elif not self.plan.lines.is_prompt:
            await self._quiet()
        return None

    async def _quiet(self) -> None:
        """Wait until nothing has come for a moment; not for ever, if it never is."""
        self._last = now = time.monotonic()
        end = now + self.plan.timeout
        while (now := time.monotonic()) < min(self._last + QUIET, end):  # noqa: ASYNC110 - each frame puts it off
            await asyncio.sleep(min(self._last + QUIET, end) - now)

    async def _say(self, line: str, *, is_typed: bool) -> Close | None:
        """Do what a line says; gives the wish to close, if it was one."""
        meant = message_of(line, self.plan)
        if isinstance(meant, Close):
            return meant
        if isinstance(meant, Ask):
            note(HELP if meant.about == "help" else takes(self.plan.words))
        elif meant is not None:
            await self._send(meant.text, is_typed=is_typed)
        return None

    async def _send(self, text: str, *, is_typed: bool) -> None:
        frame: str | bytes = _packed(text) if self.is_binary else text
        try:
            await self.ws.send(frame)
        except ws_errors.ConnectionClosed:
            await asyncio.Future()  # the listener ends the conversation
        except UnicodeEncodeError:
            raise MessageRefusedError("that has no form in UTF-8") from None
        self.console.event("sent", **display.Received(text, msgpack=False).fields)
        if self.console.verbose or (self.plan.marks_frames and not is_typed):
            self._tell(f"> {display.one_line(text)}")

    def _announce(self) -> None:
        """Say that it is open and, at a prompt, what one may type."""
        words, ws = self.plan.words, self.ws
        self.console.event(
            "open", url=self.plan.to.shown, subprotocol=ws.subprotocol, route=words.route
        )
        speaks = f", {ws.subprotocol}" if ws.subprotocol else ""
        self._tell(f"Connected to {self.plan.to.shown}{speaks}")
        if self.console.verbose and ws.response is not None:
            for name, value in ws.response.headers.raw_items():
                self._tell(f"  {display.printable(f'{name}: {value}')}")
        if self.plan.lines.is_prompt:
            self._tell(takes(words))
            self._tell("/help tells what one may type, Ctrl-D ends it.")

    def _tell(self, text: str) -> None:
        if not (self.console.quiet or self.console.as_json):
            with self.plan.lines.aside():
                note(text)


def takes(words: Vocabulary) -> str:
    """What a route takes, a type a line."""
    if words.types is None:
        of = f"of {words.route} " if words.route else ""
        return f"Nothing is known {of}here: what you type is sent unchecked."
    if not words.types:
        return f"{words.route} handles no types of messages."
    width = max(len(str(kind)) for kind in words.types.values())
    kinds = (f"  {kind!s:<{width}}  {kind.summary}".rstrip() for kind in words.types.values())
    return "\n".join([f"{words.route} takes:", *kinds])


def _packed(text: str) -> bytes:
    """JSON as MessagePack.

    Raises:
        MessageRefusedError: It is no JSON, or has a number that MessagePack has not.
    """
    try:
        return msgspec.msgpack.encode(msgspec.json.decode(text))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError, ValueError) as error:
        raise MessageRefusedError(f"only JSON can be sent as MessagePack: {error}") from None
