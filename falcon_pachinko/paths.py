"""URI templates as Falcon writes them: their fields, and the path that fills them in."""

from __future__ import annotations

import ast
import functools
import re
import urllib.parse
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import falcon.routing
import falcon.uri

__all__ = ["PathTemplate"]

_FIELD = re.compile(
    r"{\s*(?P<name>[A-Za-z_]\w*)\s*(?::(?P<converter>\w+)(?:\((?P<args>[^}]*)\))?)?}"
)
_PLAIN = "/:@!$&'()*+,;=~"  # what a path may have between its fields without being quoted
_DATETIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"  # Falcon's default


class PathTemplate:
    """A template such as ``/rooms/{room}/{day:dt("%Y-%m-%d")}``.

    Args:
        template: The template.
        converters: The converters of the app's router, by name; with None, nothing is
            known of its fields' types, and paths are not checked.
    """

    def __init__(self, template: str, converters: Mapping[str, Any] | None = None) -> None:
        self.text = template
        self._converters = converters
        self._matches = list(_FIELD.finditer(template))

    def __str__(self) -> str:
        return self.text

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields, in order.

        >>> PathTemplate("/rooms/{room}/{n:int}").fields
        ('room', 'n')
        """
        return tuple(each["name"] for each in self._matches)

    def fill(self, params: Mapping[str, object], name: str) -> str:
        """Fill it in, quoted for a URL, such that Falcon gets the same values out of it.

        Args:
            params: The values of its fields.
            name: What the route is called, for the errors.

        Raises:
            TypeError: A field is missing, or there is no such field, or a value has no text.
            ValueError: The path would not lead back to the route with these values.
        """
        if set(self.fields) != set(params):
            wants = ", ".join(self.fields) or "nothing"
            raise TypeError(f"the path of {name!r} needs {wants}; given: {sorted(params)}")
        path, end = "", 0
        texts: dict[str, str] = {}
        for field in self._matches:
            text = texts[field["name"]] = self._text_of(field, params[field["name"]], name)
            path += urllib.parse.quote(self.text[end : field.start()], safe=_PLAIN)
            path += "/".join(map(falcon.uri.encode_value, text.split("/")))
            end = field.end()
        path += urllib.parse.quote(self.text[end:], safe=_PLAIN)
        self._check(path, params, texts, name)
        return path

    def _check(
        self, path: str, params: Mapping[str, object], texts: dict[str, str], name: str
    ) -> None:
        """Go the way back, as a client, a server and Falcon do.

        Raises:
            ValueError: It does not lead back.
        """
        if self._converters is None or not self._matches:
            return
        decoded = falcon.uri.decode(path, unquote_plus=False)
        call = f"url_for({name!r}, {', '.join(f'{k}={v!r:.80}' for k, v in params.items())})"
        if {".", ".."} & set(decoded.split("/")):
            raise ValueError(f"{call}: a segment '.' or '..' means another path to every client")
        found = self._router.find(decoded)
        if found is None:
            raise ValueError(
                f"{call}: the path {decoded!r} does not match {self.text!r}. A plain field is one "
                "segment, without '/' ({name:path} takes several); a field with a converter is "
                "what that converter reads"
            )
        for field in self._matches:
            key = field["name"]
            back = found[2][key]
            verbatim = isinstance(params[key], str) and field["converter"] not in (None, "path")
            same = back == params[key] or self._text_of(field, back, name) == texts[key]
            if not (same or verbatim):
                raise ValueError(
                    f"{call}: {decoded!r} would arrive as {key}={back!r:.80}; "
                    "give the text that stands in the path"
                )

    @functools.cached_property
    def _router(self) -> falcon.routing.CompiledRouter:
        """Falcon's own router with this route only: what it finds is what the app's would."""
        router = falcon.routing.CompiledRouter()
        router.options.converters.update(self._converters or {})
        router.add_route(self.text, object())
        return router

    def _text_of(self, field: re.Match[str], value: object, name: str) -> str:
        """Write a value as its field's converter reads it."""
        if value is None or isinstance(value, (bytes, bytearray)):
            raise TypeError(f"url_for({name!r}, {field['name']}={value!r:.80}): give text")
        converter = field["converter"]
        if converter == "dt" and isinstance(value, date):
            pattern = getattr(self._converter(field), "_format_string", _DATETIME_FORMAT)
            moment = value if isinstance(value, datetime) else datetime(*value.timetuple()[:3])  # noqa: DTZ001  # as Falcon has it
            # The C library writes the year 33 as "33", and cannot read that.
            year = f"{moment.year:04}"
            return moment.strftime(
                re.sub("%(.)", lambda found: year if found[1] == "Y" else found[0], pattern)
            )
        if converter == "int" and type(value) is int:
            digits = getattr(self._converter(field), "_num_digits", None)
            return f"{value:0{digits or 1}}"
        return str(value)

    def _converter(self, field: re.Match[str]) -> Any:
        """Make a field's converter, as Falcon does; None if its arguments are not literals."""
        try:
            call = ast.parse(f"_({field['args'] or ''})", mode="eval").body
            assert isinstance(call, ast.Call)
            args = [ast.literal_eval(each) for each in call.args]
            named = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
            return (self._converters or {})[field["converter"]](*args, **named)
        except (ValueError, SyntaxError, KeyError, TypeError):
            return None
