"""Settings, read from the environment once, when the app is made."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

PREFIX = "{{ cookiecutter.package | upper }}_"


@dataclass(frozen=True)
class Config:
    """What the app can be told from outside.

    Each field has an environment variable: its name in capitals, behind `PREFIX`.

    Attributes:
        tick_every: Seconds between two ticks of the clock.
    """

    tick_every: float = 10.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read what is set, and keep the default of what is not.

        Raises:
            ValueError: A variable is set to something that is no number above zero.
        """
        variable = f"{PREFIX}TICK_EVERY"
        value = environment.get(variable)
        if value is None:
            return cls()
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise ValueError(f"{variable} is {value!r}; set it to seconds, such as 10")
        return cls(tick_every=seconds)
