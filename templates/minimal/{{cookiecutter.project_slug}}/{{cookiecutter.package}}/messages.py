"""The messages, as structs; one that does not fit them does not reach a handler."""

from datetime import datetime

from msgspec import Struct


class Words(Struct):
    """The payload of `echo`, and of its reply."""

    text: str


class Tick(Struct):
    """The payload of `tick`: the time on the server."""

    time: datetime
