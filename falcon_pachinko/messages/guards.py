"""What is looked at before a message is decoded, so that each costs about as much as it is long.

Most payloads need nothing of this. Where a client could make the decoding slow, by
how keys hash or objects are nested, the message's struct has a stand-in without a
payload: a frame is decoded into that, then it is checked, and then it is decoded.
Frames too short to be slow go the direct way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Union

import msgspec

from falcon_pachinko.messages.codec import Codec, Codecs
from falcon_pachinko.messages.keys import MOST_NUMBERS, check_keys
from falcon_pachinko.messages.nesting import check_json_tags, check_msgpack_tags
from falcon_pachinko.messages.strict import StrictType
from falcon_pachinko.typing import Frame

__all__ = ["LONG", "NO_CHECKS", "Check", "Checks", "checks_of", "decoder_of", "guarded"]

LONG = 256
"""Frames of fewer characters or bytes are checked only for what is never allowed."""

Check = Callable[[Any], None]
"""Takes a frame; raises one of `DECODE_ERRORS` if it would take too long to decode."""


class Checks(NamedTuple):
    """What frames of one message type are checked for, before they are decoded."""

    json: tuple[Check, ...]
    msgpack: tuple[Check, ...]
    untyped: bool
    """True if a part is decoded as it comes, so that MessagePack's keys are always looked at."""

    def of(self, codec: Codec, *, always: bool = False) -> tuple[Check, ...]:
        """Return those of a codec; with ``always``, those of short frames."""
        if codec.frame_type is str:
            return () if always else self.json
        return self.msgpack if self.untyped or not always else ()


NO_CHECKS = Checks((), (), untyped=False)


def checks_of(
    strict: StrictType, counted: type[msgspec.Struct] | None, codecs: Codecs, path: str
) -> Checks:
    """Return what frames of a type have to be checked for.

    Args:
        strict: What is known of the type.
        counted: The whole message with ``strict.counted`` in it.
        codecs: Those of the app.
        path: Where the type is in the message, for errors that cannot say it better.
    """
    json = [_named(check_json_tags(tag), path) for tag in strict.tags]
    msgpack = [_named(check_msgpack_tags(tag), path) for tag in strict.tags]
    if counted is not None:
        json.append(_check_numbers(codecs.json.decoder(counted)))
    if strict.untyped:
        msgpack.append(_named(check_keys, path))
    if not json and not msgpack:
        return NO_CHECKS
    return Checks(tuple(json), tuple(msgpack), strict.untyped)


def _named(check: Check, path: str) -> Check:
    def named(frame: Any) -> None:
        try:
            check(frame)
        except msgspec.ValidationError as error:
            raise msgspec.ValidationError(f"{error} - at `{path}`") from None

    return named


def _check_numbers(decode: Callable[[Any], Any]) -> Check:
    """Make what refuses JSON with too many numbers in what hashes them.

    MessagePack tells the length of a container before what is in it, so the decoder
    itself refuses that.
    """

    def check(frame: str) -> None:
        if frame.count(",") >= MOST_NUMBERS:  # else nothing in it has more items than that
            decode(frame)

    return check


def guarded(decode: Callable[[Any], Any], checks: tuple[Check, ...]) -> Callable[[Any], Any]:
    """Make what decodes a frame after its checks."""
    if len(checks) == 1:
        (check_only,) = checks

        def checked_once(frame: Any) -> Any:
            check_only(frame)
            return decode(frame)

        return checked_once

    def checked(frame: Any) -> Any:
        for check in checks:
            check(frame)
        return decode(frame)

    return checked


def decoder_of(
    codec: Codec,
    direct: Iterable[type[msgspec.Struct]],
    stands_in: dict[type[msgspec.Struct], tuple[type[msgspec.Struct], Checks]],
) -> Callable[[Frame], Any]:
    """Make what decodes frames into one of several structs, or what stands in for it.

    Args:
        codec: The codec of the frames.
        direct: The structs.
        stands_in: Those that have checks to pass first, with what stands in for them.
    """
    of_short, of_long = list(direct), list(direct)
    for place, struct in enumerate(of_long):
        stand_in, checks = stands_in.get(struct, (struct, NO_CHECKS))
        if checks.of(codec):
            of_long[place] = stand_in
        if checks.of(codec, always=True):
            of_short[place] = stand_in
    short = codec.decoder(Union[tuple(of_short)])  # noqa: UP007  # known at run time only
    if of_short == of_long:
        return short
    long = codec.decoder(Union[tuple(of_long)])  # noqa: UP007  # known at run time only

    def decode(frame: Frame) -> Any:
        return short(frame) if len(frame) < LONG else long(frame)

    return decode
