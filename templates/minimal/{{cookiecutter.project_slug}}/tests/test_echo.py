"""The echo, in memory: no socket, no server, the whole app."""

from falcon_pachinko.testing import simulate

from {{ cookiecutter.package }}.app import create_app
from {{ cookiecutter.package }}.config import Config


async def test_echo_replies_with_the_same_words() -> None:
    """The reply carries the reference of the message that it answers."""
    async with simulate(create_app(Config())) as client, client.connect("/ws/echo") as ann:
        await ann.send_json({"type": "echo", "payload": {"text": "hi"}, "ref": "1"})
        reply = await ann.receive_json()

    assert reply == {"type": "reply", "ref": "1", "payload": {"text": "hi"}}


async def test_words_that_are_no_text_are_refused() -> None:
    """A payload that does not fit its struct is answered with an error; the connection lives."""
    async with simulate(create_app(Config())) as client, client.connect("/ws/echo") as ann:
        await ann.send_json({"type": "echo", "payload": {"text": 7}})
        error = await ann.receive_json()

    assert error["payload"]["code"] == "invalid_payload"
