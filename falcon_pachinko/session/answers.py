"""What the library itself says to a client: replies, errors and pongs."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import falcon
import msgspec

from falcon_pachinko.errors import MessageError
from falcon_pachinko.messages.codec import Envelope
from falcon_pachinko.messages.envelopes import Ref

__all__ = ["Error", "Fault", "Pong", "Reply", "from_http"]


class Reply(Envelope, tag_field="type", tag="reply"):
    """The answer to a message: what its handler returned."""

    ref: Ref | msgspec.UnsetType
    payload: Any


class Fault(msgspec.Struct, omit_defaults=True):
    """What is wrong with a message, as the client is told."""

    code: str
    message: str
    path: str | None = None
    status: int | None = None


class Error(msgspec.Struct, tag_field="type", tag="error"):
    """The answer to a message that was refused, or that its handler failed on."""

    ref: Ref | msgspec.UnsetType
    payload: Fault


class Pong(msgspec.Struct, tag_field="type", tag="pong"):
    """The answer to a ping."""

    ref: Ref | msgspec.UnsetType


def from_http(error: falcon.HTTPError | falcon.HTTPStatus) -> MessageError | None:
    """Turn an HTTP error or redirect into a message's error, with the status beside its name.

    A status of success that was raised is not an answer: None.

    >>> from_http(falcon.HTTPForbidden()).code
    'forbidden'
    """
    if error.status_code < 300:
        return None
    try:
        code = HTTPStatus(error.status_code).name.lower()
    except ValueError:
        code = f"http_{error.status_code}"
    sentence = getattr(error, "description", None) or getattr(error, "title", None) or ""
    return MessageError(code, sentence, status=error.status_code)
