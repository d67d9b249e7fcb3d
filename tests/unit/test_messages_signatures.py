"""What a handler takes: defaults, callables of all kinds, annotations, type arguments."""

from __future__ import annotations

import enum
import functools
import sys
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import msgspec
import pytest

from falcon_pachinko import HandlerDefinitionError, WebSocketResource, handles_message
from falcon_pachinko.messages.codec import DEFAULT_CODECS
from falcon_pachinko.messages.envelopes import NoPayload, Refusal

if TYPE_CHECKING:
    from datetime import datetime

    from falcon_pachinko import Connection

T = TypeVar("T")
K = TypeVar("K")
Bound = TypeVar("Bound", bound="Say")
Choice = TypeVar("Choice", int, str)


class Say(msgspec.Struct):
    text: str


class Shout(Say):
    loud: bool = True


class Page(msgspec.Struct, Generic[T]):
    items: list[T]


class Dated(msgspec.Struct):
    at: datetime


def payload_of(resource, message_type="say"):
    return resource.__pachinko_table__.handlers[message_type].payload


def opened(resource, payload, message_type="say"):
    frame = msgspec.json.encode({"type": message_type, "payload": payload}).decode()
    return resource.__pachinko_table__.open(frame)[1]


def refused(resource, payload, message_type="say"):
    with pytest.raises(Refusal, match="invalid_payload") as refusal:
        opened(resource, payload, message_type)
    return refusal.value.path


# Types.


class Kind(enum.StrEnum):
    SAY = "say"


class Old(str, enum.Enum):  # noqa: UP042  # as it was written before Python 3.11
    SAY = "say"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("kind", [Kind.SAY, Old.SAY, Text("say")])
def test_a_type_may_be_any_kind_of_text(kind):
    """What counts is the text itself."""

    class Room(WebSocketResource):
        @handles_message(kind)
        async def say(self, ws, payload: Say): ...

    assert Room.__pachinko_table__.types == ("say",)
    assert type(Room.__pachinko_table__.types[0]) is str


# Defaults.

DEFAULT = Say("default")


class Defaults(WebSocketResource):
    @handles_message("number")
    async def number(self, ws, payload: int = 20): ...

    @handles_message("page")
    async def page(self, ws, payload: Say = DEFAULT): ...

    @handles_message("maybe")
    async def maybe(self, ws, payload: Say | None = None): ...

    @handles_message("bare")
    async def bare(self, ws, payload="bare"): ...

    @handles_message("none")
    async def none(self, ws, payload: dict = None): ...  # noqa: RUF013  # as people write it

    @handles_message("struct")
    async def struct(self, ws, payload: Shout | int): ...


@pytest.mark.parametrize(
    ("message_type", "default"),
    [("number", 20), ("page", Say("default")), ("maybe", None), ("bare", "bare"), ("none", None)],
)
def test_a_missing_payload_is_the_parameters_default(message_type, default):
    """It comes first, whatever the type is; one that is sent is what it is."""
    table = Defaults.__pachinko_table__

    assert table.open(f'{{"type":"{message_type}"}}')[1] == default


@pytest.mark.parametrize(("message_type", "sent"), [("number", 0), ("maybe", None), ("bare", 0)])
def test_a_payload_that_is_sent_is_not_missing(message_type, sent):
    """Not even if it is null or zero."""
    assert opened(Defaults, sent, message_type) == sent


# What is called.


class Callable_:  # noqa: N801  # its own name for errors
    async def __call__(self, ws, payload: Say): ...


class OnlyWs:
    async def __call__(self, ws): ...


class Plain:
    def __call__(self, ws): ...


def test_an_object_that_can_be_called_is_a_handler():
    """It is called as an attribute of the instance is: without ``self``."""

    class Room(WebSocketResource):
        say = handles_message("say")(Callable_())
        quiet = handles_message("quiet")(OnlyWs())

    assert payload_of(Room) is Say
    assert payload_of(Room, "quiet") is NoPayload


def test_an_object_whose_call_is_not_a_coroutine_is_refused():
    with pytest.raises(HandlerDefinitionError, match="is not a coroutine"):
        handles_message("say")(Plain())


def test_a_partial_method_is_a_handler():
    """What it fixes is not asked for."""

    class Room(WebSocketResource):
        async def shout(self, volume, ws, payload: Say, *, echo): ...

        say = handles_message("say")(functools.partialmethod(shout, 11, echo=True))

    assert payload_of(Room) is Say


def test_a_partial_method_that_fixes_too_little_is_refused():
    async def shout(self, volume, ws, payload): ...

    with pytest.raises(HandlerDefinitionError, match="is called with"):
        handles_message("say")(functools.partialmethod(shout))


def test_a_partial_method_may_stand_in_a_bases_place():
    """As a function may."""

    class Base(WebSocketResource):
        @handles_message("say")
        async def say(self, ws, payload: Say): ...

    class Room(Base):
        async def shout(self, volume, ws, payload: Shout): ...

        say = functools.partialmethod(shout, 3)

    assert payload_of(Room) is Shout


# Annotations.


def test_only_the_payloads_annotation_is_looked_at():
    """The others may name what only a type checker imports."""

    class Room(WebSocketResource):
        @handles_message("say")
        async def say(self, ws: Connection, payload: Say) -> datetime: ...

        @handles_message("quiet")
        async def quiet(self, ws: Connection) -> None: ...

    assert payload_of(Room) is Say


def test_a_name_that_is_missing_in_a_struct_is_a_sentence():
    """It names the handler and the payload's type."""
    with pytest.raises(
        HandlerDefinitionError, match=r"Room\.say takes a payload of .*Dated.*'datetime' is not def"
    ):

        class Room(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: Dated): ...


def test_a_local_struct_that_refers_to_itself_is_a_sentence():
    """It says where to define it."""

    class Node(msgspec.Struct):
        below: list[Node] = []

    with pytest.raises(HandlerDefinitionError, match="define a struct that refers to itself at"):

        class Room(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: Node): ...


@pytest.mark.parametrize("wanted", [object, Any])
def test_an_object_is_anything(wanted):
    """As for a type checker."""

    class Room(WebSocketResource):
        @handles_message("say")
        async def say(self, ws, payload: wanted): ...

    assert opened(Room, {"a": [1]}) == {"a": [1]}


# Type arguments.


class Base(WebSocketResource, Generic[T]):
    @handles_message("say")
    async def say(self, ws, payload: T): ...

    @handles_message("list")
    async def many(self, ws, payload: list[T]): ...

    @handles_message("nested")
    async def nested(self, ws, payload: dict[str, Page[T]] | None): ...

    @handles_message("noted")
    async def noted(self, ws, payload: Annotated[T, msgspec.Meta(description="x")]): ...


class Says(Base[Say]):
    pass


class Between(Base[Page[K]], Generic[K]):
    pass


class Pages(Between[int]):
    async def many(self, ws, payload): ...


def test_type_parameters_are_filled_in():
    """Wherever they stand in the annotation."""
    assert payload_of(Says) is Say
    assert payload_of(Says, "list") == list[Say]
    assert payload_of(Says, "nested") == dict[str, Page[Say]] | None
    assert refused(Says, {"text": 1}) == "$.payload.text"
    assert refused(Says, [{"text": "a", "x": 1}], "list") == "$.payload[...]"
    assert refused(Says, {"a": {"items": [3]}}, "nested") == "$.payload[...].items[0]"
    assert refused(Says, {"text": "a", "x": 1}, "noted") == "$.payload"


def test_type_parameters_are_filled_in_over_several_levels():
    """And for handlers that a subclass redefines."""
    assert payload_of(Pages) == Page[int]
    assert payload_of(Pages, "list") == list[Page[int]]
    assert refused(Pages, {"items": ["a"]}) == "$.payload.items[0]"


def test_a_redefinition_keeps_what_was_filled_in():
    """It is not filled in twice, though the parameters share a name."""

    class Middle(Base[Page[T]], Generic[T]):
        async def say(self, ws, payload): ...

    class Outer(Middle[list[T]], Generic[T]): ...

    class Room(Outer[int]): ...

    assert payload_of(Room) == Page[list[int]]


def test_two_parameters_are_not_mixed_up():
    """Each base has its own."""

    class Two(WebSocketResource, Generic[K, T]):
        @handles_message("k")
        async def k(self, ws, payload: K): ...

        @handles_message("t")
        async def t(self, ws, payload: T): ...

    class Swapped(Two[T, K], Generic[K, T]): ...

    class Room(Swapped[int, str]): ...

    assert (payload_of(Room, "k"), payload_of(Room, "t")) == (str, int)


def test_a_bound_and_constraints_stand_for_a_parameter():
    """As long as nothing is said."""

    class Room(WebSocketResource, Generic[Bound, Choice]):
        @handles_message("say")
        async def say(self, ws, payload: Bound): ...

        @handles_message("choice")
        async def choice(self, ws, payload: list[Choice]): ...

    class Loud(Room[Shout, str]): ...

    assert payload_of(Room) is Say
    assert payload_of(Room, "choice") == list[int | str]
    assert (payload_of(Loud), payload_of(Loud, "choice")) == (Shout, list[str])
    assert refused(Room, {}) == "$.payload"


def test_a_parameter_that_nothing_fills_in_is_refused_with_the_class():
    """The sentence shows how it is written."""
    with pytest.raises(HandlerDefinitionError, match=r"nothing says what ~T is.*Base\[Say\]"):
        type("Room", (Base,), {})

    with pytest.raises(HandlerDefinitionError, match="nothing says what ~T is"):

        class Room(WebSocketResource):
            @handles_message("say")
            async def say(self, ws, payload: T): ...


def test_an_open_parameter_is_refused_when_it_is_routed():
    """The generic class itself can be made, but not served."""
    with pytest.raises(
        HandlerDefinitionError, match=r"Base\.\w+ takes a payload of .*nothing says"
    ):
        Base.__pachinko_table__.compiled(DEFAULT_CODECS)


if sys.version_info >= (3, 12):

    @pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
    def test_the_newer_syntax_works(future):
        """``class Base[T](WebSocketResource)``, ``type Alias = ...``."""
        namespace = {"Say": Say}
        exec(
            future + "from falcon_pachinko import WebSocketResource, handles_message\n"
            "import msgspec\n"
            "type Many[X] = list[X]\n"
            "type Alias = Say\n"
            "class Base[T, B: Say](WebSocketResource):\n"
            "    @handles_message('say')\n"
            "    async def say(self, ws, payload: T): ...\n"
            "    @handles_message('bound')\n"
            "    async def bound(self, ws, payload: dict[str, B]): ...\n"
            "    @handles_message('alias')\n"
            "    async def alias(self, ws, payload: Alias): ...\n"
            "class Sub(Base[list[Say], Say]): ...\n",
            namespace,
        )

        Sub = namespace["Sub"]  # noqa: N806  # a class
        assert payload_of(Sub) == list[Say]
        assert payload_of(Sub, "bound") == dict[str, Say]
        assert payload_of(namespace["Base"], "bound") == dict[str, Say]
        assert refused(Sub, {"text": "a", "x": 1}, "alias") == "$.payload"
