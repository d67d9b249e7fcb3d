"""The words on the wire, as structs: what does not fit them never reaches a handler."""

from datetime import datetime

from msgspec import Struct


class Words(Struct):
    """The payload of `echo`, and of its reply."""

    text: str


class Tick(Struct):
    """The payload of `tick`: what time it is here."""

    time: datetime
