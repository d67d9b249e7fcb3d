"""One task and one context for all of a connection's life: what is entered first is left last."""

import asyncio
import contextvars

import pytest

from falcon_pachinko import Limits, WebSocketResource, handles_message
from falcon_pachinko.testing import simulate

WHO = contextvars.ContextVar("WHO", default="nobody")


class Spanning(WebSocketResource):
    """Enters in ``on_connect`` what it leaves in ``on_disconnect``."""

    def __init__(self, tasks, left):
        self.tasks, self.left = tasks, left

    async def on_connect(self, req, ws):
        self.who = req.get_param("who")
        self.token = WHO.set(self.who)
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        self.timeout = asyncio.timeout(3600)
        await self.timeout.__aenter__()
        self.tasks.setdefault(self.who, set()).add(asyncio.current_task())
        return True

    @handles_message("who")
    async def ask(self, ws):
        self.group.create_task(asyncio.sleep(0))
        self.tasks[self.who].add(asyncio.current_task())
        return WHO.get()

    @handles_message("beside", concurrent=True)
    async def beside(self, ws):
        return WHO.get()

    async def on_disconnect(self, ws, close_code):
        self.tasks[self.who].add(asyncio.current_task())
        await self.timeout.__aexit__(None, None, None)
        await self.group.__aexit__(None, None, None)
        WHO.reset(self.token)
        self.left.append(self.who)


async def leaves(client, ann):
    await ann.close()


async def drops(client, ann):
    await ann.drop()


async def is_cut_by_the_server(client, ann):
    ann.task.cancel()
    ann.task.cancel()


async def shuts_down(client, ann):
    await client.stop()


@pytest.mark.parametrize("end", [leaves, drops, is_cut_by_the_server, shuts_down])
@pytest.mark.parametrize("kind", ["who", "beside"])
async def test_a_task_group_a_timeout_and_a_context_variable_span_a_connection(serve, end, kind):
    """Whatever ends it: the same task, and the context that ``on_connect`` has set."""
    tasks, left = {}, []
    async with simulate(serve(Spanning, tasks=tasks, left=left)) as client:
        ann = client.connect("/?who=ann")
        async with ann, client.connect("/?who=bob") as bob:
            answers = [(await each.request(kind))["payload"] for each in (ann, bob)]
            await end(client, ann)
            await asyncio.wait([ann.task])

    assert answers == ["ann", "bob"]
    assert sorted(left) == ["ann", "bob"]
    assert [len(each) for each in tasks.values()] == [1, 1]


@pytest.mark.parametrize("concurrent", [False, True], ids=["serial", "concurrent"])
@pytest.mark.parametrize("ref", ["7", 0, ""])
async def test_a_handler_that_the_application_cancels_is_answered_once(
    serve, until, concurrent, ref
):
    """With ``cancelled``; the session lives."""
    running = []

    class Jobs(WebSocketResource):
        @handles_message("run", concurrent=concurrent)
        async def run(self, ws):
            running.append(asyncio.current_task())
            await asyncio.Event().wait()

        @handles_message("hi")
        async def hi(self, ws):
            return "hi"

    async with simulate(serve(Jobs)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "run", "ref": ref})
        await until(lambda: running)
        running[0].cancel()
        answer = await ann.receive_json()

        assert (answer["ref"], answer["payload"]["code"]) == (ref, "cancelled")
        assert (await ann.request("hi"))["payload"] == "hi"
        await ann.expect_nothing()


@pytest.mark.parametrize("limit", [1, 3, 8])
async def test_what_waits_for_its_turn_holds_up_nothing_else(serve, limit):
    """With all places taken, serial messages and pings go on; the rest follow in their order."""
    go, begun = asyncio.Event(), []

    class Work(WebSocketResource):
        @handles_message("slow", concurrent=True)
        async def slow(self, ws, payload: int):
            begun.append(payload)
            await go.wait()

        @handles_message("quick")
        async def quick(self, ws):
            return "at once"

    limits = Limits(concurrency=limit)
    async with simulate(serve(Work, limits=limits)) as client, client.connect("/") as ann:
        for number in range(20):
            await ann.send_json({"type": "slow", "payload": number, "ref": number})
        first = await ann.request("quick")
        pong = await ann.request("ping")
        at_once = list(begun)
        go.set()
        refs = [(await ann.receive_json())["ref"] for _ in range(20)]

    assert (first["payload"], pong["type"]) == ("at once", "pong")
    assert at_once == list(range(limit))
    assert begun == list(range(20))
    assert sorted(refs) == list(range(20))


@pytest.mark.parametrize("concurrent", [False, True], ids=["serial", "concurrent"])
@pytest.mark.parametrize("kind", ["at its end", "twice", "swallowed"])
async def test_a_cancellation_that_comes_late_does_not_end_the_session(
    serve, until, concurrent, kind
):
    """In a handler's last step, once more while it cleans up, or one that it ignores."""
    running = []

    class Jobs(WebSocketResource):
        @handles_message("run", concurrent=concurrent)
        async def run(self, ws):
            task = asyncio.current_task()
            if kind == "at its end":
                task.cancel()
                return "done"
            running.append(task)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if kind == "swallowed":
                    return "done"
                running.append(task)
                await asyncio.Event().wait()

        @handles_message("hi")
        async def hi(self, ws):
            return "hi"

    async with simulate(serve(Jobs)) as client, client.connect("/") as ann:
        await ann.send_json({"type": "run", "ref": 1})
        for times in () if kind == "at its end" else (1, 2) if kind == "twice" else (1,):
            await until(lambda: len(running) == times)  # noqa: B023  # awaited at once
            running[0].cancel()
        answer = await ann.receive_json()

        assert answer["ref"] == 1
        if kind == "twice":
            assert answer["payload"]["code"] == "cancelled"
        else:
            assert answer["payload"] == "done"
        assert (await ann.request("hi"))["payload"] == "hi"
        await ann.expect_nothing()
