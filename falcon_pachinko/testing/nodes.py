"""Several processes of an app under test, in memory, with the faults that production has."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, urlencode

from falcon_pachinko.backends import REPLACEMENT, Backend, MemoryHub
from falcon_pachinko.backends.remote_memory import RemoteMemoryBackend
from falcon_pachinko.backends.settings import Settings, read_url
from falcon_pachinko.testing.client import LIFESPAN_TIMEOUT, TIMEOUT
from falcon_pachinko.testing.clock import VirtualClock
from falcon_pachinko.testing.http import MemoryHttp
from falcon_pachinko.testing.processes import Process, Processes
from falcon_pachinko.testing.simulator import WRITE_BUFFER, Simulator, find_pachinko
from falcon_pachinko.typing import AsgiReceive, AsgiSend, Scope

__all__ = ["Cluster", "ClusterBackend", "ClusterNode", "cluster"]

T = TypeVar("T")

RETURN = 15.0
"""Seconds of the virtual clock that processes have to reach the backend again, after a fault."""

TIMES = ("ttl", "timeout", "probe")
"""The settings in a backend's URL that hold in memory, too."""

LOOK_AGAIN = 0.01
"""Seconds of the virtual clock between two looks at whether they have."""


class _Hub(MemoryHub):
    """The hub, a process of its own: what it does later, it does for none of the others."""

    def __init__(self, clock: VirtualClock, processes: Processes) -> None:
        super().__init__(clock.time, rewindable=True)
        self._processes = processes

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.Handle:
        with self._processes.within(None):
            return super().call_at(when, callback, *args)


class ClusterNode(Simulator):
    """One process of a cluster: what `simulate` gives, and `kill`."""

    def __init__(
        self,
        app: Any,
        backends: list[RemoteMemoryBackend],
        process: Process,
        *,
        processes: Processes,
        clock: VirtualClock,
        **options: Any,
    ) -> None:
        super().__init__(app, **options)
        self.http = MemoryHttp(self._serve_http)
        self._backends, self._process, self._processes = backends, process, processes
        self._clock = clock
        self._stopped = False

    @property
    def killed(self) -> bool:
        """Whether `kill` was called."""
        return self._process.dead and not self._stopped

    async def kill(self) -> None:
        """End this process as ``kill -9`` does, in the midst of whatever it is doing.

        Nothing of it runs any more: no ``on_disconnect``, no ``finally``, no shutdown. Its clients
        see 1006. The others notice when its leases end: let the clock `Cluster.advance` by the
        backend's ``ttl``, 15 seconds unless its URL says otherwise.

        Raises:
            RuntimeError: It was killed already, or has stopped.
        """
        self._check_alive()
        self._processes.kill(self._process)
        for backend in self._backends:
            backend.vanish()
        for client in list(self._clients.values()):
            client.lose_server()
        await self._clock.advance(0)

    async def stop(self) -> None:
        """Shut the process down in good order, as SIGTERM does; not one that was killed."""
        if self._process.dead:
            return
        try:
            await super().stop()
        finally:
            self._stopped = True
            await self._processes.end(self._process)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine as code of this process: what it begins ends with the process.

        Raises:
            RuntimeError: The process was killed, or has stopped.
        """
        try:
            self._check_alive()
        except RuntimeError:
            coroutine.close()
            raise
        return await self._processes.run(self._process, coroutine)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        try:
            self._check_reachable()
        except ConnectionRefusedError:
            work.close()
            raise
        with self._processes.within(self._process):
            return super()._spawn(work)

    async def _serve_http(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        self._check_reachable()
        await self._processes.run(self._process, self.app(scope, receive, send))

    def _ending(self) -> str:
        how = "has stopped" if self._stopped else "was killed"
        return f"process {self._process.number} {how}"

    def _check_alive(self) -> None:
        if self._process.dead:
            raise RuntimeError(f"{self._ending()} already")

    def _check_reachable(self) -> None:
        if self._process.dead:
            raise ConnectionRefusedError(f"{self._ending()}, so nothing can connect to it")


class ClusterBackend:
    """The server between the processes of a cluster, and what can happen to it."""

    def __init__(self, cluster: Cluster, hub: MemoryHub) -> None:
        self._cluster, self._hub = cluster, hub
        self._delay = 0.0

    def delay(self, seconds: float) -> AbstractAsyncContextManager[None]:
        """Have every call and every delivery take some time, for an ``async with`` block.

        A call is done as soon as it is made, and answered that much later; what is published
        arrives that much later. Within the block, a block inside it counts. As in production,
        a backend that takes longer than its ``timeout`` (3 seconds) is as good as away.

        Args:
            seconds: Of the virtual clock.

        Raises:
            ValueError: It is negative, or not a number.

        Example::

            async with nodes.backend.delay(0.4):
                await ann.send_json({"type": "say", "payload": {"text": "hi"}})
                await bob.expect_nothing()
                await nodes.advance(0.4)
                await bob.expect("said")
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a delay is a number of seconds, not {seconds!r}")
        return self._delayed(seconds)

    @asynccontextmanager
    async def _delayed(self, seconds: float) -> AsyncIterator[None]:
        before, self._delay = self._delay, seconds
        self._apply()
        try:
            yield
        finally:
            self._delay = before
            self._apply()

    def _apply(self) -> None:
        for backend in self._cluster._backends():
            backend.delay = self._delay

    async def restart(self, *, lose: bool | float = False) -> None:
        """Restart the server; returns when the processes that can reach it are connected again.

        Connections are cut, which takes the processes a moment of the virtual clock to mend. A
        client that comes back with a position of before is told ``recovered: false``, also if
        nothing is lost: nobody can know that. Processes that are cut off by a partition hear
        of it when they are back.

        Args:
            lose: False keeps all; True forgets all: histories, presence, leases. A number goes
                back that many seconds of the virtual clock, as a Redis does that is restored from
                an older snapshot.

        Raises:
            ValueError: It is negative, or not a number.
        """
        self._hub.restart(lose=lose)
        await self._cluster._back(range(len(self._cluster)))


class Cluster:
    """Several processes of one app; `cluster` makes it, and ``nodes[0]`` is the first.

    Attributes:
        backend: The server between them.
        clock: What tells them the time.
    """

    def __init__(
        self,
        create_app: Callable[[], Any],
        processes: int,
        clock: VirtualClock,
        options: dict[str, Any],
    ) -> None:
        self.clock = clock
        self._create_app, self._number, self._options = create_app, processes, options
        self._processes = Processes()
        self._hub = _Hub(clock, self._processes)
        self.backend = ClusterBackend(self, self._hub)
        self._nodes: list[ClusterNode] = []  # empty until it is entered
        self._cuts = [0] * processes  # in how many partitions each process is
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._nodes:
            raise RuntimeError("a cluster runs once; cluster() makes another one")
        async with AsyncExitStack() as stack:
            stack.enter_context(self.clock)
            self._processes.install()
            stack.callback(self._processes.remove)
            nodes = [self._make(number) for number in range(self._number)]
            self._nodes = nodes
            for number, node in enumerate(nodes):
                try:
                    await stack.enter_async_context(node)
                except BaseException as error:
                    error.add_note(f"process {number} of the cluster did not start")
                    await self._processes.end(node._process)
                    raise
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, number: int) -> ClusterNode:
        """Return a process; as in a list, -1 is the last.

        Raises:
            IndexError: There is no such process.
        """
        if not self._nodes:
            raise RuntimeError("not started yet; write `async with cluster(...) as nodes`")
        return self._nodes[self._index(number)]

    def __iter__(self) -> Iterator[ClusterNode]:
        return iter(self._nodes)

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass; see `VirtualClock.advance`."""
        await self.clock.advance(seconds)

    def partition(self, *numbers: int) -> AbstractAsyncContextManager[None]:
        """Cut processes off from the backend, for an ``async with`` block.

        Nothing passes in either direction, and neither side is told. The processes notice as in
        production, by a call or a probe that is not answered: within five seconds of the
        virtual clock their state is ``degraded`` (``probe`` plus ``timeout``). Their clients
        stay connected. Leaving the block returns when they are connected to the backend again.

        Args:
            numbers: Which processes; each is on its own.

        Raises:
            IndexError: There is no such process.
            TypeError: None is named.

        Example::

            async with nodes.partition(1):
                await nodes.advance(5)
                assert nodes[1].manager.status()["backend"]["state"] == "degraded"
        """
        if not numbers:
            raise TypeError("partition() takes the numbers of processes, such as partition(1)")
        return self._cut_off({self._index(number) for number in numbers})

    @asynccontextmanager
    async def _cut_off(self, numbers: Collection[int]) -> AsyncIterator[None]:
        for number in sorted(numbers):
            self._cuts[number] += 1
            for backend in self[number]._backends:
                backend.sever()
        try:
            yield
        finally:
            free = []
            for number in sorted(numbers):
                self._cuts[number] -= 1
                if not self._cuts[number] and not self[number]._process.dead:
                    free.append(number)
                    for backend in self[number]._backends:
                        backend.restore()
        await self._back(free)

    async def _back(self, numbers: Collection[int]) -> None:
        """Wait until processes that can reach the backend do, for a while of virtual time."""
        await self.advance(0)
        waiting = [
            backend
            for number in numbers
            if not self._cuts[number] and not self[number]._process.dead
            for backend in self[number]._backends
        ]
        end = self.clock.time() + RETURN
        while self.clock.time() < end and any(each.state == "degraded" for each in waiting):
            await self.advance(LOOK_AGAIN)

    def _make(self, number: int) -> ClusterNode:
        """Make a process and its app."""
        process = Process(number)
        backends: list[RemoteMemoryBackend] = []

        def open_here(given: Backend | str | None) -> Backend:
            backends.append(RemoteMemoryBackend(self._hub, _settings_of(given)))
            return backends[-1]

        token = REPLACEMENT.set(open_here)
        try:
            with self._processes.within(process):
                app = self._create_app()
        finally:
            REPLACEMENT.reset(token)
        self._check(app, backends)
        return ClusterNode(
            app,
            backends,
            process,
            processes=self._processes,
            clock=self.clock,
            **self._options,
        )

    def _check(self, app: Any, backends: list[RemoteMemoryBackend]) -> None:
        shown = _shown(self._create_app)
        if inspect.iscoroutine(app):
            app.close()
            raise TypeError(f"{shown} is a coroutine function; cluster() takes a plain one")
        pachinko = find_pachinko(app)
        if pachinko is None:
            raise TypeError(
                f"{shown} returned {app!r:.200}, which is not a Falcon app with WebSockets; "
                "return a falcon.asgi.App, after install(app)"
            )
        if pachinko.ws_connection_manager._cluster.backend not in backends:
            raise TypeError(
                f"{shown} returned an app that was made before; it has to make a new one "
                "whenever it is called"
            )

    def _index(self, number: int) -> int:
        if not isinstance(number, int) or not -self._number <= number < self._number:
            raise IndexError(
                f"there is no process {number!r}: this cluster has {self._number}, "
                f"from 0 to {self._number - 1}"
            )
        return number % self._number

    def _backends(self) -> list[RemoteMemoryBackend]:
        return [backend for node in self._nodes for backend in node._backends]


def cluster(
    create_app: Callable[[], Any],
    processes: int = 2,
    *,
    clock: VirtualClock | None = None,
    timeout: float = TIMEOUT,
    ws_max_size: int | None = None,
    write_buffer: int = WRITE_BUFFER,
    lifespan_timeout: float = LIFESPAN_TIMEOUT,
) -> Cluster:
    """Run several processes of an app in memory, connected, for as long as an ``async with`` lasts.

    Each process is an app of its own, with its lifespan and its workers. They are connected as by a
    server of production, whatever ``backend`` the app names: neither that server nor its package is
    needed. ``ttl``, ``timeout`` and ``probe`` of its URL hold.

    Time is virtual within the block, for the processes and the test alike. It stands still
    while anything can run, and jumps to the next timer when everything waits; see `VirtualClock`.
    So a receive waits as long as it may, and takes no real time; ``await nodes.advance(15)``
    lets fifteen seconds pass. One script has one outcome: the same frames, ids and epochs
    in each run. What the application takes from elsewhere (`random`, `uuid`, the date,
    threads) is its own affair.

    The processes share what a Python process has: modules and their globals, environment, log.

    Args:
        create_app: Makes an app, with `install` done; called once for each process, without
            arguments.
        processes: How many there are.
        clock: Another clock than a new one, such as ``VirtualClock(patience=0.05)`` for
            applications that talk to a database.
        timeout: As for `simulate`, in seconds of the virtual clock; so are the others.
        ws_max_size: As for `simulate`.
        write_buffer: As for `simulate`.
        lifespan_timeout: As for `simulate`.

    Raises:
        TypeError: ``create_app`` is not a function that can be called so, or, on entering,
            returned something else than a new app.
        ValueError: ``processes`` is not a positive number.
        LifespanError: On entering or leaving, as for `simulate`.

    Example::

        async with cluster(create_app, processes=3) as nodes:
            async with nodes[0].connect("/chat/tea") as ann, nodes[1].connect("/chat/tea") as bob:
                await ann.send_json({"type": "say", "payload": {"text": "hi"}})
                await bob.expect("said", {"text": "hi"})
                await nodes[1].kill()
                await nodes.advance(15)
    """
    if not isinstance(processes, int) or isinstance(processes, bool) or processes < 1:
        raise ValueError(f"processes={processes!r} is not a number of processes, from 1")
    if not callable(create_app) or find_pachinko(create_app) is not None:
        raise TypeError(
            f"cluster() takes the function that makes an app, not {create_app!r:.200}; "
            "write cluster(create_app)"
        )
    try:
        inspect.signature(create_app).bind()
    except TypeError as error:
        raise TypeError(
            f"{_shown(create_app)} is called without arguments ({error}); "
            "write cluster(lambda: create_app(...))"
        ) from None
    except ValueError:  # a callable without a signature: it is simply called
        pass
    options = {
        "timeout": timeout,
        "ws_max_size": ws_max_size,
        "write_buffer": write_buffer,
        "lifespan_timeout": lifespan_timeout,
    }
    return Cluster(create_app, processes, clock or VirtualClock(), options)


def _settings_of(given: Backend | str | None) -> Settings:
    """Return the settings that a backend would have, if it was opened."""
    if isinstance(given, str):
        pairs = parse_qsl(given.partition("?")[2], keep_blank_values=True)
        times = urlencode([(key, value) for key, value in pairs if key in TIMES])
        return read_url(f"memory://cluster?{times}").settings
    settings = getattr(given, "settings", None)
    if isinstance(settings, Settings):
        return settings
    return Settings(ttl=given.ttl) if given is not None else Settings()


def _shown(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__qualname__', repr(function))}()"
