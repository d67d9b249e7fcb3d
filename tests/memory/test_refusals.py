"""``on_refused`` sees every message that is turned away, and may answer in its own words."""

import pytest

from falcon_pachinko import Hook, Limits, MessageError, WebSocketResource, handles_message
from falcon_pachinko.testing import simulate


class Desk(WebSocketResource):
    """Notes what is refused; answers unknown types itself, and fails on wrong payloads."""

    def __init__(self, seen):
        self.seen = seen

    @handles_message("add")
    async def add(self, ws, payload: list[int]):
        return sum(payload)

    @handles_message("refuse")
    async def refuse(self, ws):
        raise MessageError("mine", "The handler's own, which nobody is asked about.")

    async def on_refused(self, ws, refusal, frame):
        self.seen.append(("resource", refusal.code, frame))
        if refusal.code == "unknown_type":
            return MessageError("no_such_thing", "Look at the list.")
        if refusal.code == "invalid_payload":
            raise ZeroDivisionError
        return "something else"


CASES = [
    ('{"type": "no", "ref": 1}', "unknown_type", "no_such_thing"),
    ('{"type": "add", "payload": "x", "ref": 1}', "invalid_payload", "invalid_payload"),
    ("{", "invalid_json", "invalid_json"),
    ("[]", "invalid_message", "invalid_message"),
    (b"\x00", "unsupported_frame", "unsupported_frame"),
]


@pytest.mark.parametrize(("frame", "code", "answer"), CASES)
async def test_a_refusal_is_seen_and_may_be_put_in_other_words(serve, caplog, frame, code, answer):
    """Anything but a MessageError counts as None; what it raises is logged once."""
    seen = []
    async with simulate(serve(Desk, seen=seen)) as client, client.connect("/") as ann:
        await (ann.send_text(frame) if isinstance(frame, str) else ann.send_data(frame))
        told = await ann.receive_json()

        assert (await ann.request("add", [1, 2]))["payload"] == 3
    assert seen == [("resource", code, frame)]
    assert told["payload"]["code"] == answer
    assert ("ref" in told) == ('"ref"' in str(frame))
    assert len(caplog.records) == (code == "invalid_payload")


async def test_what_a_handler_refuses_itself_is_no_refusal(serve, answered):
    """It was not turned away before a handler was called."""
    seen = []
    async with simulate(serve(Desk, seen=seen)) as client, client.connect("/") as ann:
        answer = await answered(ann.request("refuse"))

    assert (answer["payload"]["code"], seen) == ("mine", [])


@pytest.mark.parametrize(
    ("limits", "frames", "code", "close"),
    [
        (Limits(message_bytes=100), ["x" * 200], "too_large", 1009),
        (Limits(messages_per_second=0.001, burst=1), ['{"type": "no"}'] * 2, "rate_limited", 1008),
    ],
)
async def test_size_and_rate_are_seen_and_close_all_the_same(
    serve, closing, limits, frames, code, close
):
    """The close that follows cannot be suppressed."""
    seen = []
    app = serve(Desk, seen=seen, limits=limits)
    async with simulate(app) as client, client.connect("/") as ann:
        for frame in frames:
            await ann.send_text(frame)

        assert await closing(ann) == close
    assert seen[-1] == ("resource", code, frames[-1])


@pytest.mark.parametrize(("first", "expected"), [("app", "app"), ("none", "no_such_thing")])
async def test_the_first_answer_counts_and_nobody_after_it_is_asked(
    serve, answered, first, expected
):
    """The app's hooks come before the resource's own method."""
    seen = []

    class Words(Hook):
        async def on_refused(self, ws, refusal, frame):
            seen.append(("hook", refusal.code, frame))
            return MessageError("app", "Said by the app.") if first == "app" else None

    app = serve(Desk, seen=seen, options={"hooks": [Words()]})
    async with simulate(app) as client, client.connect("/") as ann:
        answer = await answered(ann.request("no"))

    assert answer["payload"]["code"] == expected
    assert [who for who, _, _ in seen] == ["hook"] if first == "app" else ["hook", "resource"]


async def test_what_on_message_takes_is_not_refused(serve):
    """A resource that takes every frame turns none away."""
    seen = []

    class Open(Desk):
        async def on_message(self, ws, message):
            return "taken"

    async with simulate(serve(Open, seen=seen)) as client, client.connect("/") as ann:
        for text in ('{"type": "no"}', "{", "[]"):
            await ann.send_text(text)
            assert (await ann.receive_json())["payload"] == "taken"

    assert seen == []
