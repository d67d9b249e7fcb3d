"""The structs of a resource's ``schema``, whose fields stand beside a message's type."""

from __future__ import annotations

from typing import Any

import msgspec

from falcon_pachinko.errors import HandlerDefinitionError
from falcon_pachinko.messages.envelopes import members_of

__all__ = ["schema_structs"]


def schema_structs(resource: str, schema: Any) -> dict[str, type[msgspec.Struct]]:
    """Return the structs of a ``schema`` by their tags.

    Raises:
        HandlerDefinitionError: One is not a struct, has no tag, or has fields that the wire needs.
    """
    structs: dict[str, type[msgspec.Struct]] = {}
    for member in members_of(schema) if schema is not None else ():
        name = f"{resource}.schema"
        if not (isinstance(member, type) and issubclass(member, msgspec.Struct)):
            raise HandlerDefinitionError(name, f"has {member!r}, which is not a msgspec.Struct")
        config = member.__struct_config__
        if not isinstance(config.tag, str) or config.tag_field != "type" or config.array_like:
            raise HandlerDefinitionError(
                name,
                f"has {member.__name__} without a `type` on the wire; write "
                f'class {member.__name__}(msgspec.Struct, tag="{member.__name__.lower()}")',
            )
        if "ref" in member.__struct_encode_fields__ or "ref" in member.__struct_fields__:
            raise HandlerDefinitionError(
                name, f"has {member.__name__}.ref, but `ref` is the client's mark; rename the field"
            )
        if config.tag in structs:
            first = structs[config.tag].__name__
            raise HandlerDefinitionError(
                name, f"has two structs tagged {config.tag!r}: {first} and {member}"
            )
        structs[config.tag] = member
    return structs
