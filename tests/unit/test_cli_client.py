"""What `pachinko connect` understands of what was typed and of what came."""

import contextlib
import doctest
import importlib
import json
import pkgutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal, TypedDict

import falcon.asgi
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.uri import parse_uri

import pachinko_cli.client
from falcon_pachinko import WebSocketResource, handles_message, install
from pachinko_cli.client import address, display
from pachinko_cli.client.lines import Ask, Close, Message, completer, read
from pachinko_cli.client.vocabulary import MessageRefusedError, Vocabulary, type_name

MODULES = [
    f"pachinko_cli.client.{each.name}"
    for each in pkgutil.iter_modules(pachinko_cli.client.__path__)
]


class Say(msgspec.Struct):
    text: str
    loud: bool = False
    to: str | None = None
    tags: list[str] = []


class Move(msgspec.Struct, rename="camel"):
    step_size: int


class Place(TypedDict):
    x: int


@dataclass
class Seat:
    row: int = 1


class Join(msgspec.Struct, tag="join"):
    name: str


class Room(WebSocketResource):
    @handles_message("say")
    async def say(self, ws, payload: Say):
        """Say it to all.

        More about that.
        """

    @handles_message("move")
    async def move(self, ws, payload: Move): ...

    @handles_message("place")
    async def place(self, ws, payload: Place): ...

    @handles_message("seat")
    async def seat(self, ws, payload: Seat): ...

    @handles_message("word")
    async def word(self, ws, payload: str): ...

    @handles_message("count")
    async def count(self, ws, payload: int): ...

    @handles_message("anything")
    async def anything(self, ws, payload): ...

    @handles_message("mapping")
    async def mapping(self, ws, payload: dict[str, int]): ...

    @handles_message("ping")
    async def ping(self, ws): ...


class Desk(WebSocketResource):
    schema = Join

    @handles_message(Join)
    async def join(self, ws, message: Join): ...


class Plain:
    async def on_websocket(self, req, ws): ...


def make_app():
    app = falcon.asgi.App()
    install(app)
    app.add_websocket_route("/rooms/{name}", Room)
    app.add_websocket_route("/desk", Desk)
    app.add_route("/plain", Plain())
    return app


ROOM = Vocabulary.of(make_app(), "/rooms/tea")
DESK = Vocabulary.of(make_app(), "/desk")
UNKNOWN = Vocabulary()


def meant(line, words=ROOM):
    return json.loads(read(line, words).text)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name):
    """Each prompt gives what stands below it."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_help_loads_nothing_heavy():
    """It is there at once."""
    heavy = {"cookiecutter", "jinja2", "uvicorn", "falcon", "msgspec", "websockets"}
    program = f"""
import runpy, sys
sys.argv[1:] = ["connect", "--help"]
try:
    runpy.run_module("pachinko_cli", run_name="__main__")
finally:
    print(sorted(set(sys.modules) & {heavy}), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stderr.splitlines()[-1] == "[]"
    assert "Examples:\n    pachinko connect" in done.stdout


# Lines.


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("say text=hi", {"type": "say", "payload": {"text": "hi"}}),
        ("say text=hi there, you", {"type": "say", "payload": {"text": "hi there, you"}}),
        ("say text=5 loud=true", {"type": "say", "payload": {"text": "5", "loud": True}}),
        ("say text=true", {"type": "say", "payload": {"text": "true"}}),
        ('say text="a to=b" to=c', {"type": "say", "payload": {"text": "a to=b", "to": "c"}}),
        ("say to=null text=null", {"type": "say", "payload": {"to": None, "text": "null"}}),
        ("say text=a=b", {"type": "say", "payload": {"text": "a=b"}}),
        (
            "say text=see http://x/?q=1 ok",
            {"type": "say", "payload": {"text": "see http://x/?q=1 ok"}},
        ),
        (
            'say text=x tags=["a", "b c"]',
            {"type": "say", "payload": {"text": "x", "tags": ["a", "b c"]}},
        ),
        ("say text=[draft", {"type": "say", "payload": {"text": "[draft"}}),
        ("say text=", {"type": "say", "payload": {"text": ""}}),
        ('say {"text": "hi"}', {"type": "say", "payload": {"text": "hi"}}),
        ("move stepSize=3", {"type": "move", "payload": {"stepSize": 3}}),
        ("place x=1", {"type": "place", "payload": {"x": 1}}),
        ("seat row=2", {"type": "seat", "payload": {"row": 2}}),
        ("word two words", {"type": "word", "payload": "two words"}),
        ("word 5", {"type": "word", "payload": "5"}),
        ("word a=b", {"type": "word", "payload": "a=b"}),
        ("count 5", {"type": "count", "payload": 5}),
        ("anything x=1 y=z", {"type": "anything", "payload": {"x": 1, "y": "z"}}),
        ("mapping x=1", {"type": "mapping", "payload": {"x": 1}}),
        ("anything [1, 2]", {"type": "anything", "payload": [1, 2]}),
        ("ping", {"type": "ping"}),
        ("  ping  ", {"type": "ping"}),
        ("unheard of=this", {"type": "unheard", "payload": {"of": "this"}}),
        ("unheard words", {"type": "unheard", "payload": "words"}),
    ],
)
def test_a_message_in_short(line, message):
    """A type, then fields by name, a payload as JSON, or a value."""
    assert meant(line) == message


def test_in_schema_style_the_fields_stand_beside_the_type():
    """Typed the same."""
    assert meant("join name=5", DESK) == {"type": "join", "name": "5"}
    assert meant('join {"name": "ann"}', DESK) == {"type": "join", "name": "ann"}


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ('{"type": "x",  "ref": 1}', Message('{"type": "x",  "ref": 1}')),
        ("/text hello  there", Message("hello  there", is_plain=True)),
        ("/close", Close()),
        ("/close 4000 my tea", Close(4000, "my tea")),
        ("/quit", Close()),
        ("/types", Ask("types")),
        ("", None),
        (" \t", None),
    ],
)
def test_frames_and_commands(line, meaning):
    """What begins like JSON goes out as it is; a slash is a command."""
    assert read(line, ROOM) == meaning


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("say hello", "'hello' is no field=value"),
        ('say text="a" b', "'b' is no field=value"),
        ("say text=a text=b", "'text' stands there twice"),
        ('say {"text": }', "the payload is no JSON"),
        ("/clsoe", "there is no '/clsoe'"),
        ("/close 1006", "a client does not close with '1006'"),
        ("/close now", "a client does not close with 'now'"),
        (f"/close 4000 {'é' * 62}", "at most 123 bytes"),
        ("say text=\ud800", "cannot be sent as JSON"),
    ],
)
def test_what_means_nothing_is_refused(line, error):
    """With the word that was not understood."""
    with pytest.raises(MessageRefusedError) as refused:
        read(line, ROOM)

    assert error in refused.value.message


@given(st.text())
def test_any_text_can_be_said_as_json(text):
    """A quoted value is that value, whatever is in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return

    assert meant(f"say text={json.dumps(text)} loud=true")["payload"] == {
        "text": text,
        "loud": True,
    }


@given(st.text(alphabet=st.sampled_from("say text=/{}[]\"'\\,:1 é\x00\ud800\n")) | st.text())
def test_any_line_is_a_message_or_a_mistake(line):
    """Nothing that is typed makes it fail in another way, be the route known or not."""
    for words in (ROOM, DESK, UNKNOWN):
        with contextlib.suppress(MessageRefusedError):
            found = read(line, words)
            if isinstance(found, Message):
                words.check(found.text)


# The vocabulary.


def test_a_route_s_types_and_fields_are_told():
    """As one would write them, with defaults, and with what the handler's docstring begins with."""
    assert (ROOM.route, list(ROOM.types)[:2]) == ("/rooms/{name}", ["say", "move"])
    assert str(ROOM.types["say"]) == (
        "say text: str, loud: bool = false, to: str | None = null, tags: list[str] = []"
    )
    assert ROOM.types["say"].summary == "Say it to all."
    assert [str(ROOM.types[name]) for name in ("move", "word", "ping", "seat")] == [
        "move stepSize: int",
        "word str",
        "ping",
        "seat row: int = 1",
    ]


@pytest.mark.parametrize(
    ("path", "route"), [("/plain", "/plain"), ("/nowhere", None), ("/rooms/tea/x", None)]
)
def test_of_other_paths_no_types_are_known(path, route):
    """A plain responder of Falcon's declares none; everything passes."""
    words = Vocabulary.of(make_app(), path)
    words.check("anything")

    assert (words.route, words.types, words.routes) == (route, None, ("/rooms/{name}", "/desk"))


@pytest.mark.parametrize("app", [None, falcon.asgi.App(), object()])
def test_an_app_without_the_library_has_no_vocabulary(app):
    """Nor has no app at all."""
    assert Vocabulary.of(app, "/") == UNKNOWN


@pytest.mark.parametrize(
    ("frame", "error", "hint"),
    [
        (
            '{"type": "say", "payload": {}}',
            "missing required field `text` at $.payload",
            "say text",
        ),
        ('{"type": "syz"}', "unknown_type: /rooms/{name} takes no 'syz'", "did you mean say?"),
        ("hello", "invalid_json: ", "a message is"),
        ("[1]", "invalid_message: Expected `object`, got `array`", "a message is"),
    ],
)
def test_a_check_has_the_server_s_own_words(frame, error, hint):
    """It is the resource's own table that refuses."""
    with pytest.raises(MessageRefusedError) as refused:
        ROOM.check(frame)

    assert error in refused.value.message
    assert hint in refused.value.hint


def test_types_are_written_as_in_python():
    """Whatever they are made of."""
    assert type_name(dict[str, list[int]] | None) == "dict[str, list[int]] | None"
    assert type_name(Literal["a", 1]) == '"a" | 1'
    assert type_name(tuple[int, ...]) == "tuple[int, ...]"


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("s", ["say ", "seat "]),
        ("/c", ["/close "]),
        ("say ", ["say text=", "say loud=", "say to=", "say tags="]),
        ("say t", ["say text=", "say to=", "say tags="]),
        ("say text=hi there t", ["say text=hi there to=", "say text=hi there tags="]),
        ("say {", []),
        ("word ", []),
        ("nothing ", []),
    ],
)
def test_a_line_is_completed(line, lines):
    """Types first, then the fields that are not there yet."""
    assert completer(ROOM)(line) == lines


# What comes.


@given(st.text())
def test_what_is_shown_is_printable(text):
    """Whatever the server sends; one frame is one line."""
    assert display.one_line(text).isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda e: st.lists(e) | st.dictionaries(st.text(), e),
    )
)
def test_json_that_is_shown_has_the_same_meaning(value):
    """It can be piped into something that reads JSON."""
    try:
        frame = json.dumps(value, ensure_ascii=False, indent=2)
        frame.encode()
    except UnicodeEncodeError:
        return
    shown = display.Received(frame, msgpack=False).line

    assert json.loads(shown) == value
    assert shown.isprintable()


@given(st.binary())
def test_any_bytes_can_be_shown(frame):
    """As MessagePack or in hexadecimal digits."""
    for msgpack in (False, True):
        received = display.Received(frame, msgpack=msgpack)
        assert received.line.isprintable()
        json.dumps(received.fields)


@pytest.mark.parametrize(
    "value", [{"type": "x", "n": [1, None]}, {1: b"ab"}, msgspec.msgpack.Ext(5, b"x"), float("nan")]
)
def test_messagepack_is_shown_as_json(value):
    """What JSON has not is shown as something that it has."""
    received = display.Received(msgspec.msgpack.encode(value), msgpack=True)

    assert json.loads(received.line) == received.message


# Addresses.


@given(st.text(min_size=1))
def test_any_path_makes_a_url_or_a_mistake(path):
    """No path can name another server than the one that was asked for."""
    try:
        found = address.address("/" + path, port=9)
    except address.AddressError:
        return

    parsed = parse_uri(found.url)
    assert (parsed.host, parsed.port, parsed.secure) == ("127.0.0.1", 9, False)
    assert found.url.isascii()
    assert found.url.isprintable()


@pytest.mark.parametrize(
    ("given_", "url"),
    [
        ({"path": "/ws/täa x"}, "ws://127.0.0.1:8000/ws/t%C3%A4a%20x"),
        ({"path": "ws/a%20b"}, "ws://127.0.0.1:8000/ws/a%20b"),
        ({"path": "/ws", "host": "::1", "port": 1}, "ws://[::1]:1/ws"),
        ({"path": "/ws?a=b c", "url": "wss://tea.example"}, "wss://tea.example/ws?a=b%20c"),
        ({"path": "https://tea.example"}, "wss://tea.example/"),
        ({"path": "ws://u:p@tea.example/x"}, "ws://u:p@tea.example/x"),
    ],
)
def test_a_path_becomes_a_url(given_, url):
    """Quoted as it has to be, and no more."""
    found = address.address(given_.pop("path"), **given_)

    assert found.url == url
    assert "u:p@" not in found.shown


@pytest.mark.parametrize(
    "path",
    ["ws://", "ws://:80/", "ws://tea.example:99999/", "ws://[::1/", "ws://a b/", "ws://a\x1b/"],
)
def test_a_url_without_a_server_is_refused(path):
    """With exit code 2 and a URL that would do."""
    with pytest.raises(address.AddressError) as refused:
        address.address(path)

    assert refused.value.exit_code == 2
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("text", ["", "X", ": v", "X Y: v", "X: é", "X: a\r\nY: b", "Upgrade: h2c"])
def test_what_is_no_header_is_refused(text):
    """Nothing can be smuggled into the handshake."""
    with pytest.raises(address.AddressError):
        address.header(text)
