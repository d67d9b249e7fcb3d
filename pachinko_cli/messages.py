"""Messages as they are declared on a command line: `say:text=str,at=datetime?`."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass

from pachinko_cli.errors import USAGE, CliError, shown
from pachinko_cli.modules import class_name, first_free, snake_case

LONGEST_TYPE = 32
LONGEST_FIELD = 40

# What a field may be: how it is annotated, and a value as it travels, in Python.
TYPES = {
    "str": ("str", '"some text"'),
    "int": ("int", "1"),
    "float": ("float", "1.5"),
    "bool": ("bool", "True"),
    "list[str]": ("list[str]", '["some text"]'),
    "list[int]": ("list[int]", "[1, 2]"),
    "list[float]": ("list[float]", "[1.5]"),
    "dict": ("dict[str, Any]", '{"key": "value"}'),
    "datetime": ("datetime", '"2026-01-02T03:04:05Z"'),
    "UUID": ("UUID", '"0b8a3c6e-5d1f-4a7b-9c2d-3e4f5a6b7c8d"'),
}
# What people type who think of another language.
_MEANT = {
    "string": "str",
    "text": "str",
    "integer": "int",
    "number": "float",
    "double": "float",
    "boolean": "bool",
    "array": "list[str]",
    "list": "list[str]",
    "object": "dict",
    "date": "datetime",
    "time": "datetime",
    "timestamp": "datetime",
}

# Names that generated modules use for something else.
IMPORTED = frozenset(
    """
    Any App Connection Config Request Struct UUID WebSocketConnectionManager WebSocketResource
    WebSocketRouter datetime handles_message
    """.split()  # noqa: SIM905 - as a list literal it takes a dozen lines
)
# What a resource has already, or may not have; tests/unit/test_cli_messages.py compares it.
ATTRIBUTES = frozenset(
    """
    around_message asks broadcast_to_room close_on_error emits hooks join_room leave_room
    on_connect on_disconnect on_message on_refused parent room schema send spawn state
    subprotocols topics track untrack ws
    """.split()  # noqa: SIM905 - see above
)
KEYWORDS = frozenset(keyword.kwlist)
AMBIGUOUS = frozenset("lIO")  # a project's linter takes them for digits

_NO_FIELDS = KEYWORDS | {"Any", "Struct", "UUID", "bool", "datetime", "dict", "float", "int"}
_NO_FIELDS |= {"list", "self", "str"}

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Field:
    """One field of a payload; an optional one may be left out, and is None then."""

    name: str
    type: str
    optional: bool = False

    @property
    def line(self) -> str:
        """The field as a struct has it."""
        annotation, _ = TYPES[self.type]
        line = f"{self.name}: {annotation}{' | None = None' * self.optional}"
        return f"{line}  # noqa: E741 - as it travels" if self.name in AMBIGUOUS else line

    @property
    def sample(self) -> str:
        """An item of a dict: a value that fits."""
        return f'"{self.name}": {TYPES[self.type][1]}'


@dataclass(frozen=True)
class Message:
    """A type of message, and the fields of its payload; without fields it has no payload."""

    type: str
    fields: tuple[Field, ...] = ()

    def __str__(self) -> str:
        """The message as it is typed."""
        fields = ",".join(f"{each.name}={each.type}{'?' * each.optional}" for each in self.fields)
        return f"{self.type}:{fields}" if fields else self.type

    @property
    def words(self) -> str:
        """The type as an identifier."""
        return snake_case(self.type.replace(".", "_"))

    @property
    def has_required_fields(self) -> bool:
        """Whether an empty payload does not fit."""
        return any(not each.optional for each in self.fields)

    def method(self, taken: frozenset[str] = frozenset()) -> str:
        """What the handler is called."""
        words = self.words
        candidates = (words,) if words not in KEYWORDS else ()
        return first_free(*candidates, f"handle_{words}", taken=taken | ATTRIBUTES | IMPORTED)

    def struct(self, resource: str) -> str:
        """What the payload's struct is called, beside a resource of that name."""
        name = class_name(self.words)
        return first_free(name, f"{name}Payload", taken=IMPORTED | {resource})


def message(text: str) -> Message:
    """Read a message as it is typed: its type, then its fields, each with a type of Python.

    >>> message("say:text=str,at=datetime?").fields[1]
    Field(name='at', type='datetime', optional=True)

    Raises:
        CliError: It cannot be read; the message says which part (exit 2).
    """
    kind, colon, rest = text.strip().partition(":")
    if not _TYPE.fullmatch(kind):
        raise _refused(text, f"the type {shown(kind)} is not letters, digits, - . and _")
    if len(kind) > LONGEST_TYPE:
        raise _refused(text, f"the type has {len(kind)} characters, and {LONGEST_TYPE} is the most")
    if colon and not rest.strip():
        raise _refused(text, "there is no field after the colon")
    fields = tuple(_field(text, each.strip()) for each in rest.split(",")) if colon else ()
    names = [each.name for each in fields]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _refused(text, f"the field {shown(twice)} is there twice")
    return Message(kind, fields)


def messages(typed: list[str]) -> tuple[Message, ...]:
    """Read several messages of one resource, which must not come to one name.

    Raises:
        CliError: One cannot be read, or two would have the same handler (exit 2).
    """
    read = [message(text) for text in typed]
    known: dict[str, Message] = {}
    for each in read:
        # What `method` and `struct` may put around the words counts for nothing here.
        words = each.words.removeprefix("handle_").removesuffix("_payload")
        if twin := known.get(words):
            raise _refused(str(each), f"its handler would be called like that of {twin.type!r}")
        known[words] = each
    return tuple(read)


def _field(text: str, typed: str) -> Field:
    name, _, kind = (part.strip() for part in typed.partition("="))
    kind = kind or "str"
    if not _FIELD.fullmatch(name):
        raise _refused(text, f"the field {shown(name)} is not letters, digits and _")
    if name in _NO_FIELDS:
        raise _refused(text, f"no field can be called {shown(name)} in Python")
    if len(name) > LONGEST_FIELD:
        raise _refused(text, f"the field {shown(name)} is too long; {LONGEST_FIELD} is the most")
    optional, kind = kind.endswith("?"), kind.removesuffix("?").strip()
    known = next((each for each in TYPES if each.lower() == kind.lower()), None)
    if known is None:
        meant = _MEANT.get(kind.lower())
        raise CliError(
            f"--message {shown(text)}: there is no type {shown(kind)}",
            hint=f"did you mean {meant}?"
            if meant
            else f"types: {', '.join(TYPES)}; ? for optional",
            exit_code=USAGE,
        )
    return Field(name, known, optional)


def _refused(text: str, why: str) -> CliError:
    return CliError(
        f"--message {shown(text)}: {why}",
        hint="write it like this: --message say:text=str,at=datetime?",
        exit_code=USAGE,
    )
