"""What a `Publisher` is inside: a connection to the backend, without a process of the cluster.

It has no lease, subscribes to nothing, and its messages have no numbers: so no process
remembers it, and none waits for it. What a history keeps has its place there.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeVar

from falcon_pachinko.backends.base import Backend, HistoryPosition, StateChanged
from falcon_pachinko.clock import monotonic, token_hex
from falcon_pachinko.cluster.keeping import write_kept
from falcon_pachinko.cluster.parcels import (
    NODE_BYTES,
    Broadcast,
    encode,
    header,
    is_within,
    rooms_named,
)
from falcon_pachinko.errors import BackendError, SetupError
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.rooms import configuration
from falcon_pachinko.rooms.idempotency import check_keeps
from falcon_pachinko.rooms.options import OptionsByPrefix
from falcon_pachinko.rooms.outgoing import Outgoing
from falcon_pachinko.rooms.sending import Delivery
from falcon_pachinko.targets import Room

__all__ = ["PublisherLink", "forked"]

log = logging.getLogger("falcon_pachinko.publisher")

T = TypeVar("T")

KNOWN_SECONDS = 1.0
"""For how long what is known of the rooms with a history counts; then it is read again."""

STATE_SECONDS = 0.05
"""Seconds within which a connection that has failed a call is known to be cut."""

MOST_NAMED = 1000
"""How many rooms are remembered that got a message which was not kept, or were warned of."""

PUBLISHED = Delivery(0, 0, published=True)
"""Nobody is connected here; the message has left."""


class _Kept(NamedTuple):
    """A message as the history of one room keeps it."""

    channel: str
    data: bytes
    limits: HistoryLimits
    key: str
    """What it is known by; empty if it has no idempotency key."""
    retry_key: str
    """What it is known by once a call has failed."""


class PublisherLink:
    """Sends what was prepared; belongs to the event loop in which it was opened.

    Args:
        backend: What carries bytes; nobody else uses it.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._name, self._head = "", b""
        self._numbers = 0  # of the messages that were kept, so that no two have the same bytes
        self._loop: asyncio.AbstractEventLoop | None = None  # the one it was opened in, while it is
        self._process = 0  # the one it was opened in
        self._reader: asyncio.Task[None] | None = None  # takes the backend's events
        self._changed = asyncio.Event()  # set, and replaced, when the backend's state changes
        self._outages = 0
        self._away_since: float | None = None  # None while it is up
        self._options = OptionsByPrefix()
        self._known_since = float("-inf")  # when the options were read; they count for a while
        self._reading = asyncio.Lock()
        self._warned: set[str] = set()  # what the log has been told; MOST_NAMED at most
        self._unkept: dict[str, None] = {}
        # The rooms that got a message which no history kept, since the options were read last.
        # MOST_NAMED at most.

    async def open(self) -> None:
        """Connect.

        Raises:
            BackendError: The server is required, and cannot be reached.
            SetupError: The backend is in use already.
        """
        backend = self.backend
        if self._loop is not None or backend.state != "down":
            raise SetupError(
                f"backend {backend.name} is in use already; a Publisher needs one of its own: give "
                "it a URL. In a process of the app, use app.ws_connection_manager"
            )
        self._name = token_hex(NODE_BYTES // 2)
        self._head = header(self._name)
        self._changed, self._reading = asyncio.Event(), asyncio.Lock()
        self._known_since, self._away_since = float("-inf"), None
        await backend.start(self._name)
        self._loop, self._process = asyncio.get_running_loop(), os.getpid()
        if not self._is_up():
            self._away_since = monotonic()
        self._reader = self._loop.create_task(self._read_events())

    async def close(self) -> None:
        """Disconnect; what was sent has left already. Once more changes nothing."""
        reader, self._reader, self._loop = self._reader, None, None
        if reader is None:
            return
        try:
            await self.backend.stop()
        except Exception:
            log.exception("backend %s failed to stop", self.backend.name)
        reader.cancel()
        await asyncio.wait((reader,))

    # Sending.

    async def send(self, outgoing: Outgoing) -> Delivery:
        """Send a message; see `Publisher.broadcast`."""
        self._check_open()
        target, parcel = outgoing.target, outgoing.parcel
        kept_in: tuple[str, ...] = ()
        if outgoing.keepable:
            prefixes: list[str] = []
            named = rooms_named(target, lambda prefix: prefixes.append(prefix) or ())  # type: ignore[func-returns-value]  # always the second
            if named or prefixes:
                await self._know_rooms()
            kept_in = tuple(room for room in named if self._options.of(room).history)
            if outgoing.key:
                check_keeps(target, kept_in)
            self._note_unkept([room for room in named if room not in kept_in], prefixes)
        written = [self._for_room(outgoing, room, kept_in[:at]) for at, room in enumerate(kept_in)]
        for kept in written:  # all could be written: none gets it unless all can
            await self._keep(kept)
        if not (kept_in and is_within(target, kept_in)):
            parcel.kept_in = kept_in
            data = encode(self._head, parcel)
            await self._await_up()
            self.backend.check_size(len(data))
            await self._call(self.backend.publish([(outgoing.channel, data)]))
        return PUBLISHED

    def _for_room(self, outgoing: Outgoing, room: str, before: tuple[str, ...]) -> _Kept:
        """Write a message for the history of a room; those before it have kept it, too."""
        limits, sent = self._options.of(room).history, outgoing.parcel
        assert limits is not None
        parcel = Broadcast(0, 0, sent.type, sent.text, sent.data, sent.exclude)
        parcel.target = None if outgoing.target == Room(room) else outgoing.target
        parcel.kept_in = before
        kept, data = write_kept(room, parcel, limits, self._write)
        self.backend.check_size(len(data))
        retry_key = outgoing.key or f"{self._name}:{kept.seq}"
        return _Kept(f"room:{room}", data, limits, outgoing.key, retry_key)

    def _write(self, parcel: Broadcast) -> bytes:
        self._numbers = parcel.seq = self._numbers + 1
        return encode(self._head, parcel)

    async def _keep(self, kept: _Kept) -> HistoryPosition:
        def append(*, again: bool) -> Awaitable[HistoryPosition]:
            key = kept.retry_key if again else kept.key  # it may have been kept already
            return self.backend.append(kept.channel, kept.data, kept.limits, key)

        return await self._persist(append)

    async def _persist(self, call: Callable[..., Awaitable[T]]) -> T:
        """Call the backend; again where the connection is cut, or the server busy for a moment.

        Args:
            call: Does no harm if it is done twice; called with ``again`` the second time.

        Raises:
            BackendError: The server refuses it, or that lasts for longer than its ``timeout``.
        """
        again, until = False, monotonic() + self.backend.timeout
        while True:
            await self._await_up()
            outages = self._outages
            try:
                return await self._call(call(again=again))
            except BackendError as error:
                worth_it = await self._was_cut(outages) or error.passing
                if monotonic() > until or not worth_it:
                    raise
                again = True

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(self.backend.name, str(error) or type(error).__name__) from error

    def _check_open(self) -> None:
        if self._loop is None:
            raise RuntimeError(
                "this Publisher is not open; write: async with Publisher(...) as publish"
            )
        if self._process != os.getpid():
            raise forked(self._process)
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "this Publisher was opened in another event loop; open one in each, or share a "
                "Publisher.sync(...)"
            )

    # The backend's state.

    async def _read_events(self) -> None:
        """Take what the backend reports: nothing is subscribed, so that is its state."""
        async for event in self.backend.events():
            if not isinstance(event, StateChanged):
                continue
            log.info("backend %s is %s: %s", self.backend.name, event.state, event.why)
            if event.state == "up":
                self._away_since = None
            else:
                self._outages += 1
                if self._away_since is None:
                    self._away_since = monotonic()
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _is_up(self) -> bool:
        return self.backend.state == "up"

    async def _await_up(self) -> None:
        """Wait for a connection; until it has been away for the backend's ``timeout``.

        Raises:
            BackendError: It is away for that long.
        """
        backend = self.backend
        began = monotonic()
        while not self._is_up():
            since = began if self._away_since is None else self._away_since
            left = since + backend.timeout - monotonic()
            if left <= 0 or not (await self._changes_within(left) or self._is_up()):
                why = backend.why or f"it is {backend.state}"
                raise BackendError(backend.name, f"the message was not sent: {why}")

    async def _was_cut(self, outages: int) -> bool:
        """Whether a call failed because the connection was cut, and not refused by the server."""
        if self._outages == outages and self._is_up():
            await self._changes_within(STATE_SECONDS)
        return self._outages != outages or not self._is_up()

    async def _changes_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # Which rooms have a history.

    async def _know_rooms(self) -> None:
        """Read how the processes have configured the rooms, unless that was done just now."""
        async with self._reading:
            if monotonic() < self._known_since + KNOWN_SECONDS:
                return
            why = ""
            try:
                settings = await self._persist(lambda **_: self.backend.recall())
            except BackendError as error:
                if not self._is_up() or self.backend.why is None:
                    raise
                settings, why = {}, f" ({error.why})"  # the server keeps nothing, for anybody
            found = configuration.read(settings)
            self._options.adopt({prefix: each.options for prefix, each in found.items()})
            if configuration.NAME in settings:  # else a process may start at any moment
                self._known_since = monotonic()
        if configuration.NAME not in settings:
            self._warn(
                "",
                "no process of the app has stored how its rooms are configured%s, so nothing is "
                "kept for clients that come back; has one been started on %s, with this namespace?",
                why,
                self.backend.name,
            )
        missed = [room for room in self._unkept if self._options.of(room).history]
        self._unkept.clear()
        for room in missed:
            self._warn(
                f"room:{room}",
                "a message to %.200r was not kept, since it was not known yet that the room has a "
                "history: clients that come back may miss it",
                room,
            )

    def _note_unkept(self, rooms: Iterable[str], prefixes: Iterable[str]) -> None:
        """Note where no history keeps a message; warn where one should."""
        for room in rooms:
            if len(self._unkept) < MOST_NAMED:
                self._unkept[room] = None
        for prefix in prefixes:
            for kept, options in self._options.by_prefix.items():
                meet = kept.startswith(prefix) or prefix.startswith(kept)
                if options.history is not None and meet:
                    self._warn(
                        f"rooms:{prefix}",
                        "a message to to.rooms(%.200r) was not kept in the rooms with a history "
                        "(%.200r): a Publisher cannot know which rooms there are. Send to each by "
                        "its name, or pass store=False",
                        prefix,
                        kept,
                    )

    def _warn(self, about: str, message: str, *args: object) -> None:
        """Log a warning, once for what it is about."""
        if about not in self._warned and len(self._warned) < MOST_NAMED:
            self._warned.add(about)
            log.warning(message, *args)


def forked(process: int) -> RuntimeError:
    """Return the error for a process that uses what another one has opened."""
    return RuntimeError(
        f"this Publisher was opened in process {process}, of which this one ({os.getpid()}) is a "
        "fork; connections do not survive that. Make one in each process, after the fork"
    )
