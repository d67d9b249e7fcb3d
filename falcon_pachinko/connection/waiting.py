"""The frames that wait for one client, in their order; one with a key may be replaced."""

from __future__ import annotations

from collections import deque

from falcon_pachinko.messages.codec import Packet

__all__ = ["WaitingFrames"]


class _Waiting:
    """One frame that waits, and its key."""

    __slots__ = ("key", "packet")

    def __init__(self, packet: Packet, key: object) -> None:
        self.packet, self.key = packet, key


class WaitingFrames:
    """The frames that wait, first in, first out, and how many bytes they have.

    Invariants: ``bytes`` is the sum of their sizes; of each key one waits at most. A key
    is None for a frame that is never replaced.
    """

    __slots__ = ("_by_key", "_frames", "bytes")

    def __init__(self) -> None:
        self._frames: deque[_Waiting] = deque()
        self._by_key: dict[object, _Waiting] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def bytes_beside(self, key: object) -> int:
        """Return how many bytes wait besides the frame that one with this key would replace."""
        before = self._by_key.get(key) if self._by_key else None
        return self.bytes if before is None else self.bytes - before.packet.size

    def put(self, packet: Packet, key: object) -> None:
        """Add a frame, in the place of the one with its key if there is one."""
        self.bytes = self.bytes_beside(key) + packet.size
        if key is None:
            self._frames.append(_Waiting(packet, None))
        elif key in self._by_key:
            self._by_key[key].packet = packet
        else:
            waiting = self._by_key[key] = _Waiting(packet, key)
            self._frames.append(waiting)

    def pop(self) -> tuple[Packet, object]:
        """Take out the frame that waits first, with its key."""
        waiting = self._frames.popleft()
        self.bytes -= waiting.packet.size
        if waiting.key is not None:
            del self._by_key[waiting.key]
        return waiting.packet, waiting.key

    def remove(self, key: object) -> None:
        """Take out the frame that waits under a key, if one does."""
        waiting = self._by_key.pop(key, None)
        if waiting is not None:
            self._frames.remove(waiting)
            self.bytes -= waiting.packet.size

    def drop_to(self, most: int) -> int:
        """Drop the frames that wait longest until at most so many bytes wait; return how many."""
        dropped = 0
        while self._frames and self.bytes > most:
            self.pop()
            dropped += 1
        return dropped
