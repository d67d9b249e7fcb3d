"""An app with something to bite on for every hostile frame: handlers of all kinds of payloads."""

import datetime as dt
import decimal
import enum
import uuid
from typing import Any

import falcon.asgi
import msgspec
from pulse import Pulse

from falcon_pachinko import Limits, WebSocketResource, handles_message, install


class Colour(enum.Enum):
    """One of few."""

    RED = "red"


class Person(msgspec.Struct):
    """A struct in structs."""

    name: str
    age: int = 0
    friends: list["Person"] = []


class Move(msgspec.Struct, tag="move"):
    """A message of the schema."""

    x: float
    y: float = 0.0
    note: Any = None


class Stop(msgspec.Struct, tag="stop"):
    """A message of the schema with nothing in it."""


class Bait(WebSocketResource):
    """Has methods that no frame may reach."""

    async def lure(self, ws, payload=None):
        """Never to be reached: no handler."""
        print("reached", flush=True)

    async def on_disconnect(self, ws, close_code):
        """Report the end, and what is none."""
        print("bye" if ws.closed else "reached", flush=True)


class Envelopes(Bait):
    """Takes a payload of each kind, and says so."""

    @handles_message("text")
    async def text(self, ws, payload: str):
        """Take text."""
        return "taken"

    @handles_message("whole")
    async def whole(self, ws, payload: int):
        """Take a whole number."""
        return "taken"

    @handles_message("real")
    async def real(self, ws, payload: float):
        """Take a number."""
        return "taken"

    @handles_message("exact")
    async def exact(self, ws, payload: decimal.Decimal):
        """Take a number of any size."""
        return "taken"

    @handles_message("when")
    async def when(self, ws, payload: dt.datetime):
        """Take a time."""
        return "taken"

    @handles_message("long")
    async def long(self, ws, payload: dt.timedelta):
        """Take a duration."""
        return "taken"

    @handles_message("who")
    async def who(self, ws, payload: uuid.UUID):
        """Take a UUID."""
        return "taken"

    @handles_message("blob")
    async def blob(self, ws, payload: bytes):
        """Take bytes."""
        return "taken"

    @handles_message("colour")
    async def colour(self, ws, payload: Colour):
        """Take one of few."""
        return "taken"

    @handles_message("person")
    async def person(self, ws, payload: Person):
        """Take a tree."""
        return "taken"

    @handles_message("bag")
    async def bag(self, ws, payload: set[int | str]):
        """Take what is hashed."""
        return "taken"

    @handles_message("table")
    async def table(self, ws, payload: dict[int, list[Any]]):
        """Take an object."""
        return "taken"

    @handles_message("any")
    async def any(self, ws, payload):
        """Take whatever can be decoded."""
        return "taken"

    @handles_message("nothing")
    async def nothing(self, ws):
        """Take nothing."""
        return "taken"


class Schema(Bait):
    """Takes tagged structs, and text as a sign of life."""

    schema = Move | Stop

    @handles_message("move")
    async def move(self, ws, message: Move):
        """Take a struct."""
        return "taken"

    @handles_message("stop")
    async def stop(self, ws):
        """Take none."""
        return "taken"

    @handles_message("text")
    async def text(self, ws, payload: str):
        """Take text."""
        return "taken"


class Fallback(Schema):
    """Takes what nobody else does."""

    async def on_message(self, ws, message):
        """Answer once, as a handler does, whether the frame has a ref or not."""
        return "unclaimed"


app = falcon.asgi.App()
# One client sends the whole corpus here, which is no flood for once.
install(app, limits=Limits(burst=100_000))
app.add_websocket_route("/envelopes", Envelopes)
app.add_websocket_route("/schema", Schema)
app.add_websocket_route("/fallback", Fallback)
Pulse(app)
