"""How the options of rooms travel: each process stores its own, and uses what others have stored.

A room whose messages some processes keep, and others do not, has a history with holes
that nobody can see. So what is configured in one process counts in all that say nothing
of their own: in a process that only runs workers, and in a script with a `Publisher`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from falcon_pachinko.clock import uniform
from falcon_pachinko.cluster.node import Node
from falcon_pachinko.cluster.outage import Outage
from falcon_pachinko.errors import BackendError
from falcon_pachinko.rooms.options import OptionsByPrefix, RoomOptions

__all__ = ["NAME", "Configuration", "Stored", "read", "write"]

log = logging.getLogger("falcon_pachinko.configuration")

NAME = "rooms"
"""The setting that says that a process has started; with ``:`` and a prefix, the one of that."""

REFRESH_SECONDS = 30.0
"""How often what others have stored is read again, about."""


class Stored(msgspec.Struct, frozen=True):
    """The options of one prefix, as a process has stored them."""

    process: str
    """The name of the process."""
    number: int
    """Larger than that of what was stored before it, by whichever process."""
    options: RoomOptions


class _Written(msgspec.Struct):
    """How it is written; a field of the options that one process does not know is left out."""

    process: str
    number: int
    options: dict[str, Any]


def write(stored: Mapping[str, Stored]) -> dict[str, bytes]:
    """Write options as settings of a backend."""
    written = {}
    for prefix, each in stored.items():
        with contextlib.suppress(UnicodeEncodeError):  # no room's name can begin with that
            prefix.encode()
            fields = dataclasses.asdict(each.options)
            data = msgspec.msgpack.encode(_Written(each.process, each.number, fields))
            written[f"{NAME}:{prefix}"] = data
    return written


def read(settings: Mapping[str, bytes]) -> dict[str, Stored]:
    """Read options by prefix; what is something else, or makes no sense, is left out.

    >>> tea = Stored("0123456789ab", 1, RoomOptions(resync=True))
    >>> read({**write({"tea:": tea}), "other": b"?"})["tea:"] == tea
    True
    """
    known = {field.name for field in dataclasses.fields(RoomOptions)}
    found = {}
    for name, data in settings.items():
        kind, colon, prefix = name.partition(":")
        if kind != NAME or not colon:
            continue
        with contextlib.suppress(msgspec.MsgspecError, UnicodeError, TypeError, ValueError):
            written = msgspec.msgpack.decode(data, type=_Written)
            fields = {key: value for key, value in written.options.items() if key in known}
            options = msgspec.convert(fields, RoomOptions)
            found[prefix] = Stored(written.process, written.number, options)
    return found


class Configuration:
    """Stores what this process configures, and keeps what the others do; the manager has one.

    Args:
        node: This process among others.
        options: What is configured; those of others go in there, too.
        rooms: Returns the rooms with members here whose names begin with a prefix.
    """

    def __init__(
        self, node: Node, options: OptionsByPrefix, rooms: Callable[[str], Iterable[str]]
    ) -> None:
        self._node, self._options, self._rooms = node, options, rooms
        self._written: dict[str, Stored] = {}  # what this process has stored since it started
        self._has_read = False  # whether it knows what the others have stored
        self._outage = Outage()
        self._turn = asyncio.Event()  # set when it is to be read before its time
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Store, read, and go on reading; a backend that is away gets it when it is back."""
        if self._task is not None or self._node.alone:
            return
        self._written, self._has_read, self._turn = {}, False, asyncio.Event()
        if self._node.backend.state == "up":
            await self._update()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop reading; what is stored stays."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def back(self) -> None:
        """Store it again where the backend has lost it, and read what others have stored.

        That is when the backend is back, and when another process has stored something new.
        """
        self._turn.set()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS * uniform(0.8, 1.2)):
                    await self._turn.wait()
            self._turn.clear()
            if self._node.backend.state == "up":
                await self._update()

    async def _update(self) -> None:
        try:
            await self._exchange()
        except BackendError as error:
            message = "could not store or read how rooms are configured; retrying: %s"
            self._outage.report(log, message, error)
        except Exception:
            log.exception("backend %s failed to store or read settings", self._node.backend.name)
        else:
            self._outage.over()

    async def _exchange(self) -> None:
        backend, settings = self._node.backend, await self._node.backend.recall()
        found = read(settings)
        mine: dict[str, Stored] = {}
        news: dict[str, Stored] = {}  # what of it this process has not stored before
        for prefix, options in self._options.own.items():
            written, there = self._written.get(prefix), found.get(prefix)
            number = there.number if there is not None else 0
            if written is None or written.options != options:
                mine[prefix] = news[prefix] = Stored(self._node.name, number + 1, options)
            elif number < written.number:
                mine[prefix] = written  # the backend has lost it, or gone back
        data = write(mine) if NAME in settings else {NAME: b"", **write(mine)}
        if data:
            replaced = read(await backend.remember(data))
            self._written |= news
            later = {
                prefix: each
                for prefix, each in replaced.items()
                if prefix not in news and each.number > mine[prefix].number
            }
            if later:  # a newer process was faster
                await backend.remember(write(later))
            if any(
                prefix not in replaced or replaced[prefix].options != each.options
                for prefix, each in news.items()
            ):
                self._node.tell_configured()
            self._compare(news, replaced)
        self._adopt({prefix: each.options for prefix, each in found.items()})

    def _compare(self, mine: Mapping[str, Stored], others: Mapping[str, Stored]) -> None:
        """Warn, once for all of it, where another process has configured something else."""
        differ = [
            _differences(prefix, others[prefix], each)
            for prefix, each in mine.items()
            if prefix in others and others[prefix].options != each.options
        ]
        if differ:
            log.warning(
                "rooms are configured differently in two processes: %s; configure_rooms() has to "
                "say the same in all of them. Processes and publishers without a configuration "
                "of their own use that of %s, which started last",
                "; ".join(differ),
                self._node.name,
            )

    def _adopt(self, others: Mapping[str, RoomOptions]) -> None:
        """Use what others have stored; name a room that was not kept here until now."""
        options, missed = self._options, []
        if self._has_read:
            missed = [
                (prefix, room)
                for prefix, each in others.items()
                if each.history is not None and prefix not in options.by_prefix
                for room in self._rooms(prefix)
                if options.of(room).history is None
            ]
        self._has_read = True
        options.adopt(others)
        missed = [each for each in missed if options.of(each[1]).history is not None]
        if missed:
            prefix, room = missed[0]
            log.warning(
                "another process keeps a history of %.200r (%d rooms here are like that); what was "
                "sent to it by this process before was not kept. Call configure_rooms(%.200r, ...) "
                "here, too",
                room,
                len(missed),
                prefix,
            )


def _differences(prefix: str, other: Stored, mine: Stored) -> str:
    """Say what differs, of both."""
    fields = [
        field.name
        for field in dataclasses.fields(RoomOptions)
        if getattr(other.options, field.name) != getattr(mine.options, field.name)
    ]
    said = []
    for each in (mine, other):
        values = ", ".join(f"{name}={getattr(each.options, name)}" for name in fields)
        said.append(f"{each.process} has {values}")
    return f"for {prefix!r:.200}, {' and '.join(said)}"
