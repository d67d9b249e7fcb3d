"""The text of what is added to a project: a resource or a worker, and its test.

The words are in `templates/parts`; a line `#=== name` begins a section there.  What takes the place
of a `$name` was checked before, and a line that may grow too long is broken as a formatter does it.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pachinko_cli.templates import ROOTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pachinko_cli.messages import Message
    from pachinko_cli.modules import ModuleName
    from pachinko_cli.paths import RoutePath

WIDTH = 100  # what the project's own formatter is set to
LONGEST_TITLE = 30  # in a docstring of one line

# What a resource may begin as: its messages, unless others are given, and what it is.
KINDS = {
    "room": ("say:text=str", "passes what one sends on to everybody in the room"),
    "reply": ("ask:text=str", "answers the one who asks"),
    "empty": ("", "accepts, and leaves the rest to you"),
}
# Above the function of a worker that runs once, however many processes there are.
_SINGLETON = "@worker(singleton=True)  # on one of the processes that share a backend\n"


@dataclass(frozen=True)
class Resource:
    """A WebSocket resource, all that its text depends on."""

    package: str
    name: ModuleName
    class_name: str
    path: RoutePath
    kind: str
    messages: tuple[Message, ...]

    @property
    def files(self) -> dict[str, str]:
        """Its module and its test, by their places in the project."""
        return {
            f"{self.package}/resources/{self.name.module}.py": self._module(),
            f"tests/test_{self.name.module}.py": self._test(),
        }

    def _module(self) -> str:
        sections = _sections(f"{self.kind}.py")
        words = {"title": _title(self.name), "class_name": self.class_name}
        limited = self.kind == "room" and self.path.unbounded is not None
        parts = [_fill(sections["class"], words), *self._connect(sections)]
        parts += [self._handler(sections, each) for each in self.messages]
        if self.kind == "empty" and not self.messages:
            parts.append(sections["disconnect"])
        structs = [self._struct(each) for each in self.messages if each.fields]
        return _module(
            _fill(sections["module"], words),
            self._imports(requests=any("req: Request" in part for part in parts)),
            [sections["limit"]] if limited else [],
            [*structs, "\n\n".join(parts)],
        )

    def _imports(self, *, requests: bool) -> list[str]:
        types = " ".join(field.line for message in self.messages for field in message.fields)
        if requests:
            types = " ".join([types, *(each.signature for each in self.path.parameters)])
        standard = {
            "datetime": "from datetime import datetime",
            "Any": "from typing import Any",
            "UUID": "from uuid import UUID",
        }
        names = "Connection, WebSocketResource" + ", handles_message" * bool(self.messages)
        others = [f"from falcon_pachinko import {names}"]
        if requests:
            others.insert(0, "from falcon.asgi import Request")
        if any(each.fields for each in self.messages):
            others.append("from msgspec import Struct")
        used = [line for name, line in standard.items() if _uses(types, name)]
        return [*used, "", *others] if used else others

    def _connect(self, sections: dict[str, str]) -> list[str]:
        parameters = [each.signature for each in self.path.parameters]
        names = [each.name for each in self.path.parameters]
        if self.kind == "reply" and not names:
            return []
        section = "connect"
        if self.kind == "room" and self.path.unbounded:
            section = "connect-within-limit"
        if self.kind == "empty" and not names:
            section = "bare-connect"
        given = ["self", "req: Request", "ws: Connection", *parameters]
        words = {
            "signature": _fit("async def on_connect(", given, ") -> bool:", indent="    "),
            "room": self._room(names),
            "kept": "\n".join(f"        self.{name} = {name}" for name in names),
        }
        return [_fill(sections[section], words)]

    def _room(self, names: list[str]) -> str:
        """The line that names the room: one for each path there may be."""
        if not names:
            return f'        self.room = "{self.name.module}"'
        path = "/".join(f"{{{name}}}" for name in names)
        line = f'        self.room = f"{self.name.module}:{path}"'
        if len(line) <= WIDTH:
            return line
        *most, last = names
        pieces = [f'"{self.name.module}:"', *(f'f"{{{name}}}/"' for name in most), f'f"{{{last}}}"']
        inner = "".join(f"            {piece}\n" for piece in pieces)
        return f"        self.room = (\n{inner}        )"

    def _handler(self, sections: dict[str, str], message: Message) -> str:
        struct = message.struct(self.class_name)
        method = self._method(message)
        given = ["self", "ws: Connection", *([f"payload: {struct}"] if message.fields else [])]
        gives = "None"
        if self.kind == "reply":
            gives = struct if message.fields else "dict[str, bool]"
        signature = _fit(f"async def {method}(", given, f") -> {gives}:", indent="    ")
        section = sections["handler" if message.fields else "bare-handler"]
        return _fill(section, {"type": message.type, "signature": signature})

    def _method(self, message: Message) -> str:
        return message.method(frozenset(each.name for each in self.path.parameters))

    def _struct(self, message: Message) -> str:
        optional = [each.optional for each in message.fields]
        bases = "Struct" if optional == sorted(optional) else "Struct, kw_only=True"
        words = {
            "struct": message.struct(self.class_name),
            "bases": bases,
            "type": message.type,
            "fields": "\n".join(f"    {each.line}" for each in message.fields),
        }
        return _fill(_sections("struct.py")["module"], words)

    def _test(self) -> str:
        sections = _sections(f"test_{self.kind}.py")
        constants = [f'PATH = "{self.path.sample}"']
        blocks = []
        if self.kind == "room" and (around := self.path.unbounded):
            constants.append(_too_long(*around))
            blocks.append(sections["limit"])
        if self.kind == "empty" and not self.messages:
            blocks.append(sections["accepted"])
        blocks += [self._test_of(sections, each) for each in self.messages]
        if needy := next((each for each in self.messages if each.has_required_fields), None):
            blocks.append(_fill(sections["refused"], {"type": needy.type}))
        errors = [
            name
            for name in ("HandshakeDenied", "RequestError")
            if any(f"pytest.raises({name}" in block for block in blocks)
        ]
        third = ["import pytest"] if errors else []
        third.append(f"from falcon_pachinko.testing import {', '.join([*errors, 'simulate'])}")
        return _module(
            _fill(sections["module"], {"title": _title(self.name)}),
            [*third, "", f"from {self.package}.app import create_app"],
            ["\n".join(constants)],
            blocks,
        )

    def _test_of(self, sections: dict[str, str], message: Message) -> str:
        samples = [each.sample for each in message.fields]
        payload = _fit("payload = {", samples, "}", indent="    ").lstrip()
        words = {"type": message.type, "method": message.words, "payload": payload}
        return _fill(sections["handler" if samples else "bare-handler"], words)


@dataclass(frozen=True)
class Worker:
    """A worker, all that its text depends on; `every` is in seconds."""

    package: str
    name: ModuleName
    function: str
    every: float
    singleton: bool = False

    @property
    def files(self) -> dict[str, str]:
        """Its module and its test, by their places in the project."""
        module = f"{self.package}.workers.{self.name.module}"
        given = [self.function, "app.ws_connection_manager", "Config()", "every=0.01"]
        words = {
            "title": _title(self.name),
            "module": self.name.module,
            "package": self.package,
            "function": self.function,
            "every": repr(self.every),
            "imported": "WebSocketConnectionManager" + ", worker" * self.singleton,
            "decorator": _SINGLETON * self.singleton,
            "register": _fit("app.add_websocket_worker(", given, ")", indent="    ").lstrip(),
            "import_worker": import_of(module, ["ROOM", self.function]),
        }
        return {
            f"{self.package}/workers/{self.name.module}.py": _whole("worker.py", words),
            f"tests/test_{self.name.module}.py": _whole("test_worker.py", words),
        }


def import_of(module: str, names: Iterable[str]) -> str:
    """The import of names from a module, on one line if that fits."""
    names = list(names)
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) <= WIDTH else _fit(f"from {module} import (", names, ")")


def _fit(before: str, items: Iterable[str], after: str, indent: str = "") -> str:
    """Put items between brackets, on one line if that fits, else on a line each.

    >>> _fit("go(", ["a", "b"], ")")
    'go(a, b)'
    """
    items = list(items)
    line = f"{indent}{before}{', '.join(items)}{after}"
    if len(line) <= WIDTH:
        return line
    inner = "".join(f"{indent}    {item},\n" for item in items)
    return f"{indent}{before}\n{inner}{indent}{after}"


def _module(doc: str, imports: list[str], constants: list[str], blocks: list[str]) -> str:
    head = "\n\n".join([doc, "\n".join(imports), *constants])
    return "\n\n\n".join([head, *blocks]) + "\n"


def _too_long(before: str, letter: str, after: str) -> str:
    parts = [f'"{before}"', f'200 * "{letter}"', *([f'"{after}"'] if after else [])]
    line = f"TOO_LONG = {' + '.join(parts)}"
    return line if len(line) <= WIDTH else f"TOO_LONG = (\n    {' + '.join(parts)}\n)"


def _uses(types: str, name: str) -> bool:
    return name in types.replace("[", " ").replace("]", " ").replace(":", " ").split()


def _title(name: ModuleName) -> str:
    return name.title if len(name.title) <= LONGEST_TITLE else f"{name.title[:LONGEST_TITLE]}…"


def _text(name: str) -> str:
    root = next(root for root in ROOTS if root.is_dir())
    return (root / "parts" / f"{name}.tmpl").read_text(encoding="utf-8")


def _sections(name: str) -> dict[str, str]:
    """The sections of a file of words; one that has no marks is a single section."""
    first, *others = f"\n{_text(name)}".split("\n#=== ")
    if not others:
        return {"module": first.strip("\n")}
    return {title: body.strip("\n") for title, _, body in (each.partition("\n") for each in others)}


def _fill(section: str, words: dict[str, str]) -> str:
    return string.Template(section).substitute(words)


def _whole(name: str, words: dict[str, str]) -> str:
    return _fill(_text(name), words)
