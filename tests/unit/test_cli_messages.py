"""Messages as they are declared on a command line."""

import builtins
import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import WebSocketResource
from falcon_pachinko.messages.definition import RESERVED
from pachinko_cli.errors import CliError
from pachinko_cli.messages import ATTRIBUTES, TYPES, Field, message, messages


def test_a_message_is_a_type_and_its_fields():
    """Blanks do not count, a type may be left out, and a question mark makes it optional."""
    read = message(" say: text, at = datetime? ")

    assert (read.type, read.fields) == (
        "say",
        (Field("text", "str"), Field("at", "datetime", optional=True)),
    )


def test_a_message_without_fields_has_no_payload():
    """A type alone is enough."""
    assert message("leave").fields == ()


@pytest.mark.parametrize("typed", ["say:text=str,at=datetime?", "leave", "a.b-c:x=list[int]"])
def test_a_message_is_written_as_it_is_typed(typed):
    """So it can be noted, and typed again."""
    assert str(message(typed)) == typed


@pytest.mark.parametrize("name", TYPES)
def test_every_type_may_be_typed_in_any_case(name):
    """`uuid` and `UUID` are one."""
    assert message(f"say:x={name.lower()}").fields == (Field("x", name),)


UNREADABLE = (
    *("", ":", "1", "s ay", "say\n2", "s\u00e1y", "a" * 33),
    *("say:", "say:,", "say:x y", "say:1", "say:_x", "say:\u00e9", f"say:{'x' * 41}"),
    *("say:class", "say:str", "say:a,a", "say:x=os.system"),
)


@pytest.mark.parametrize("typed", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_its_reason(typed):
    """Exit 2, and one line that shows how it is written."""
    with pytest.raises(CliError, match=r"^--message ") as refused:
        message(typed)

    assert refused.value.exit_code == 2
    assert refused.value.hint


@given(st.text(max_size=60))
def test_whatever_is_typed_is_a_message_or_a_refusal(typed):
    """And what is a message is made of identifiers."""
    try:
        read = message(typed)
    except CliError:
        return
    names = [read.words, read.method(), read.struct("Notes"), *(each.name for each in read.fields)]

    assert all(name.isidentifier() and name.isascii() for name in names)


@pytest.mark.parametrize("typed", ["string", "integer", "boolean", "number", "list", "object"])
def test_another_language_s_type_is_understood(typed):
    """The hint has the one that is meant."""
    with pytest.raises(CliError) as refused:
        message(f"say:x={typed}")

    assert refused.value.hint.removeprefix("did you mean ").removesuffix("?") in TYPES


@pytest.mark.parametrize("other", ["a_b", "A-B", "a.b", "handle_a_b", "a_b_payload", "aB"])
def test_two_messages_must_not_come_to_one_name(other):
    """Their handlers, or their structs, would be called alike."""
    with pytest.raises(CliError, match="would be called like that of 'a-b'"):
        messages(["a-b", other])


@pytest.mark.parametrize("words", ["send", "on_connect", "room", "list", "class", "state"])
def test_a_handler_hides_nothing(words):
    """What the resource has, a builtin or a keyword gets a longer name."""
    assert message(words).method() == f"handle_{words}"


def test_a_handler_may_not_be_called_like_a_parameter():
    """The parameter is kept under that name."""
    assert message("key").method(frozenset({"key"})) == "handle_key"


@pytest.mark.parametrize("words", ["notes", "struct", "request", "exception", "uuid"])
def test_a_struct_hides_nothing(words):
    """Neither the resource nor what its module imports."""
    name = message(words).struct("Notes")

    assert name in {f"{words.capitalize()}Payload", "Uuid"}
    assert not hasattr(builtins, name)


def test_the_attributes_of_a_resource_are_known():
    """The list is the class's, with what is reserved, and the one that a room adds."""
    public = {name for name in dir(WebSocketResource) if not name.startswith("_")}
    public |= set(WebSocketResource.__annotations__) - {
        name for name in WebSocketResource.__annotations__ if name.startswith("_")
    }

    assert public | set(RESERVED) | {"room"} == ATTRIBUTES
    assert not any(keyword.iskeyword(name) for name in ATTRIBUTES)
