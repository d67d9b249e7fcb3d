"""Who is connected to this process, in which rooms, and what that makes it listen to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from falcon_pachinko.errors import DuplicateConnectionError, RoomLimitError
from falcon_pachinko.messages.codec import Codec
from falcon_pachinko.names import check_name, check_user_id
from falcon_pachinko.rooms.index import Index

if TYPE_CHECKING:
    from falcon_pachinko.cluster.node import Node
    from falcon_pachinko.connection.connection import Connection

__all__ = ["Membership"]


class Membership:
    """This process's connections by id, room, user, tag and address; the manager's memory.

    What changes it never waits: the cluster hears of the first member of a room and
    of the last, and subscribes in its own time.
    """

    def __init__(self, cluster: Node) -> None:
        self.cluster = cluster
        """This process among others; alone without a backend."""
        self._connections: dict[str, Connection] = {}
        self._rooms: Index[Connection] = Index()
        self._users: Index[Connection] = Index()
        self._tags: Index[Connection] = Index()
        self._addresses: Index[Connection] = Index()
        self._codecs: Counter[Codec] = Counter()  # how many connections speak which

    def __len__(self) -> int:
        return len(self._connections)

    # The directory that targets look members up in.

    def in_room(self, name: str) -> AbstractSet[Connection]:
        """Return a room's members, as a live view."""
        return self._rooms.members(name)

    def in_rooms(self, prefix: str) -> AbstractSet[Connection]:
        """Return the members of all rooms whose names start with a plain string, each once."""
        return set().union(*(self._rooms.members(name) for name in self._rooms.names(prefix)))

    def of_user(self, name: str) -> AbstractSet[Connection]:
        """Return a user's connections, as a live view."""
        return self._users.members(name)

    def at_address(self, address: str) -> AbstractSet[Connection]:
        """Return who comes from an address, where that is counted, as a live view."""
        return self._addresses.members(address)

    def with_tag(self, name: str) -> AbstractSet[Connection]:
        """Return who wears a tag, as a live view."""
        return self._tags.members(name)

    def with_id(self, name: str) -> AbstractSet[Connection]:
        """Return the connection of that id, if it is here."""
        connection = self._connections.get(name)
        return {connection} if connection is not None else set()

    def all(self) -> AbstractSet[Connection]:
        """Return every connection."""
        return set(self._connections.values())

    # The same without waiting, for the session, the resource and the connection.

    def add(self, connection: Connection, connection_id: str | None = None) -> None:
        """`add_connection`, for a connection."""
        known_as = connection_id or connection.id
        if known_as in self._connections:
            raise DuplicateConnectionError(known_as)
        connection.id = known_as
        self._connections[known_as] = connection
        self._count_codec(connection.codec, 1)
        if connection.address is not None:
            self._addresses.add(connection.address, connection)
        self.identify(connection, None)

    def forget(self, connection: Connection) -> None:
        """`remove_connection`, for a connection: costs as much as it has rooms and tags."""
        if self._connections.get(connection.id) is not connection:
            return
        del self._connections[connection.id]
        self._count_codec(connection.codec, -1)
        for room in connection.joined:
            self._room_left(connection, room)
        for tag in connection.worn:
            self._left("tag", tag, self._tags.discard(tag, connection))
        connection.joined.clear()
        connection.worn.clear()
        if connection.address is not None:
            self._addresses.discard(connection.address, connection)
        if connection.user_id is not None:
            user = connection.user_id
            self._left("user", user, self._users.discard(user, connection))

    def _came(self, kind: str, name: str, first: bool) -> None:  # noqa: FBT001  # what an index says
        """Listen to what other processes send to the first member of something."""
        if first and self.cluster.backend.shared:
            self.cluster.subscriptions.add(f"{kind}:{name}")

    def _room_left(self, connection: Connection, room: str) -> None:
        last = self._rooms.discard(room, connection)
        self._left("room", room, last)
        self.has_left(connection, room, last=last)

    def has_left(self, connection: Connection, room: str, *, last: bool) -> None:
        """Note that a connection has left a room, and whether it was the last one here."""

    def _left(self, kind: str, name: str, last: bool) -> None:  # noqa: FBT001  # what an index says
        if last and self.cluster.backend.shared:
            self.cluster.subscriptions.remove(f"{kind}:{name}")

    def recode(self, connection: Connection, before: Codec) -> None:
        """Note that a connection speaks another codec than before."""
        if connection.id in self._connections:
            self._count_codec(before, -1)
            self._count_codec(connection.codec, 1)

    def _count_codec(self, codec: Codec, by: int) -> None:
        self._codecs[codec] += by
        if not self._codecs[codec]:
            del self._codecs[codec]
        elif codec.subprotocol is not None:
            self.cluster.speaks(codec.subprotocol)

    def identify(self, connection: Connection, before: str | None) -> None:
        """Note that a connection belongs to another user than before."""
        if before is not None:
            self._left("user", before, self._users.discard(before, connection))
        if connection.user_id is not None and connection.id in self._connections:
            user = connection.user_id
            self._came("user", user, self._users.add(user, connection))

    def join(self, connection: Connection, room: str) -> None:
        """`join_room`, for a connection; one that has gone joins nothing, quietly."""
        check_name(room, "room name")
        if room in connection.joined or connection.id not in self._connections:
            return
        limit = connection.limits.rooms
        if len(connection.joined) >= limit:
            raise RoomLimitError(limit)
        connection.joined.add(room)
        self._came("room", room, self._rooms.add(room, connection))

    def leave(self, connection: Connection, room: str) -> None:
        """`leave_room`, for a connection."""
        if room in connection.joined:
            connection.joined.discard(room)
            self._room_left(connection, room)

    def tag(self, connection: Connection, tag: str) -> None:
        """Put a tag on a connection; one that has gone wears nothing."""
        check_user_id(tag, "tag")
        if connection.id in self._connections:
            connection.worn.add(tag)
            self._came("tag", tag, self._tags.add(tag, connection))

    def untag(self, connection: Connection, tag: str) -> None:
        """Take a tag off a connection."""
        connection.worn.discard(tag)
        self._left("tag", tag, self._tags.discard(tag, connection))
