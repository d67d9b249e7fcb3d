"""What any backend is tried with, whatever server is behind it."""

from falcon_pachinko.backends.base import HistoryPosition
from falcon_pachinko.limits import HistoryLimits
from falcon_pachinko.testing.conformance import eventually

LIMITS = HistoryLimits(count=10, bytes=1000, seconds=60)


async def all_works(one, two):
    """Whether everything that an app uses works between two nodes."""
    await two.backend.subscribe(["a"])
    before = len(two.received)
    await one.backend.publish([("a", b"plain")])
    assert [each.data for each in (await two.hears(before + 1))[before:]] == [b"plain"]
    place = await one.backend.append("a", b"kept", LIMITS)
    assert (await two.hears(before + 2))[-1].position == place
    past = await two.backend.read("a", HistoryPosition(), LIMITS)
    assert past.entries[-1].data == b"kept"
    await one.backend.forget("a")
    assert await one.backend.beat(15)
    await one.backend.enter("t", {"ann": b"1"})
    assert await two.backend.entries("t") == {one.name: {"ann": b"1"}}
    assert await one.backend.tables() == ["t"]
    await one.backend.replace("t", {"bob": b"2"})
    assert await two.backend.entries("t") == {one.name: {"bob": b"2"}}
    await one.backend.leave("t", ["bob"])
    token = await one.backend.acquire("l", 15)
    assert await one.backend.renew("l", token, 15)
    await one.backend.release("l", token)


async def is_explained(node, state, *words):
    """Wait until a backend is in a state for a reason with these words, and return the reason."""

    async def so():
        why = node.backend.why or ""
        found = node.backend.state == state and all(word in why for word in words)
        return (why or "nothing") if found else None

    try:
        return await eventually(so, 20)
    except AssertionError:
        raise AssertionError(f"it is {node.backend.state}: {node.backend.why}") from None
