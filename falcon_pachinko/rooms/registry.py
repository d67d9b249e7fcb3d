"""Who is connected to this process, and where: by id, room, user, tag and address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Protocol

from falcon_pachinko.connection.connection import NONE, Connection
from falcon_pachinko.connection.stage import CONNECTING, OPEN
from falcon_pachinko.errors import DuplicateConnectionError, MessageError, RoomLimitError
from falcon_pachinko.messages.codec import Codec
from falcon_pachinko.names import check_name, check_text, check_user_id
from falcon_pachinko.rooms.index import Index
from falcon_pachinko.targets import Room, Target

__all__ = ["Observer", "Registry"]


class Observer(Protocol):
    """What a registry tells as names come into use here and go out of it."""

    def came(self, kind: str, name: str) -> None:
        """Note the first connection here of a room, user or tag."""

    def went(self, kind: str, name: str) -> None:
        """Note that the last one of a room, user or tag has gone."""

    def left(self, connection: Connection, room: str, *, last: bool) -> None:
        """Note that a connection has left a room."""

    def lost(self, connection: Connection) -> None:
        """Note that a connection has lost a tag, or belongs to another user."""

    def speaks(self, subprotocol: str) -> None:
        """Note that a connection speaks a codec besides JSON."""


class Registry:
    """This process's connections and where they are; changed here only, and at once.

    A connection's own ``_rooms`` and ``_tags`` are the other direction of the same
    facts: ``room in connection._rooms`` if and only if it is in that room's index.
    A connection that is not known, or closed, comes into nothing.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.connections: dict[str, Connection] = {}
        self.rooms: Index[Connection] = Index()
        self.users: Index[Connection] = Index()
        self._tags: Index[Connection] = Index()
        self._addresses: Index[Connection] = Index()
        self.codecs: Counter[Codec] = Counter()
        """How many connections speak which codec."""

    def __len__(self) -> int:
        return len(self.connections)

    # The directory that targets look members up in.

    def in_room(self, name: str) -> AbstractSet[Connection]:
        """Return a room's members, as a live view.

        Raises:
            TypeError: The name is not a str.
        """
        check_text(name, "room name")
        return self.rooms.members(name)

    def in_rooms(self, prefix: str) -> AbstractSet[Connection]:
        """Return the members of all rooms whose names start with a plain string, each once."""
        return set().union(*(self.rooms.members(name) for name in self.rooms.names(prefix)))

    def of_user(self, name: str) -> AbstractSet[Connection]:
        """Return a user's connections, as a live view."""
        return self.users.members(name)

    def at_address(self, address: str) -> AbstractSet[Connection]:
        """Return the connections from an address, where that is counted, as a live view."""
        return self._addresses.members(address)

    def with_tag(self, name: str) -> AbstractSet[Connection]:
        """Return the connections that have a tag, as a live view."""
        return self._tags.members(name)

    def with_id(self, name: str) -> AbstractSet[Connection]:
        """Return the connection of that id, if it is here."""
        connection = self.connections.get(name)
        return {connection} if connection is not None else set()

    def all(self) -> AbstractSet[Connection]:
        """Return every connection."""
        return set(self.connections.values())

    def select(
        self, target: Target, exclude: Iterable[str | Connection] | str | Connection = ()
    ) -> list[Connection]:
        """Return the connections that a target names, but for those excluded, as a new list.

        Args:
            target: Who is meant.
            exclude: Ids or connections; unknown ids are of other processes, and no error.

        Raises:
            TypeError: One of those excluded is neither an id nor a connection.
        """
        is_room = type(target) is Room  # by far the most common one
        chosen = self.rooms.members(target.name) if is_room else target.select(self)  # type: ignore[attr-defined]  # see is_room
        if not exclude:
            return list(chosen)
        left_out = self.excluded(exclude)
        return [each for each in chosen if each not in left_out]

    def excluded(
        self, exclude: Iterable[str | Connection] | str | Connection
    ) -> set[Connection | None]:
        """Look up who is to be left out.

        Raises:
            TypeError: One is neither an id nor a connection.
        """
        if isinstance(exclude, (str, Connection)):
            exclude = (exclude,)
        left_out: set[Connection | None] = set()
        for each in exclude:
            if isinstance(each, str):
                left_out.add(self.connections.get(each))
            elif isinstance(each, Connection):
                left_out.add(each)
            else:
                raise TypeError(
                    f"exclude has {each!r:.200}; give ids or connections, such as exclude=[ws]"
                )
        return left_out

    # Changes.

    def add(self, connection: Connection) -> None:
        """Make a connection known by its id.

        Raises:
            DuplicateConnectionError: The id is taken.
        """
        if connection.id in self.connections:
            raise DuplicateConnectionError(connection.id)
        self.connections[connection.id] = connection
        self._count_codec(connection._codec, 1)
        if connection._address is not None:
            self._addresses.add(connection._address, connection)
        self.identify(connection, None)

    def forget(self, connection: Connection) -> None:
        """Take a connection from everything: costs as much as it has rooms and tags."""
        if self.connections.get(connection.id) is not connection:
            return
        del self.connections[connection.id]
        self.codecs[connection._codec] -= 1
        if not self.codecs[connection._codec]:
            del self.codecs[connection._codec]
        rooms, connection._rooms = connection._rooms, NONE
        for room in rooms:
            last = self.rooms.discard(room, connection)
            if last:
                self._observer.went("room", room)
            self._observer.left(connection, room, last=last)
        for tag in connection._tags:
            if self._tags.discard(tag, connection):
                self._observer.went("tag", tag)
        connection._tags = NONE
        if connection._address is not None:
            self._addresses.discard(connection._address, connection)
        user = connection._user_id
        if user is not None and self.users.discard(user, connection):
            self._observer.went("user", user)

    def join(self, connection: Connection, room: str) -> None:
        """Put a connection into a room; one that has gone joins nothing.

        Raises:
            InvalidNameError: The name cannot name a room.
            RoomLimitError: It is in as many rooms as it may be.
        """
        check_name(room, "room name")
        if room in connection._rooms or self.connections.get(connection.id) is not connection:
            return
        if connection._outbox.stage not in (OPEN, CONNECTING):
            return
        most = connection.limits.rooms
        if most is not None and len(connection._rooms) >= most:
            raise RoomLimitError(most)
        connection._rooms = _with(connection._rooms, room)
        if self.rooms.add(room, connection):
            self._observer.came("room", room)

    def leave(self, connection: Connection, room: str) -> None:
        """Take a connection from a room; one it is not in is ignored.

        Raises:
            TypeError: The name is not a str.
        """
        check_text(room, "room name")
        if room in connection._rooms:
            connection._rooms = _without(connection._rooms, room)
            last = self.rooms.discard(room, connection)
            if last:
                self._observer.went("room", room)
            self._observer.left(connection, room, last=last)

    def identify(self, connection: Connection, before: str | None) -> None:
        """Note that a connection belongs to another user than before."""
        user = connection.user_id
        if user == before or self.connections.get(connection.id) is not connection:
            return
        if before is not None:
            if self.users.discard(before, connection):
                self._observer.went("user", before)
            self._observer.lost(connection)
        if user is not None and self.users.add(user, connection):
            self._observer.came("user", user)

    def tag(self, connection: Connection, tag: str) -> None:
        """Give a connection a tag; one that has gone gets none.

        Raises:
            InvalidNameError: It is not 1 to 200 bytes of visible text.
            MessageError: It has as many tags as it may have (``tag_limit``).
        """
        check_user_id(tag, "tag")
        if tag in connection._tags or self.connections.get(connection.id) is not connection:
            return
        most = connection.limits.tags
        if most is not None and len(connection._tags) >= most:
            sentence = f"A connection may have {most} tags at once (Limits.tags)."
            raise MessageError("tag_limit", sentence)
        connection._tags = _with(connection._tags, tag)
        if self._tags.add(tag, connection):
            self._observer.came("tag", tag)

    def untag(self, connection: Connection, tag: str) -> None:
        """Take a tag away; one it does not have is ignored.

        Raises:
            TypeError: It is not a str.
        """
        check_text(tag, "tag")
        if tag in connection._tags:
            connection._tags = _without(connection._tags, tag)
            if self._tags.discard(tag, connection):
                self._observer.went("tag", tag)
            self._observer.lost(connection)

    def recode(self, connection: Connection, before: Codec) -> None:
        """Note that a connection speaks another codec than before."""
        if connection.id in self.connections:
            self._count_codec(before, -1)
            self._count_codec(connection._codec, 1)

    def _count_codec(self, codec: Codec, by: int) -> None:
        self.codecs[codec] += by
        if not self.codecs[codec]:
            del self.codecs[codec]
        elif codec.subprotocol is not None:
            self._observer.speaks(codec.subprotocol)


def _with(names: AbstractSet[str], name: str) -> AbstractSet[str]:
    """Add a name to a connection's; the first makes a set of its own."""
    own = names if isinstance(names, set) else set()
    own.add(name)
    return own


def _without(names: AbstractSet[str], name: str) -> AbstractSet[str]:
    """Take a name from a connection's; with the last, its set goes."""
    assert isinstance(names, set)
    names.discard(name)
    return names or NONE
