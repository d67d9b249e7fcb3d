"""Several clients do anything in any order; rooms and deliveries are those of a plain model."""

import asyncio
import contextlib

import falcon
import falcon.asgi
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from falcon_pachinko import WebSocketResource, handles_message, install, to
from falcon_pachinko.testing import RequestError, simulate

ROOMS = st.sampled_from(["a", "ab", "b"])
NUMBERS = st.integers(0, 1_000_000)
WHO = st.integers(0, 9)


class Anything(WebSocketResource):
    """Does what its client says."""

    goodbyes: list[str]

    def __init__(self, goodbyes):
        self.goodbyes = goodbyes

    async def on_connect(self, req, ws, name):
        self.name = name
        ws.state.name = name
        return True

    @handles_message("join")
    async def join(self, ws, payload: str):
        await self.join_room(payload)

    @handles_message("leave")
    async def leave(self, ws, payload: str):
        await self.leave_room(payload)

    @handles_message("say")
    async def say(self, ws, payload: dict):
        delivery = await self.broadcast_to_room(
            payload["room"], payload["number"], exclude_self=payload["quietly"]
        )
        return delivery.sent

    @handles_message("crash")
    async def crash(self, ws):
        raise ZeroDivisionError

    @handles_message("bye")
    async def bye(self, ws):
        await ws.close(4000)

    async def on_disconnect(self, ws, close_code):
        self.goodbyes.append(self.name)


class Clients(RuleBasedStateMachine):
    """Real sessions on one side, sets and lists on the other."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        self.goodbyes = []
        app = falcon.asgi.App()
        install(app)
        app.add_websocket_route("/{name}", Anything, goodbyes=self.goodbyes)
        self.simulator = self.run(self.stack.enter_async_context(simulate(app)))
        # The model: who is here, in which rooms, and what each should have heard by now.
        self.clients = {}
        self.rooms = {}
        self.heard = {}
        self.gone = []
        self.came = 0

    def run(self, coroutine):
        return self.runner.run(coroutine)

    def pick(self, who):
        return sorted(self.clients)[who % len(self.clients)]

    def members(self, name):
        return {each for each, rooms in self.rooms.items() if name in rooms}

    def forget(self, name):
        self.gone.append(name)
        for mapping in (self.clients, self.rooms, self.heard):
            del mapping[name]

    @rule()
    @precondition(lambda self: len(self.clients) < 5)
    def connect(self):
        name = f"c{self.came}"
        self.came += 1
        client = self.simulator.connect(f"/{name}")
        self.run(client.__aenter__())
        self.clients[name], self.rooms[name], self.heard[name] = client, set(), []

    @rule(who=WHO, to=ROOMS)
    @precondition(lambda self: self.clients)
    def join(self, who, to):
        name = self.pick(who)
        self.run(self.clients[name].request("join", to))
        self.rooms[name].add(to)

    @rule(who=WHO, to=ROOMS)
    @precondition(lambda self: self.clients)
    def leave(self, who, to):
        name = self.pick(who)
        self.run(self.clients[name].request("leave", to))
        self.rooms[name].discard(to)

    @rule(who=WHO, to=ROOMS, number=NUMBERS, quietly=st.booleans())
    @precondition(lambda self: self.clients)
    def say(self, who, to, number, quietly):
        name = self.pick(who)
        reached = self.members(to) - ({name} if quietly else set())
        payload = {"room": to, "number": number, "quietly": quietly}
        answer = self.run(self.clients[name].request("say", payload))

        assert answer["payload"] == len(reached)
        for each in reached:
            self.heard[each].append(number)

    @rule(a=ROOMS, b=ROOMS, number=NUMBERS)
    def broadcast(self, a, b, number):
        reached = self.clients.keys() - (self.members(a) - self.members(b))
        target = to.everyone - (to.room(a) - to.room(b))
        delivery = self.run(self.simulator.manager.broadcast(number, to=target))

        assert (delivery.sent, delivery.dropped) == (len(reached), 0)
        for each in reached:
            self.heard[each].append(number)

    @rule(who=WHO)
    @precondition(lambda self: self.clients)
    def crash(self, who):
        with pytest.raises(RequestError) as failed:
            self.run(self.clients[self.pick(who)].request("crash"))

        assert failed.value.code == "internal_error"

    @rule(who=WHO, how=st.sampled_from(["close", "drop", "bye", "disconnect"]))
    @precondition(lambda self: self.clients)
    def end(self, who, how):
        name = self.pick(who)
        self.run(self.finish(name, how))
        self.forget(name)

    async def finish(self, name, how):
        client = self.clients[name]
        if how == "bye":
            await client.send_json({"type": "bye"})
        elif how == "disconnect":
            (found,) = [
                each
                async for each in self.simulator.manager.connections()
                if each.state.name == name
            ]
            await self.simulator.manager.disconnect(found.id)
        else:
            await getattr(client, how)()
        await client.__aexit__(None, None, None)

    @invariant()
    def everybody_heard_what_the_model_says(self):
        for name, client in self.clients.items():
            for number in self.heard[name]:
                assert self.run(client.receive_json()) == number
            self.run(client.expect_nothing(0.0001))  # whatever comes is there at once
            self.heard[name].clear()

    @invariant()
    def rooms_are_those_of_the_model(self):
        manager = self.simulator.manager
        known = {}
        for each in manager._registry.all():
            known[each.state.name] = set(each.rooms)

        assert known == self.rooms
        names = sorted(set().union(*self.rooms.values()))
        assert self.run(manager.get_rooms_by_prefix("")) == names
        assert self.run(manager.get_rooms_by_prefix("a")) == [n for n in names if n < "b"]

    @invariant()
    def goodbyes_are_said_once_each(self):
        assert sorted(self.goodbyes) == sorted(self.gone)

    def teardown(self):
        self.run(self.stack.aclose())
        here = sorted(self.clients)
        left = self.run(self.count_tasks())
        self.runner.close()

        assert sorted(self.goodbyes) == sorted([*self.gone, *here])
        assert left == 1

    async def count_tasks(self):
        for client in self.clients.values():
            await client.__aexit__(None, None, None)
        return len(asyncio.all_tasks())


@pytest.mark.hypothesis
def test_any_history_ends_where_the_model_says():
    """Who is in which room, who hears what, in which order, and who said goodbye: always known."""
    run_state_machine_as_test(Clients, settings=settings(stateful_step_count=30))
