"""Arguments of a wrong type: a TypeError where the mistake is, with the call that was meant."""

import asyncio
import functools

import pytest

from falcon_pachinko import HistoryLimits, WebSocketResource
from falcon_pachinko.testing import simulate

HELLO = {"type": "hello"}

ROOMS = {
    "join": lambda me, room: me.join_room(room),
    "manager.join": lambda me, room: me.ws.manager.join_room(me.ws.id, room),
    "leave": lambda me, room: me.leave_room(room),
    "manager.leave": lambda me, room: me.ws.manager.leave_room(me.ws.id, room),
    "track": lambda me, room: me.track(room),
    "untrack": lambda me, room: me.ws.manager.untrack(me.ws.id, room),
    "broadcast": lambda me, room: me.broadcast_to_room(room, HELLO),
    "manager.broadcast": lambda me, room: me.ws.manager.broadcast_to_room(room, HELLO),
    "members": lambda me, room: me.ws.manager.get_connections_in_room(room),
    "rooms": lambda me, room: me.ws.manager.get_rooms_by_prefix(room),
    "presence": lambda me, room: me.ws.manager.presence(room),
    "count_present": lambda me, room: me.ws.manager.count_present(room),
    "history": lambda me, room: me.ws.manager.history(room),
}
"""All that takes the name of a room, or the beginning of one."""

CONNECTIONS = {
    "join": lambda manager, given: manager.join_room(given, "lobby"),
    "leave": lambda manager, given: manager.leave_room(given, "lobby"),
    "track": lambda manager, given: manager.track(given, "lobby"),
    "untrack": lambda manager, given: manager.untrack(given, "lobby"),
    "send": lambda manager, given: manager.send_to_connection(given, HELLO),
    "remove": lambda manager, given: manager.remove_connection(given),
    "add": lambda manager, given: manager.add_connection(given, object()),
}
"""All that takes the id of a connection."""


class Here(WebSocketResource):
    def __init__(self, here):
        self.here = here

    async def on_connect(self, req, ws):
        self.here.append(self)
        await self.join_room("lobby")
        return True


@pytest.fixture
async def here(serve):
    """An app with one client: its manager, and the client's resource."""
    found = []
    app = serve(Here, here=found)
    app.ws_connection_manager.configure_rooms("kept:", history=HistoryLimits())
    async with simulate(app) as client, client.connect("/"):
        yield client.manager, found[0]


@pytest.mark.parametrize("verb", ROOMS)
async def test_what_is_not_a_name_is_refused_by_every_verb(here, verb):
    """Nothing looks it up and finds nobody there."""
    _, me = here

    for room in (7, None, b"lobby", 1.5):
        with pytest.raises(TypeError, match=r"a (room name|prefix) is a str, not .*; write str\("):
            await ROOMS[verb](me, room)


@pytest.mark.parametrize("verb", CONNECTIONS)
async def test_a_connection_is_not_its_id(here, verb):
    """The error says what to give instead: ``ws.id``."""
    manager, me = here

    for given in (me.ws, 7):
        with pytest.raises(TypeError, match=r"a connection id is a str, not .*; give ws\.id"):
            await CONNECTIONS[verb](manager, given)


@pytest.mark.parametrize("exclude", [7, b"someone", [7], [b"someone"], (None,)], ids=repr)
async def test_only_ids_and_connections_can_be_left_out(here, exclude):
    """Anything else would leave out nobody."""
    manager, _ = here

    with pytest.raises(TypeError, match=r"give ids or connections, such as exclude=\[ws\]"):
        await manager.broadcast_to_all(HELLO, exclude=exclude)


@pytest.mark.parametrize("since", [5, "12", {"epoch": "a", "offset": 1}], ids=repr)
async def test_a_position_is_a_position(here, since):
    """Where somebody was last is not a number alone; who is in the room stays there."""
    _, me = here

    with pytest.raises(TypeError, match=r"give HistoryPosition\(epoch, offset\), or None"):
        await me.join_room("kept:lobby", since=since)

    assert me.ws.rooms == {"lobby"}


@pytest.mark.parametrize("tag", [7, None, b"pro"], ids=repr)
async def test_a_tag_is_text(here, tag):
    """To take one away that nobody could have is a mistake, too."""
    _, me = here

    for verb in (me.ws.add_tag, me.ws.remove_tag):
        with pytest.raises(TypeError, match="a tag is a str"):
            await verb(tag)


@pytest.mark.parametrize("hook", [5, "reload", print], ids=["number", "text", "function"])
async def test_a_hook_on_gaps_is_a_coroutine_function(here, hook):
    """Else it would fail at the first gap, when nobody looks."""
    manager, _ = here

    with pytest.raises(TypeError, match="is not a coroutine; write `async def"):
        manager.on_gap(hook)


async def test_a_hook_on_gaps_is_given_back(here):
    """So that it works as a decorator, for whatever can be awaited."""
    manager, _ = here

    async def note(gap):
        pass

    assert manager.on_gap(note) is note
    assert isinstance(manager.on_gap(functools.partial(note)), functools.partial)


ELSEWHERE = {
    "send": lambda me: me.send(HELLO),
    "text": lambda me: me.ws.send_text("hello"),
    "data": lambda me: me.ws.send_data(b"hello"),
    "broadcast": lambda me: me.broadcast_to_room("lobby", HELLO),
    "to_user": lambda me: me.ws.manager.send_to_user("ann", HELLO),
    "join": lambda me: me.join_room("attic"),
    "leave": lambda me: me.leave_room("lobby"),
    "track": lambda me: me.track("attic"),
    "add_tag": lambda me: me.ws.add_tag("pro"),
    "remove_tag": lambda me: me.ws.remove_tag("pro"),
    "close": lambda me: me.ws.close(4000),
}


@pytest.mark.parametrize("verb", ELSEWHERE)
async def test_another_threads_loop_is_told_where_to_call(here, verb):
    """What would wake tasks of a loop that is not running is refused; nothing has happened."""
    _, me = here

    def call():
        return asyncio.run(ELSEWHERE[verb](me))

    with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(call)

    assert (me.ws.ready, me.ws.rooms, me.ws.tags) == (True, {"lobby"}, frozenset())


@pytest.mark.parametrize("verb", ELSEWHERE)
async def test_the_call_that_the_error_shows_works(here, verb):
    """Any thread may ask the app's loop to do it."""
    _, me = here
    loop = asyncio.get_running_loop()

    def call():
        return asyncio.run_coroutine_threadsafe(ELSEWHERE[verb](me), loop).result(30)

    await asyncio.to_thread(call)
