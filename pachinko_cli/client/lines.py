"""What one may type: a message in short or as JSON, or a command that begins with a slash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pachinko_cli.client.vocabulary import MessageRefusedError, MessageType, Vocabulary, accepts

HELP = """\
  say text=hi there       a message of type "say"; the next name= begins a value
  say {"text": "hi"}      the same, its payload as JSON
  {"type": "say", ...}    the whole frame, as it is; a "ref" in it asks for a reply
  /text hello             a text frame that is no message
  /types                  what this route takes
  /close [CODE] [REASON]  close, with 1000 or with another code
  /quit                   close and end; so do Ctrl-D and Ctrl-C"""

_COMMANDS = ("/help", "/types", "/text", "/close", "/quit")
_JSON_STARTS = ("{", "[", '"')
_NAME = re.compile(r"([^\W\d][\w-]*)=")
_NEXT_NAME = re.compile(r"\s+(?=[^\W\d][\w-]*=)")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Message:
    """A frame to send: JSON, or with `is_plain` any text."""

    text: str
    is_plain: bool = False


@dataclass(frozen=True)
class Close:
    """`/close 4000 bye`, and `/quit`."""

    code: int = 1000
    reason: str = ""


@dataclass(frozen=True)
class Ask:
    """`/help` or `/types`: nothing is sent."""

    about: str


def read(line: str, words: Vocabulary) -> Message | Close | Ask | None:
    """What a line means; None for an empty one.

    A value is text where its field is text; elsewhere it is JSON where it reads as JSON.

    >>> read("say text=hi there urgent=true", Vocabulary()).text
    '{"type":"say","payload":{"text":"hi there","urgent":true}}'

    Raises:
        MessageRefusedError: It means nothing.
    """
    line = line.strip()
    if not line:
        return None
    if line.startswith("/"):
        return _command(line)
    if line.startswith(_JSON_STARTS):
        return Message(line)
    name, _, rest = line.partition(" ")
    kind = (words.types or {}).get(name)
    message = {"type": name} if kind is None else kind.message()
    if rest := rest.strip():
        payload = _payload(rest, kind)
        message = {"type": name, "payload": payload} if kind is None else kind.message(payload)
    return Message(_encoded(message))


def _encoded(message: Any) -> str:
    try:
        return msgspec.json.encode(message).decode()
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as error:
        raise MessageRefusedError(f"this cannot be sent as JSON: {error}") from None


def _command(line: str) -> Message | Close | Ask:
    name, _, rest = line.partition(" ")
    if name == "/text":
        return Message(rest, is_plain=True)
    if name in {"/help", "/types"}:
        return Ask(name[1:])
    if name == "/quit":
        return Close()
    if name == "/close":
        return _close(rest.strip())
    raise MessageRefusedError(f"there is no {name!r}", hint=f"try {', '.join(_COMMANDS)}")


def _close(rest: str) -> Close:
    number, _, reason = rest.partition(" ")
    code = int(number) if re.fullmatch(r"[0-9]{4}", number) else 1000 if not number else 0
    if code != 1000 and not 3000 <= code <= 4999:
        raise MessageRefusedError(
            f"a client does not close with {number!r}", hint="1000, or 3000 to 4999"
        )
    if len(reason.encode()) > 123:
        raise MessageRefusedError("a reason has at most 123 bytes of UTF-8")
    return Close(code, reason)


def _payload(rest: str, kind: MessageType | None) -> Any:
    if rest.startswith(_JSON_STARTS):
        try:
            return json.loads(rest, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            if rest[0] == "{" or (kind is not None and kind.fields):
                raise MessageRefusedError(f"the payload is no JSON: {error}") from None
    if kind is not None and kind.has_payload and kind.fields is None:
        is_text = kind.payload is not Any and accepts(kind.payload, rest)
        if is_text or not _NAME.match(rest):
            return _value(rest, kind.payload)
    if _NAME.match(rest):
        return _named(rest, kind)
    if kind is not None and kind.fields is not None:
        raise MessageRefusedError(
            f"{rest.split(maxsplit=1)[0]!r} is no field=value", hint=f"it takes: {kind}"
        )
    return _value(rest, Any)


def _named(rest: str, kind: MessageType | None) -> dict[str, Any]:
    types = {each.name: each.type for each in (kind.fields or ())} if kind is not None else {}
    found: dict[str, Any] = {}
    at = 0
    while at < len(rest):
        match = _NAME.match(rest, at)
        if match is None:
            word = rest[at:].split(maxsplit=1)[0]
            raise MessageRefusedError(
                f"{word!r} is no field=value", hint='quote a value to the end: text="it\'s so"'
            )
        name = match[1]
        if name in found:
            raise MessageRefusedError(f"{name!r} stands there twice")
        end = _end_of_value(rest, match.end())
        found[name] = _value(rest[match.end() : end].rstrip(), types.get(name, Any))
        at = end + len(rest[end:]) - len(rest[end:].lstrip())
    return found


def _end_of_value(rest: str, start: int) -> int:
    """Where a value ends: a JSON string, array or object by itself, others before the next name."""
    if rest.startswith(_JSON_STARTS, start):
        try:
            _, end = _DECODER.raw_decode(rest, start)
        except (ValueError, RecursionError):
            pass  # text that only begins like JSON
        else:
            if end == len(rest) or rest[end].isspace():
                return end
    following = _NEXT_NAME.search(rest, start)
    return following.start() if following else len(rest)


def _value(text: str, wanted: Any) -> Any:
    """What `text` stands for where this type is wanted: itself, or the JSON that it is."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str) or wanted is Any:
        return value
    return text if accepts(wanted, text) and not accepts(wanted, value) else value


def _no_number(constant: str) -> None:
    """Refuse `NaN` and `Infinity`: Python reads them, JSON has them not."""
    raise ValueError(constant)


def message(name: str, words: Sequence[str]) -> dict[str, Any]:
    """The message that a type and the words behind it mean, where nothing is known of its fields.

    Each word is a `name=value`, or goes on with the value before it; or one is the payload as JSON.
    In place of the type, there may be a whole message.

    >>> message("say", ["text=hi there", "urgent=true"])
    {'type': 'say', 'payload': {'text': 'hi there', 'urgent': True}}

    Raises:
        MessageRefusedError: They mean nothing.
    """
    if name.startswith("{"):
        if words:
            raise MessageRefusedError(
                "the whole message is there, and so is a payload", hint="leave one of them out"
            )
        return _whole(name)
    if not words:
        return {"type": name}
    if words[0].startswith(_JSON_STARTS) or (len(words) == 1 and not _NAME.match(words[0])):
        return {"type": name, "payload": _payload(" ".join(words), None)}
    found: dict[str, str] = {}
    last = ""
    for word in words:
        match = _NAME.match(word)
        if match is None and not last:
            raise MessageRefusedError(
                f"{word!r} is no field=value", hint="write text='hi there', or the payload as JSON"
            )
        if match is None:
            found[last] += f" {word}"
            continue
        last = match[1]
        if last in found:
            raise MessageRefusedError(f"{last!r} stands there twice")
        found[last] = word[match.end() :]
    return {"type": name, "payload": {key: _value(text, Any) for key, text in found.items()}}


def _whole(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise MessageRefusedError(f"the message is no JSON: {error}") from None
    return dict(found)


def completer(words: Vocabulary) -> Callable[[str], list[str]]:
    """What completes a line that was typed up to the cursor: gives the whole lines it may become.

    A message type is completed, a slash command, and a field that is not there yet.
    """

    def complete(line: str) -> list[str]:
        head, space, last = line.rpartition(" ")
        if not space:
            commands = [each for each in _COMMANDS if line.startswith("/")]
            return [
                f"{each} " for each in (*commands, *(words.types or ())) if each.startswith(line)
            ]
        kind = (words.types or {}).get(head.split(" ")[0])
        if kind is None or not kind.fields or head.partition(" ")[2].startswith("{"):
            return []
        there = set(_NAME.findall(head))
        return [
            f"{head} {each.name}="
            for each in kind.fields
            if each.name.startswith(last) and each.name not in there
        ]

    return complete
