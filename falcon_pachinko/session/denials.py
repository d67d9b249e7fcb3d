"""How a denial is written: as the HTTP response of an error, or as a close that a page can read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import falcon

__all__ = ["as_close", "as_response"]


def as_close(error: falcon.HTTPError | falcon.HTTPStatus | None) -> tuple[int, str]:
    """Write a denial as a close: 3000 and the status, the title, and when to come back."""
    if error is None:
        return 3403, "Forbidden"
    status = error.status_code
    title = getattr(error, "title", None) or falcon.code_to_http_status(status)[4:]
    seconds = _retry_after(_header_pairs(error))
    if seconds is None:
        return 3000 + status, title
    hint = f"; retry in {seconds} s"
    room = 123 - len(hint)
    return 3000 + status, title.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + hint


def _retry_after(headers: list[tuple[str, str]]) -> int | None:
    """Return the seconds that a Retry-After header names; a date becomes those until then."""
    for name, value in headers:
        if name.lower() != "retry-after":
            continue
        if value.strip().isdecimal():
            return int(value) if len(value) < 20 else None  # else there is no room for the title
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, OverflowError):  # the latter for a year that no calendar has
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        left = until - datetime.fromtimestamp(time.time(), tz=UTC)
        return max(0, math.ceil(left.total_seconds()))
    return None


def _header_pairs(error: falcon.HTTPError | falcon.HTTPStatus) -> list[tuple[str, str]]:
    given: Any = error.headers or ()
    pairs = given.items() if isinstance(given, Mapping) else given
    return [(str(name), str(value)) for name, value in pairs]


def as_response(
    error: falcon.HTTPError | falcon.HTTPStatus,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Compose a denial, as Falcon would the HTTP response of the same error."""
    if isinstance(error, falcon.HTTPError):
        body = json.dumps(error.to_dict(), ensure_ascii=False).encode("utf-8", "replace")
        kind = b"application/json"
    else:
        body, kind = (error.text or "").encode("utf-8", "replace"), b"text/plain; charset=utf-8"
    headers = [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in _header_pairs(error)
    ]
    headers += [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    return error.status_code, headers, body
