"""What rooms do besides passing messages on, by what their names begin with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from falcon_pachinko.limits import HistoryLimits

__all__ = ["OptionsByPrefix", "RoomOptions"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoomOptions:
    """What rooms do besides passing messages on; see ``manager.configure_rooms``."""

    resync: bool = False
    history: HistoryLimits | None = None
    presence_grace: float = 3.0
    presence_limit: int = 1000

    def __post_init__(self) -> None:
        if self.history is not None and not isinstance(self.history, HistoryLimits):
            raise TypeError(f"history={self.history!r:.200}: give HistoryLimits(), or None")
        if not (math.isfinite(self.presence_grace) and self.presence_grace >= 0):
            raise ValueError(f"presence_grace={self.presence_grace!r}: give a number of seconds")
        limit = self.presence_limit
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ValueError(f"presence_limit={limit!r:.80}: give a number of keys, from 1")


class OptionsByPrefix:
    """The options of rooms, by what their names begin with; the longest prefix counts.

    >>> options = OptionsByPrefix()
    >>> options.put("chat:", RoomOptions(resync=True))
    >>> options.of("chat:tea").resync, options.of("game:1").resync
    (True, False)
    """

    __slots__ = ("by_prefix", "own")

    NONE = RoomOptions()

    def __init__(self) -> None:
        self.own: dict[str, RoomOptions] = {}
        """What this process was told itself."""
        self.by_prefix: dict[str, RoomOptions] = {}
        """That, and what others have where this one has nothing; the longest prefix first."""

    def __bool__(self) -> bool:
        return bool(self.by_prefix)

    def put(self, prefix: str, options: RoomOptions) -> None:
        """Set the options of rooms whose names begin with a plain string.

        Raises:
            TypeError: The prefix is no str.
        """
        if not isinstance(prefix, str):
            raise TypeError(
                f"configure_rooms({prefix!r:.200}): give what the rooms' names begin with"
            )
        self.own[prefix] = options
        self._merge({**self.by_prefix, prefix: options})

    def adopt(self, others: Mapping[str, RoomOptions]) -> None:
        """Use what other processes have, for the prefixes that this one says nothing of.

        In place of what was adopted before.
        """
        self._merge({**others, **self.own})

    def _merge(self, options: dict[str, RoomOptions]) -> None:
        self.by_prefix = dict(sorted(options.items(), key=lambda each: -len(each[0])))

    def of(self, room: str) -> RoomOptions:
        """Return a room's options."""
        for prefix, options in self.by_prefix.items():
            if room.startswith(prefix):
                return options
        return self.NONE
