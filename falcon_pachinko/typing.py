"""The types that the library's floors share; names for what ASGI leaves open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

__all__ = ["AsgiEvent", "AsgiReceive", "AsgiSend", "Frame", "Scope"]

Frame: TypeAlias = str | bytes
"""What travels: text or bytes, as the wire has it."""

AsgiEvent: TypeAlias = MutableMapping[str, Any]
AsgiReceive: TypeAlias = Callable[[], Awaitable[AsgiEvent]]
AsgiSend: TypeAlias = Callable[[AsgiEvent], Awaitable[None]]
Scope: TypeAlias = MutableMapping[str, Any]
