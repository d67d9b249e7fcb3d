"""Whom a broadcast is for: a small algebra, evaluated where the connections live.

Imported as ``to``; `room`, `rooms`, `user`, `tag`, `connection` and `everyone` name
connections, and ``|``, ``&`` and ``-`` combine them::

    from falcon_pachinko import to

    await manager.broadcast(message, to=to.room("lobby") & to.tag("pro") - to.user("bob"))

Python binds ``-`` tighter than ``&``, and ``&`` tighter than ``|``.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar

import msgspec

__all__ = [
    "AnyTarget",
    "Directory",
    "Target",
    "check_target",
    "connection",
    "everyone",
    "room",
    "rooms",
    "tag",
    "user",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Directory(Protocol[T_co]):
    """Where targets look members up: what the registry of one process knows."""

    def in_room(self, name: str) -> AbstractSet[T_co]:
        """Return the members of a room."""
        ...

    def in_rooms(self, prefix: str) -> AbstractSet[T_co]:
        """Return the members of all rooms whose names start with a plain string."""
        ...

    def of_user(self, name: str) -> AbstractSet[T_co]:
        """Return a user's connections."""
        ...

    def with_tag(self, name: str) -> AbstractSet[T_co]:
        """Return the connections that have a tag."""
        ...

    def with_id(self, name: str) -> AbstractSet[T_co]:
        """Return the connection of that id, if it is here."""
        ...

    def all(self) -> AbstractSet[T_co]:
        """Return every connection."""
        ...


class Target(msgspec.Struct, frozen=True, tag_field="target"):
    """Some connections, named by what they have in common; combine with ``|``, ``&``, ``-``."""

    _binds: ClassVar[int] = 3  # how tightly it binds, for repr: a name most

    def __or__(self, other: Target) -> Target:
        return Union(self, other) if isinstance(other, Target) else NotImplemented

    def __and__(self, other: Target) -> Target:
        return Both(self, other) if isinstance(other, Target) else NotImplemented

    def __sub__(self, other: Target) -> Target:
        return Except(self, other) if isinstance(other, Target) else NotImplemented

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Return the matching connections. May be a live set: copy it before awaiting."""
        raise TypeError(f"{type(self).__name__} names no connections; use to.room(), to.user() ...")


class Room(Target, frozen=True, tag="room"):
    """The members of a room."""

    name: str

    def __repr__(self) -> str:
        return f"to.room({self.name!r})"

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the room up."""
        return directory.in_room(self.name)


class Rooms(Target, frozen=True, tag="rooms"):
    """The members of all rooms whose names start with a plain string."""

    prefix: str

    def __repr__(self) -> str:
        return f"to.rooms({self.prefix!r})"

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the rooms up."""
        return directory.in_rooms(self.prefix)


class User(Target, frozen=True, tag="user"):
    """All connections of a user: every tab, every device."""

    name: str

    def __repr__(self) -> str:
        return f"to.user({self.name!r})"

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the user up."""
        return directory.of_user(self.name)


class Tag(Target, frozen=True, tag="tag"):
    """The connections that have a tag."""

    name: str

    def __repr__(self) -> str:
        return f"to.tag({self.name!r})"

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the tag up."""
        return directory.with_tag(self.name)


class ConnectionId(Target, frozen=True, tag="connection"):
    """The connection of one id."""

    name: str

    def __repr__(self) -> str:
        return f"to.connection({self.name!r})"

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Look the id up."""
        return directory.with_id(self.name)


class Everyone(Target, frozen=True, tag="everyone"):
    """Every connection."""

    def __repr__(self) -> str:
        return "to.everyone"

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Take them all."""
        return directory.all()


class Union(Target, frozen=True, tag="or"):
    """The connections that one or the other names: ``a | b``."""

    _binds: ClassVar[int] = 0

    left: AnyTarget
    right: AnyTarget

    def __repr__(self) -> str:
        return _infix(self, "|")

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Join both, each member once."""
        return self.left.select(directory) | self.right.select(directory)


class Both(Target, frozen=True, tag="and"):
    """The connections that both name: ``a & b``."""

    _binds: ClassVar[int] = 1

    left: AnyTarget
    right: AnyTarget

    def __repr__(self) -> str:
        return _infix(self, "&")

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Keep the members that both name."""
        return self.left.select(directory) & self.right.select(directory)


class Except(Target, frozen=True, tag="minus"):
    """The connections that the one names but not the other: ``a - b``."""

    _binds: ClassVar[int] = 2

    left: AnyTarget
    right: AnyTarget

    def __repr__(self) -> str:
        return _infix(self, "-")

    def select(self, directory: Directory[T]) -> AbstractSet[T]:
        """Take the second's members away."""
        return self.left.select(directory) - self.right.select(directory)


def _infix(both: Union | Both | Except, sign: str) -> str:
    """Write a combination as Python would read it, with the parentheses that it needs."""
    binds = type(both)._binds  # this module's own
    left, right = repr(both.left), repr(both.right)
    if type(both.left)._binds < binds:  # see above
        left = f"({left})"
    if type(both.right)._binds <= binds:  # see above
        right = f"({right})"
    return f"{left} {sign} {right}"


if TYPE_CHECKING:
    AnyTarget: TypeAlias = Target
else:  # what msgspec can read one as
    AnyTarget = Room | Rooms | User | Tag | ConnectionId | Everyone | Union | Both | Except


def check_target(given: object) -> None:
    """Refuse what is not a target, with the call that was probably meant.

    Raises:
        TypeError: It is not a `Target`.
    """
    if not isinstance(given, Target):
        meant = f"to.room({given!r:.80})" if isinstance(given, str) else 'to.room("lobby")'
        raise TypeError(f"to={given!r:.200} is not a target; write to={meant}, or another of `to`")


def _text(given: Any, call: str) -> str:
    if not isinstance(given, str):
        raise TypeError(f"to.{call}() takes a str, not {given!r:.200}; write to.{call}(str(...))")
    return given


def room(name: str) -> Target:
    """Name the members of a room."""
    return Room(_text(name, "room"))


def rooms(prefix: str) -> Target:
    """Name the members of all rooms whose names start with a plain string, each member once."""
    return Rooms(_text(prefix, "rooms"))


def user(user_id: str) -> Target:
    """Name all connections of a user."""
    return User(_text(user_id, "user"))


def tag(name: str) -> Target:
    """Name the connections that have a tag."""
    return Tag(_text(name, "tag"))


def connection(connection_id: str) -> Target:
    """Name one connection by its id."""
    return ConnectionId(_text(connection_id, "connection"))


everyone: Target = Everyone()
"""Every connection there is."""
