"""The query of a handshake, decoded into the struct that ``on_connect`` asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import falcon
import falcon.uri
import msgspec
from msgspec import inspect as types

from falcon_pachinko.errors import HandlerDefinitionError, MessageError
from falcon_pachinko.messages.codec import DecHook
from falcon_pachinko.messages.envelopes import SHOWN
from falcon_pachinko.messages.rules import foreign_rule
from falcon_pachinko.messages.signatures import name_of, resolved
from falcon_pachinko.messages.strict import strict_type

__all__ = ["QueryReader", "query_type"]

_ARRAYS = (
    types.ListType,
    types.SetType,
    types.FrozenSetType,
    types.VarTupleType,
    types.TupleType,
    types.CollectionType,
)
_NEVER_TEXT = (
    types.StructType,
    types.DataclassType,
    types.TypedDictType,
    types.NamedTupleType,
    types.DictType,
    types.RawType,
    types.ExtType,
)


def query_type(
    on_connect: Callable[..., Any], dec_hook: DecHook | None = None
) -> type[msgspec.Struct] | None:
    """Return the struct that an ``on_connect`` wants the query to be, or None if it wants none.

    Args:
        on_connect: The method; its parameter ``query`` is annotated with the struct.
        dec_hook: The app's, without which fields of foreign types are refused.

    Raises:
        HandlerDefinitionError: The annotation is something else, or a field of the struct
            is of a type that no text can become.

    >>> class Paging(msgspec.Struct):
    ...     page: int = 1
    >>> async def on_connect(self, req, ws, *, query: Paging): ...
    >>> query_type(on_connect)
    <class 'falcon_pachinko.messages.query.Paging'>
    """
    parameter = inspect.signature(on_connect).parameters.get("query")
    takes = inspect.Parameter
    if parameter is None or parameter.kind not in (takes.KEYWORD_ONLY, takes.POSITIONAL_OR_KEYWORD):
        return None
    name = name_of(on_connect)
    struct = None
    if parameter.annotation is not takes.empty:
        struct = resolved(on_connect, parameter.annotation)
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        shown = "nothing" if struct is None else f"{struct!r}"
        raise HandlerDefinitionError(
            name, f"annotates `query` with {shown}; annotate it with a msgspec.Struct"
        )
    if struct.__struct_config__.array_like:
        raise HandlerDefinitionError(
            name, f"takes a query of {struct.__name__}, which is array_like; its keys have no names"
        )
    rule = foreign_rule(struct)
    if rule is not None:
        raise HandlerDefinitionError(name, f"takes a query of {struct.__name__}, but {rule}")
    try:
        strict_type(struct, forbid_unknown_fields=False)
        known = types.type_info(struct)
        msgspec.json.Decoder(struct)
    except (TypeError, NameError, NotImplementedError) as error:
        why = f"takes a query of {struct.__name__}, which cannot be decoded: {error}"
        raise HandlerDefinitionError(name, why) from None
    assert isinstance(known, types.StructType)
    for field in known.fields:
        if not _is_text(field.type, foreign=dec_hook is not None):
            raise HandlerDefinitionError(
                name,
                f"takes a query of {struct.__name__}, whose field {field.name!r} is of a type that "
                "no text can become; use text, numbers, booleans, dates, enums, or lists of them",
            )
    return struct


def _members(known: types.Type) -> Iterator[types.Type]:
    if isinstance(known, types.Metadata):
        yield from _members(known.type)
    elif isinstance(known, types.UnionType):
        for each in known.types:
            yield from _members(each)
    else:
        yield known


def _is_text(known: types.Type, *, foreign: bool, in_array: bool = False) -> bool:
    """Tell whether a field of this type can be filled from one text, or from several."""
    for each in _members(known):
        if isinstance(each, types.CustomType):
            if foreign or each.cls is object:
                return True
        elif isinstance(each, _ARRAYS):
            items = each.item_types if isinstance(each, types.TupleType) else (each.item_type,)
            if not in_array and all(_is_text(i, foreign=foreign, in_array=True) for i in items):
                return True
        elif not isinstance(each, (*_NEVER_TEXT, types.NoneType)):
            return True
    return False


class QueryReader:
    """Reads query strings into one struct; made once per route.

    Names are those of the wire (``rename=``), texts are converted, and a key that the
    struct does not know is ignored. A key that is given several times fills a list,
    set or tuple, as one that is given once does; any other field takes one value. A
    blank value is an empty text, and commas do not split.

    Args:
        struct: What `query_type` returned.
        dec_hook: The app's.

    >>> class Paging(msgspec.Struct):
    ...     page: int
    ...     tags: list[str] = []
    >>> QueryReader(Paging)("page=2&tags=a&tags=b,c")
    Paging(page=2, tags=['a', 'b,c'])
    """

    __slots__ = ("_build", "_dec_hook", "_fields", "_wire")

    def __init__(self, struct: type[msgspec.Struct], dec_hook: DecHook | None = None) -> None:
        known = types.type_info(struct)
        assert isinstance(known, types.StructType)
        self._dec_hook = dec_hook
        self._fields = {
            field.encode_name: (
                any(isinstance(each, _ARRAYS) for each in _members(field.type)),
                field.required,
            )
            for field in known.fields
        }
        strict = strict_type(struct, forbid_unknown_fields=False)
        self._wire, self._build = strict.wire, strict.builders.get(strict.wire)

    def __call__(self, query_string: str) -> Any:
        """Decode a query string.

        Raises:
            falcon.HTTPBadRequest: It does not fit; title and description end with the
                path of what is wrong, such as ``$.page``.
            MessageError: What the struct's ``__post_init__`` raised.
        """
        given = falcon.uri.parse_query_string(query_string, keep_blank=True, csv=False)
        values: dict[str, Any] = {}
        for name, (is_array, required) in self._fields.items():
            value = given.get(name)
            if value is None:
                if required:
                    raise _bad("A value is missing", f"$.{name}")
            elif is_array:
                values[name] = value if isinstance(value, list) else [value]
            elif isinstance(value, list):
                raise _bad("Only one value is allowed", f"$.{name}")
            else:
                values[name] = value
        try:
            decoded = msgspec.convert(values, self._wire, strict=False, dec_hook=self._dec_hook)
            return decoded if self._build is None else self._build(decoded)
        except MessageError:
            raise
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, MessageError):
                raise error.__cause__ from None
            sentence, _, path = str(error).partition(" - at `")
            raise _bad(sentence[:SHOWN], path.removesuffix("`") or "$") from error
        except (ValueError, TypeError) as error:  # of a __post_init__
            raise _bad(str(error)[:SHOWN], "$") from error


def _bad(sentence: str, path: str) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(
        title=f"Wrong query: {path}", description=f"{sentence.rstrip('.')}: {path}"
    )
