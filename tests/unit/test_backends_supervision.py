"""The settings in a backend's URL, and the queue of its events."""

import asyncio
import gc
import sys

import pytest

from falcon_pachinko.backends import open_backend
from falcon_pachinko.backends.base import Lost, Received, StateChanged
from falcon_pachinko.backends.supervision import (
    AHEAD,
    EventQueue,
    Settings,
    in_time,
    read_settings,
)
from falcon_pachinko.errors import SetupError


def test_settings_are_read_from_the_query():
    """Ours are taken out of the URL, those of the server's client stay, secrets are in no name."""
    url = "redis://ann:sesame@db:6380/2?namespace=shop&required=true&ttl=5&probe=.5&ssl_keyfile=k"

    assert read_settings(url, ["ssl_keyfile"]) == (
        "redis://ann:sesame@db:6380/2?ssl_keyfile=k",
        Settings("shop", required=True, ttl=5, probe=0.5),
        "redis://db:6380/2",
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("namspace=shop", "has no setting 'namspace'; did you mean namespace"),
        ("zzz=1", "there are namespace, required, ttl, timeout, probe"),
        ("namespace=", "namespace=''"),
        ("namespace=a%20b", "namespace='a b'"),
        ("namespace=a%0Ab", r"namespace='a\\nb'"),
        ("required=maybe", "required='maybe' is neither true nor false"),
        ("ttl=0", "ttl='0' is not a number of seconds above 0"),
        ("ttl=soon", "ttl='soon'"),
        ("timeout=nan", "timeout='nan'"),
        ("probe=-1", "probe='-1'"),
    ],
)
def test_a_setting_that_is_wrong_is_told(query, said):
    """Which one, in which URL without its password, and what is right."""
    with pytest.raises(SetupError, match=said) as refused:
        open_backend(f"redis://:sesame@db/0?{query}")

    assert str(refused.value).startswith("redis://db/0")
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sesame@db:no",
        "redis://:sesame@db:70000",
        "redis://:sesame@[::1",
        "redis://:sesame@::1]:6379/0",
        "rediss://:[sesame]@db:no",
        "redis://:sesame/x@db",
    ],
)
def test_an_address_that_is_none_is_told(url):
    """A port that cannot be one ends the setup, without a password in the error."""
    with pytest.raises(SetupError, match=r"(?i)port") as refused:
        open_backend(url)

    assert "sesame" not in str(refused.value)


def test_a_missing_package_is_told(monkeypatch):
    """The error has the line that installs it."""
    monkeypatch.setitem(sys.modules, "redis.asyncio.connection", None)

    with pytest.raises(SetupError, match=r"pip install 'falcon-pachinko\[redis\]'"):
        open_backend("redis://db")


async def test_what_is_held_comes_after_what_is_first():
    """While a connection is made, what arrives waits for the word that it is there."""
    queue = EventQueue()
    queue.put(StateChanged("degraded", ""))
    queue.hold()
    queue.put(Received("a", b"1"))
    queue.release(Lost("cut"), StateChanged("up", ""))
    queue.close()

    assert [event async for event in queue.events()] == [
        StateChanged("degraded", ""),
        Lost("cut"),
        StateChanged("up", ""),
        Received("a", b"1"),
    ]


async def test_a_full_queue_is_waited_for():
    """Whoever puts more than there is room for waits until the reader has taken it."""
    queue = EventQueue()
    queue.put(Received("a", b""))
    putting = asyncio.ensure_future(queue.room_for(AHEAD + 1))
    await asyncio.sleep(0)
    waited = (putting.done(), queue.full)
    queue.close()
    async for _ in queue.events():
        pass
    await putting

    assert waited == (False, True)


async def test_what_is_late_is_cancelled():
    """A call that takes too long ends with TimeoutError, and runs no more when it does."""
    work = asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        await in_time(work, 0.01)

    assert work.cancelled()


async def fails_when_cancelled():
    """As client libraries do, with an error of their own."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ConnectionError("the client library's own") from None


@pytest.fixture
async def unseen():
    """What nobody has retrieved by the end of the test."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


@pytest.mark.parametrize("how", ["late", "cancelled", "cancelled twice"])
async def test_an_error_on_the_way_out_is_no_news(unseen, how):
    """What is cut off may raise what it likes; the log has nothing of it."""
    if how == "late":
        with pytest.raises(TimeoutError, match="no answer within"):
            await in_time(fails_when_cancelled(), 0.01)
    else:
        task = asyncio.create_task(in_time(fails_when_cancelled(), 5))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        if how == "cancelled twice":
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        del task
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)

    assert unseen == []
