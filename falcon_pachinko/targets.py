"""Whom a broadcast is for: a small algebra, evaluated where the connections live.

``room``, ``user``, ``tag``, ``connection`` and ``everyone`` name connections;
``|``, ``&`` and ``-`` combine them::

    await manager.broadcast(message, to=room("lobby") & tag("pro") - user("bob"))

Python binds ``-`` tighter than ``&``, and ``&`` tighter than ``|``.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import msgspec

__all__ = ["AnyTarget", "Directory", "Target", "connection", "everyone", "room", "tag", "user"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Directory(Protocol[T_co]):
    """Where targets look members up: what the manager of one process knows."""

    def in_room(self, name: str) -> AbstractSet[T_co]:
        """Return who is in a room."""
        ...

    def of_user(self, name: str) -> AbstractSet[T_co]:
        """Return a user's connections."""
        ...

    def with_tag(self, name: str) -> AbstractSet[T_co]:
        """Return who wears a tag."""
        ...

    def with_id(self, name: str) -> AbstractSet[T_co]:
        """Return the connection of that id, if it is here."""
        ...

    def all(self) -> AbstractSet[T_co]:
        """Return every connection."""
        ...


class Target(msgspec.Struct, frozen=True, tag_field="target"):
    """Some connections, named by what they have in common; combine with ``|``, ``&``, ``-``."""

    def __or__(self, other: Target) -> Target:
        return Union(self, other) if isinstance(other, Target) else NotImplemented

    def __and__(self, other: Target) -> Target:
        return Both(self, other) if isinstance(other, Target) else NotImplemented

    def __sub__(self, other: Target) -> Target:
        return Except(self, other) if isinstance(other, Target) else NotImplemented

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Return who is meant, of those the directory knows; maybe a live view."""
        raise TypeError(f"{type(self).__name__} names nobody; use room(), user(), tag() ...")


class Room(Target, frozen=True, tag="room"):
    """Who is in a room."""

    name: str

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the room up."""
        return directory.in_room(self.name)


class User(Target, frozen=True, tag="user"):
    """All connections of a user: every tab, every device."""

    name: str

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the user up."""
        return directory.of_user(self.name)


class Tag(Target, frozen=True, tag="tag"):
    """Who wears a tag."""

    name: str

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the tag up."""
        return directory.with_tag(self.name)


class ConnectionId(Target, frozen=True, tag="connection"):
    """The connection of one id."""

    name: str

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the id up."""
        return directory.with_id(self.name)


class Everyone(Target, frozen=True, tag="everyone"):
    """Every connection."""

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Take them all."""
        return directory.all()


class Union(Target, frozen=True, tag="or"):
    """Who is in the one or in the other: ``a | b``."""

    left: AnyTarget
    right: AnyTarget

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Join both, each member once."""
        return self.left.select(directory) | self.right.select(directory)


class Both(Target, frozen=True, tag="and"):
    """Who is in both: ``a & b``."""

    left: AnyTarget
    right: AnyTarget

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Keep whom both name."""
        return self.left.select(directory) & self.right.select(directory)


class Except(Target, frozen=True, tag="minus"):
    """Who is in the one but not in the other: ``a - b``."""

    left: AnyTarget
    right: AnyTarget

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Take the second's members away."""
        return self.left.select(directory) - self.right.select(directory)


if TYPE_CHECKING:
    AnyTarget: TypeAlias = Target
else:  # what msgspec can read one as
    AnyTarget = Room | User | Tag | ConnectionId | Everyone | Union | Both | Except


def room(name: str) -> Target:
    """Name the members of a room."""
    return Room(name)


def user(user_id: str) -> Target:
    """Name all connections of a user."""
    return User(user_id)


def tag(name: str) -> Target:
    """Name the connections that wear a tag."""
    return Tag(name)


def connection(connection_id: str) -> Target:
    """Name one connection by its id."""
    return ConnectionId(connection_id)


everyone: Target = Everyone()
"""Every connection there is."""
