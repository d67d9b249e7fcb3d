"""The type that a payload is decoded into first: unknown fields refused, hashing bounded.

msgspec ignores an unknown field unless the struct's own class forbids it, and
it hashes whatever a client puts into a set or uses as a key. The classes are the
application's, so neither can be changed there. Instead, every payload type has a
strict twin: the same shape made of structs of ours, which refuse unknown fields
wherever they are. The application's classes are neither changed nor subclassed.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from dataclasses import dataclass, replace
from inspect import signature
from typing import Annotated, Any, ForwardRef, Literal, NamedTuple, Union, get_origin

import msgspec
from msgspec import inspect
from msgspec.structs import asdict, astuple

from falcon_pachinko.messages.keys import MOST_NUMBERS
from falcon_pachinko.messages.nesting import recursive_tags

__all__ = ["Builder", "StrictType", "strict_type", "struct_twin"]

_INT64 = {"ge": -(2**63), "le": 2**63 - 1}
"""The bounds of whole numbers that are hashed: of larger ones, any number hash alike."""

_OBJECTS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_SETS = (inspect.SetType, inspect.FrozenSetType)
_SAFE_TO_HASH = (
    inspect.StrType,  # hashed with a key that no client knows, as bytes are
    inspect.BytesType,
    inspect.EnumType,  # as many as the application has
    inspect.LiteralType,
    inspect.NoneType,
    inspect.BoolType,
    inspect.DateType,  # as text is
    inspect.IntType,  # of 64 bits, so that a handful share a hash
    inspect.DateTimeType,  # as few, since their parts are small
    inspect.TimeType,
    inspect.TimeDeltaType,
)
_NUMBERS = (
    inspect.IntType,
    inspect.FloatType,
    inspect.DateTimeType,
    inspect.TimeType,
    inspect.TimeDeltaType,
)
"""What is hashed by a rule that clients know: `MOST_NUMBERS` of them at most."""

_PLAIN: dict[type[inspect.Type], Any] = {
    inspect.NoneType: None,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytearray,
    inspect.MemoryViewType: memoryview,
    inspect.DateTimeType: dt.datetime,
    inspect.TimeType: dt.time,
    inspect.DateType: dt.date,
    inspect.TimeDeltaType: dt.timedelta,
    inspect.UUIDType: uuid.UUID,
    inspect.DecimalType: decimal.Decimal,
    inspect.ExtType: msgspec.msgpack.Ext,
    inspect.RawType: msgspec.Raw,
}
_LIST: Any = list  # so that a type checker does not take what is made of them for annotations
_TUPLE: Any = tuple
_DICT: Any = dict

_CONSTRAINTS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "tz")


class Builder(NamedTuple):
    """Makes a struct of the application's out of its twin.

    So its ``__post_init__`` is called once, on an instance of its own class.
    """

    make: type[msgspec.Struct]
    """The application's class."""
    in_order: bool
    """True if it takes all its fields by position, in the order of the twin's."""

    def __call__(self, twin: Any) -> Any:
        """Make an instance; raises what the class's own ``__post_init__`` does."""
        if self.in_order:
            return self.make(*astuple(twin)[: len(self.make.__struct_fields__)])
        values = asdict(twin)
        return self.make(**{name: values[name] for name in self.make.__struct_fields__})


@dataclass(frozen=True)
class StrictType:
    """What to decode in a type's stead, and what is left to do then."""

    wire: Any
    """The strict type; the declared one where that is strict enough."""
    same: bool
    """True if decoding into `wire` gives values of the declared type."""
    builders: dict[type, Builder]
    """How to make the values that are not: by the class of ours, where that is enough.

    Where `same` is False and this is empty, the frame is decoded again.
    """
    untyped: bool
    """True if a part of it is decoded as it comes, so that a client chooses what the keys are."""
    custom: tuple[type, ...]
    """The types in it that only an application's ``dec_hook`` can make."""
    counted: Any
    """Like `wire`, but with lists for what hashes numbers; None where nothing does.

    In JSON a set is made before its length is known, so long frames are decoded into this first.
    """
    tags: frozenset[str]
    """The tag fields of its recursive unions; see `nesting`."""


def strict_type(wanted: Any, *, forbid_unknown_fields: bool) -> StrictType:
    """Make the strict twin of a type.

    Args:
        wanted: The declared type, as one annotates it.
        forbid_unknown_fields: Refuse unknown fields, also where the classes do not.

    Raises:
        TypeError: A client could make the decoding take arbitrarily long.
        NameError: An annotation in it cannot be resolved.
    """
    twins = _Twins(forbid=forbid_unknown_fields)
    known = inspect.type_info(wanted)
    twin = twins.of(known)
    twins.link()
    builders = {} if twin.same else _builders(known, twins)
    counted = None
    if twins.numbers:
        counting = _Twins(forbid=forbid_unknown_fields, counting=True)
        counted = counting.of(known).wire
        counting.link()
    return StrictType(
        twin.wire if twin.changed else wanted,
        twin.same,
        builders,
        twins.untyped,
        tuple(twins.custom),
        counted,
        recursive_tags(known),
    )


def struct_twin(
    struct: type[msgspec.Struct], extra: list[tuple[str, Any, Any]], *, forbid: bool
) -> tuple[type[msgspec.Struct], Builder | None, StrictType]:
    """Make a struct's twin that always is one of ours, with more fields at its end.

    Returns:
        The twin; what makes the application's own of it, or None where the frame has to be
        decoded again; and the rest that is known of it.
    """
    twins = _Twins(forbid=forbid)
    known = inspect.type_info(struct)
    assert isinstance(known, inspect.StructType)
    twin, flat = twins.of_struct(known, extra)
    rest = StrictType(
        twin,
        same=False,
        builders={},
        untyped=twins.untyped,
        custom=tuple(twins.custom),
        counted=None,
        tags=recursive_tags(known),
    )
    if twins.numbers:
        rest = replace(
            rest, counted=_Twins(forbid=forbid, counting=True).of_struct(known, extra)[0]
        )
    return twin, _builder(known) if flat else None, rest


@dataclass(frozen=True)
class _Twin:
    wire: Any
    """What is decoded."""
    changed: bool
    """True if `wire` is another one than the declared type."""
    same: bool
    """True if values of `wire` are values of the declared type."""


@dataclass(frozen=True)
class _Field(_Twin):
    name: str
    wire_name: str
    default: tuple[Any, ...]
    """Empty for a required field."""


class _Twins:
    """Makes the twins of one payload type, each class once, also if it is within itself."""

    def __init__(self, *, forbid: bool, counting: bool = False) -> None:
        self.untyped = False
        self.numbers = False  # whether some are hashed
        self.custom: list[type] = []
        self.structs: dict[Any, type[msgspec.Struct]] = {}  # by the declared class
        self.flat: set[Any] = set()  # of these, all fields come in their declared types
        self._forbid, self._counting = forbid, counting
        self._names: dict[Any, str] = {}  # of the classes that are being made, or were
        self._recursive: set[Any] = set()

    def of(self, known: inspect.Type) -> _Twin:
        """Make the twin of one type, and of all within it."""
        if isinstance(known, inspect.Metadata):
            return self.of(known.type)
        if isinstance(known, inspect.AnyType):
            self.untyped = True
            return _Twin(Any, changed=False, same=True)
        if isinstance(known, inspect.CustomType):
            self.untyped = True
            if known.cls is object:
                return _Twin(Any, changed=False, same=True)
            self.custom.append(known.cls)
            return _Twin(known.cls, changed=False, same=True)
        if isinstance(known, inspect.EnumType):
            return _Twin(known.cls, changed=False, same=True)
        if isinstance(known, inspect.LiteralType):
            return _Twin(Literal[known.values], changed=False, same=True)
        if isinstance(known, (*_OBJECTS, inspect.NamedTupleType)):
            return self._object(known)
        if type(known) in _PLAIN:
            return _Twin(_constrained(_PLAIN[type(known)], known), changed=False, same=True)
        return self._container(known)

    def _container(self, known: inspect.Type) -> _Twin:
        if isinstance(known, inspect.UnionType):
            members = [self.of(each) for each in known.types]
            union: Any = Union[tuple(each.wire for each in members)]  # noqa: UP007  # known at run time only
            return _combined(union, members)
        if isinstance(known, inspect.TupleType):
            items = [self.of(each) for each in known.item_types]
            return _combined(_TUPLE[tuple(each.wire for each in items)], items)
        if isinstance(known, inspect.VarTupleType):
            item = self.of(known.item_type)
            return _combined(_constrained(_TUPLE[item.wire, ...], known), [item])
        if isinstance(known, _SETS):
            item = self._hashed(known.item_type, "the members of a set", _SAFE_TO_HASH)
            kind: Any = set if isinstance(known, inspect.SetType) else frozenset
            few = self._few(known, known.item_type, "a set", "a list")
            if few:
                item = replace(item, changed=True)
            as_it_is = item.same and not (few and self._counting)
            hashed = kind[item.wire] if as_it_is else _LIST[item.wire]
            return _combined(_constrained(hashed, known, few), [item])
        if isinstance(known, inspect.DictType):
            if isinstance(known.key_type, inspect.AnyType):
                self.untyped = True
                key = _Twin(Any, changed=False, same=True)
            else:
                safe = (*_SAFE_TO_HASH, inspect.FloatType)
                key = self._hashed(known.key_type, "the keys of a dict", safe)
            few = self._few(known, known.key_type, "a dict", "keys of text")
            if few:
                key = replace(key, wire=str if self._counting else key.wire, changed=True)
            value = self.of(known.value_type)
            return _combined(_constrained(_DICT[key.wire, value.wire], known, few), [key, value])
        if isinstance(known, (inspect.ListType, inspect.CollectionType)):
            item = self.of(known.item_type)
            return _combined(_constrained(_LIST[item.wire], known), [item])
        raise TypeError(f"{type(known).__name__} is not supported")

    def _hashed(self, known: inspect.Type, what: str, safe: tuple[type, ...]) -> _Twin:
        """Make the twin of what is hashed, or refuse what a client can make hash alike."""
        if isinstance(known, inspect.Metadata):
            return self._hashed(known.type, what, safe)
        if isinstance(known, inspect.UnionType):
            members = [self._hashed(each, what, safe) for each in known.types]
            union: Any = Union[tuple(each.wire for each in members)]  # noqa: UP007  # known at run time only
            return _combined(union, members)
        if not isinstance(known, safe):
            raise TypeError(
                f"{what} may not be {_shown(known)}: clients could send thousands that hash alike, "
                "and block the process for seconds; use text or whole numbers, or a list"
            )
        if isinstance(known, inspect.IntType):
            return _Twin(_constrained(int, known, _INT64), changed=True, same=True)
        return self.of(known)

    def _few(self, known: Any, hashed: inspect.Type, what: str, instead: str) -> dict[str, int]:
        """Return the rule that bounds a set or dict if it hashes numbers; refuse one that is wider.

        Args:
            known: The set or dict.
            hashed: The type of its members, or keys.
            what: What it is, for the error.
            instead: What to write for more of them.
        """
        if not any(isinstance(each, _NUMBERS) for each in _members(hashed)):
            return {}
        self.numbers = True
        for name in ("min_length", "max_length"):
            if (getattr(known, name, None) or 0) > MOST_NUMBERS:
                raise TypeError(
                    f"{what} of numbers or times may hold {MOST_NUMBERS} at most, and {name} is "
                    f"{getattr(known, name)}: clients could send thousands that block the process "
                    f"for seconds; use max_length={MOST_NUMBERS}, or {instead}"
                )
        return {"max_length": MOST_NUMBERS}

    # Objects.

    def of_struct(
        self, known: inspect.StructType, extra: list[tuple[str, Any, Any]]
    ) -> tuple[type[msgspec.Struct], bool]:
        """Make a twin with more fields; tell whether all others come in their declared types."""
        fields = [self.field(each, each.name) for each in known.fields]
        twin = self.make(known, fields, extra)
        self.link()
        return twin, all(each.same for each in fields)

    def _object(self, known: Any) -> _Twin:
        if known.cls in self._names:  # within itself, or met before
            if known.cls in self.structs:
                return _Twin(self.structs[known.cls], changed=True, same=False)
            self._recursive.add(known.cls)
            return _Twin(ForwardRef(self._names[known.cls]), changed=True, same=False)
        self._names[known.cls] = f"_Twin{len(self._names)}"
        by_name = isinstance(known, inspect.StructType)  # other fields may have any name
        fields = [
            self.field(each, each.name if by_name else f"field{n}")
            for n, each in enumerate(known.fields)
        ]
        forbidding = getattr(known, "forbid_unknown_fields", False)
        closed = isinstance(known, inspect.NamedTupleType)  # more items than it has never fit
        needed = self._forbid and not (forbidding or closed)
        if not needed and not any(each.changed for each in fields):
            del self._names[known.cls]
            return _Twin(known.cls, changed=False, same=True)
        self.structs[known.cls] = self.make(known, fields)
        if all(each.same for each in fields):
            self.flat.add(known.cls)
        return _Twin(self.structs[known.cls], changed=True, same=False)

    def field(self, field: inspect.Field, name: str) -> _Field:
        """Make the twin of one field of an object type."""
        default: tuple[Any, ...] = ()
        if field.default_factory is not msgspec.NODEFAULT:
            default = (msgspec.field(default_factory=field.default_factory),)
        elif field.default is not msgspec.NODEFAULT:
            default = (field.default,)
        elif not field.required:
            default = (msgspec.UNSET,)
        try:
            twin = self.of(field.type)
        except TypeError as error:
            raise TypeError(f"in the field {field.name!r}, {error}") from None
        wire: Any = twin.wire
        if default == (msgspec.UNSET,):
            wire = Union[wire, msgspec.UnsetType]  # noqa: UP007  # `|` fails on some generics
        return _Field(wire, twin.changed, twin.same, name, field.encode_name, default)

    def make(
        self, known: Any, fields: list[_Field], extra: list[tuple[str, Any, Any]] | None = None
    ) -> type[msgspec.Struct]:
        """Make the struct of ours, in the place of an object type with these fields."""
        is_array = isinstance(known, inspect.NamedTupleType) or getattr(known, "array_like", False)
        is_tagged = getattr(known, "tag", None) is not None
        owner = get_origin(known.cls) or known.cls
        return msgspec.defstruct(
            owner.__name__,
            [*((each.name, each.wire, *each.default) for each in fields), *(extra or ())],
            kw_only=True,
            array_like=is_array,
            forbid_unknown_fields=self._forbid or getattr(known, "forbid_unknown_fields", False),
            rename={each.name: each.wire_name for each in fields},
            tag=known.tag if is_tagged else None,
            tag_field=known.tag_field if is_tagged and not is_array else None,
        )

    def link(self) -> None:
        """Let the twins that name themselves, or one another, be found by these names."""
        for cls in self._recursive:
            for struct in self.structs.values():
                setattr(struct, self._names[cls], self.structs[cls])


def _combined(made: Any, parts: list[_Twin]) -> _Twin:
    changed = any(part.changed for part in parts)
    return _Twin(made, changed, all(part.same for part in parts))


def _constrained(made: Any, known: inspect.Type, least: dict[str, int] | None = None) -> Any:
    """Put a type's constraints on, and bounds where it has none of its own."""
    rules = {name: getattr(known, name, None) for name in _CONSTRAINTS}
    given = {name: rule for name, rule in rules.items() if rule is not None}
    for name, rule in (least or {}).items():
        if name not in given and {"ge": "gt", "le": "lt"}.get(name) not in given:
            given[name] = rule
    return Annotated[made, msgspec.Meta(**given)] if given else made


def _members(known: inspect.Type) -> list[inspect.Type]:
    """Return the types of a union, however it is annotated, or the one type that it is."""
    while isinstance(known, inspect.Metadata):
        known = known.type
    if isinstance(known, inspect.UnionType):
        return [each for member in known.types for each in _members(member)]
    return [known]


def _shown(known: inspect.Type) -> str:
    name = type(known).__name__.removesuffix("Type")
    return {"Float": "floats", "Any": "of any type"}.get(name, f"of the type {name}")


def _builders(known: inspect.Type, twins: _Twins) -> dict[type, Builder]:
    """Return what makes the application's instances; nothing if a second pass has to."""
    builders: dict[type, Builder] = {}
    for each in _members(known):
        cls = getattr(each, "cls", None)
        if isinstance(each, inspect.StructType) and cls in twins.flat:
            builders[twins.structs[cls]] = _builder(each)
        elif not _Twins(forbid=twins._forbid).of(each).same:  # one module, one idea
            return {}
    return builders


def _builder(known: inspect.StructType) -> Builder:
    make: type[msgspec.Struct] = get_origin(known.cls) or known.cls
    in_order = all(
        parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        for parameter in signature(make).parameters.values()
    )
    return Builder(make, in_order)
