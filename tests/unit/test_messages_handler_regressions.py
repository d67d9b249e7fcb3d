"""Mistakes that handlers once let through, and must not again."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Generic, TypeVar

import msgspec
import pytest

from falcon_pachinko import HandlerDefinitionError, WebSocketResource, handles_message
from falcon_pachinko.messages.envelopes import Refusal

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Inner(msgspec.Struct):
    n: int


class Outer(msgspec.Struct):
    inner: Inner


class Explosive(msgspec.Struct):
    n: int = 0

    def __post_init__(self):
        raise KeyError("not one of msgspec's own")


def refused(resource, message):
    with pytest.raises(Refusal) as refusal:
        resource.__pachinko_table__.open(json.dumps(message))
    return refusal.value.code


def test_a_constraint_on_the_payload_counts():
    """``Annotated[int, Meta(ge=1)]`` is what msgspec's users write, and it holds."""

    class Room(WebSocketResource):
        @handles_message("bid")
        async def bid(self, ws, payload: Annotated[int, msgspec.Meta(ge=1)]): ...

    assert refused(Room, {"type": "bid", "payload": 0}) == "invalid_payload"


def test_a_constraint_inside_the_payload_counts():
    class Room(WebSocketResource):
        @handles_message("bids")
        async def bids(self, ws, payload: list[Annotated[int, msgspec.Meta(ge=1)]]): ...

    assert refused(Room, {"type": "bids", "payload": [0]}) == "invalid_payload"


def test_a_redefinition_without_the_decorator_finds_local_types():
    """As it may with the decorator."""

    class Local(msgspec.Struct):
        n: int

    class Base(WebSocketResource):
        @handles_message("say")
        async def say(self, ws, payload: Local): ...

    class Sub(Base):
        async def say(self, ws, payload: Local): ...

    assert Sub.__pachinko_table__.handlers["say"].payload is Local


def test_unknown_fields_of_a_generic_struct_are_refused():
    class Room(WebSocketResource):
        @handles_message("page")
        async def page(self, ws, payload: Page[int]): ...

    message = {"type": "page", "payload": {"items": [1], "extra": 1}}
    assert refused(Room, message) == "invalid_payload"


def test_unknown_fields_of_an_optional_dataclass_are_refused():
    @dataclasses.dataclass
    class Data:
        n: int

    class Room(WebSocketResource):
        @handles_message("data")
        async def data(self, ws, payload: Data | None): ...

    message = {"type": "data", "payload": {"n": 1, "extra": 1}}
    assert refused(Room, message) == "invalid_payload"


@pytest.mark.parametrize("payload_type", [Outer, list[Inner], dict[str, Inner]])
def test_unknown_fields_further_inside_are_refused(payload_type):
    """However deep in the payload they are."""

    class Room(WebSocketResource):
        @handles_message("t")
        async def t(self, ws, payload: payload_type): ...

    inner = {"n": 1, "extra": 1}
    payload = {Outer: {"inner": inner}, list[Inner]: [inner]}.get(payload_type, {"a": inner})
    assert refused(Room, {"type": "t", "payload": payload}) == "invalid_payload"


@pytest.mark.parametrize("message_type", ["a\0b", "\ud800"])
def test_a_type_that_cannot_be_on_the_wire_is_a_handler_error(message_type):
    """The error names the handler's type and is one of ours."""
    with pytest.raises(HandlerDefinitionError):

        class Room(WebSocketResource):
            @handles_message(message_type)
            async def say(self, ws): ...


def test_a_static_handler_is_not_lost_in_silence():
    """``@staticmethod`` above the decorator is a mistake that is found with the class."""
    with pytest.raises(HandlerDefinitionError, match="drop its @staticmethod"):

        class Room(WebSocketResource):
            @staticmethod
            @handles_message("say")
            async def say(_self, ws): ...
