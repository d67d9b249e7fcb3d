"""Background work beside the connections: started with the app, supervised, stopped with it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar, overload

from falcon_pachinko.backends import Backend, MemoryBackend
from falcon_pachinko.clock import uniform
from falcon_pachinko.connection.sender import SENDER
from falcon_pachinko.errors import DuplicateWorkerError, LeaseLostError, WorkerDefinitionError
from falcon_pachinko.leases import give_back, hold, keep, take

__all__ = ["Worker", "WorkerController", "worker"]

log = logging.getLogger("falcon_pachinko.workers")

HEALTHY = 60.0
"""Seconds that a worker must run for its next crash to count as the first again."""

Restart = Literal["on-failure", "never"]


_DEFAULTS = "__pachinko_worker__"

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


@overload
def worker(function: F, /) -> F: ...


@overload
def worker(
    *,
    name: str | None = None,
    restart: Restart | None = None,
    critical: bool | None = None,
    backoff: tuple[float, float] | None = None,
    singleton: bool | None = None,
) -> Callable[[F], F]: ...


def worker(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    restart: Restart | None = None,
    critical: bool | None = None,
    backoff: tuple[float, float] | None = None,
    singleton: bool | None = None,
) -> F | Callable[[F], F]:
    """Write a worker's options beside its function; what `WorkerController.add` is given wins.

    Without options, ``@worker`` works too: it marks the function for readers.

    Raises:
        WorkerDefinitionError: It is given something that is not a function, such as a name
            that should be ``name=...``.

    Example::

        @worker(name="prices", restart="never")
        async def poll_prices(manager):
            ...

        app.add_websocket_worker(poll_prices)
    """
    given = {
        "name": name,
        "restart": restart,
        "critical": critical,
        "backoff": backoff,
        "singleton": singleton,
    }
    options = {key: value for key, value in given.items() if value is not None}

    def mark(function: F) -> F:
        if not callable(function):
            raise WorkerDefinitionError(
                repr(function), "is not a function; write @worker, or @worker(name=...)"
            )
        setattr(function, _DEFAULTS, options)
        return function

    return mark if function is None else mark(function)


OnCritical = Callable[["Worker", BaseException], None]


def stop_server(worker: Worker, error: BaseException) -> None:
    """Have the server shut down, as SIGTERM does: what a critical worker's crash ends in."""
    log.critical("worker %s is critical: the server stops", worker.name)
    signal.raise_signal(signal.SIGTERM)


class Worker:
    """One supervised coroutine function, and its state."""

    def __init__(
        self,
        run: Callable[[], Awaitable[Any]],
        name: str,
        *,
        restart: Restart = "on-failure",
        critical: bool = False,
        backoff: tuple[float, float] = (0.5, 30.0),
        backend: Backend | None = None,
        on_critical: OnCritical = stop_server,
    ) -> None:
        self.name = name
        self.restart = restart
        self.critical = critical
        self.backoff = backoff
        self.state: Literal["waiting", "standby", "running", "done", "failed", "stopped"] = (
            "waiting"
        )
        self.restarts = 0
        self._run = run
        self._on_critical = on_critical
        self._backend = backend  # whose lease says which process runs it, if only one may

    def __repr__(self) -> str:
        return f"<Worker {self.name} {self.state}>"

    async def supervise(self) -> None:
        """Run it until it returns, is cancelled, or has failed and is not restarted."""
        loop = asyncio.get_running_loop()
        first, largest = self.backoff
        delay = first
        while True:
            self.state = "running" if self._backend is None else "standby"
            began = loop.time()
            try:
                await (self._run() if self._backend is None else self._run_alone(self._backend))
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    self.state = "stopped"
                    raise
                self._crashed(error)
            except Exception as error:  # noqa: BLE001  # whatever a worker raises is logged and survived
                self._crashed(error)
            else:
                self.state = "done"
                return
            if self._given_up:
                self.state = "failed"
                return
            if loop.time() - began >= HEALTHY:
                delay = first
            pause = delay * uniform(0.8, 1.2)
            log.warning("worker %s starts again in %.1f s", self.name, pause)
            self.state = "waiting"
            await asyncio.sleep(pause)
            self.restarts += 1
            delay = min(delay * 2, largest)

    async def _run_alone(self, backend: Backend) -> None:
        """Run it while this process has its lease; wait for the lease, and again after a loss.

        It runs in a task of its own, which is cancelled when the lease is lost. What it
        sends is refused from the moment the lease may have ended, be it cancelled or not.
        """
        while True:
            self.state = "standby"
            lease = await take(backend, self.name)
            self.state = "running"
            context = contextvars.copy_context()
            context.run(hold, lease)
            loop = asyncio.get_running_loop()
            running = loop.create_task(self._call(), context=context)
            keeping = loop.create_task(keep(backend, lease))
            try:
                await asyncio.wait((running, keeping), return_when=asyncio.FIRST_COMPLETED)
                lost = not (running.done() and lease.held)
            finally:
                for task in (running, keeping):
                    task.cancel()
                await asyncio.wait((running, keeping))
                await give_back(backend, lease)
            if not lost:
                running.result()
                return
            log.warning("worker %s has lost its lease; another process may run it", self.name)
            error = None if running.cancelled() else running.exception()
            if error is not None and not isinstance(error, LeaseLostError):
                self._crashed(error)

    async def _call(self) -> None:
        await self._run()

    def _crashed(self, error: BaseException) -> None:
        log.error("worker %s crashed", self.name, exc_info=error)
        if self.critical:
            self._on_critical(self, error)

    @property
    def _given_up(self) -> bool:
        return self.critical or self.restart == "never"


class WorkerController:
    """Starts, supervises and stops workers; an app has one, and it works without an app too.

    Example::

        controller = WorkerController()
        controller.add(poll_prices, manager)
        await controller.start()
        ...
        await controller.stop()
    """

    def __init__(
        self, *defaults: Any, stop_timeout: float | None = 20.0, backend: Backend | None = None
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.started = False
        self.on_critical: OnCritical = stop_server
        """What is called when a critical worker has crashed; tests put something else here."""
        self._defaults = defaults
        self._stop_timeout = stop_timeout
        self._backend = backend or MemoryBackend()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # where they run, while started

    def add(
        self,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        name: str | None = None,
        restart: Restart | None = None,
        critical: bool | None = None,
        backoff: tuple[float, float] | None = None,
        singleton: bool | None = None,
        **kwargs: Any,
    ) -> Worker:
        """Register a coroutine function; it starts with the others, or at once after `start`.

        It is called with the arguments given here; with none, with the controller's
        own (an app's manager). A worker that returns is done. A crash is logged at once
        with its traceback, and the worker starts again after a pause.

        Args:
            function: The coroutine function.
            args: What it is called with.
            name: How logs and `status` call it; by default the function's name.
            restart: ``"never"`` does not start it again after a crash; the default is
                ``"on-failure"``.
            critical: A crash ends the process, through the server's own shutdown.
            backoff: The first and the largest pause in seconds, by default 0.5 and 30; it
                doubles in between, varies by a fifth, and starts over after a healthy minute.
            singleton: Run it on one process of all that share a backend: the one that holds
                the lease of its name. If that process dies, another one takes over within
                ``Backend.ttl``. See `current_lease`.
            kwargs: What it is called with, by name.

        Raises:
            WorkerDefinitionError: It is not a coroutine function, or cannot take these arguments.
            DuplicateWorkerError: The name is taken.
            RuntimeError: The workers run already, in an event loop that is not this one's.
        """
        own: dict[str, Any] = getattr(function, _DEFAULTS, None) or getattr(
            _callee(function), _DEFAULTS, {}
        )
        called = name or own.get("name") or _name_of(function)
        restart = restart or own.get("restart", "on-failure")
        critical = own.get("critical", False) if critical is None else critical
        backoff = backoff or own.get("backoff", (0.5, 30.0))
        singleton = own.get("singleton", False) if singleton is None else singleton
        if not callable(function):
            raise WorkerDefinitionError(repr(function)[:200], "is not a function")
        if not inspect.iscoroutinefunction(_callee(function)):
            raise WorkerDefinitionError(
                called, f"is not a coroutine; write `async def {called}(...)`"
            )
        if restart not in ("on-failure", "never"):
            raise WorkerDefinitionError(
                called, f'has restart={restart!r}; use "on-failure" or "never"'
            )
        if not 0 < backoff[0] <= backoff[1]:
            raise WorkerDefinitionError(
                called, f"has backoff={backoff!r}; give (first, largest) seconds"
            )
        if called in self.workers:
            raise DuplicateWorkerError(called)
        if self.started:
            self._check_loop(f"to add the worker {called}")
        given = args if args or kwargs else self._defaults
        try:
            inspect.signature(function).bind(*given, **kwargs)
        except TypeError as error:
            with_what = ", ".join([*(repr(a) for a in given), *(f"{k}=..." for k in kwargs)])
            raise WorkerDefinitionError(
                called, f"cannot be called with ({with_what}): {error}"
            ) from None
        worker = Worker(
            functools.partial(function, *given, **kwargs),
            called,
            restart=restart,
            critical=critical,
            backoff=backoff,
            backend=self._backend if singleton and self._backend.shared else None,
            on_critical=self._critical_crashed,
        )
        self.workers[called] = worker
        if self.started:
            self._launch(worker)
        return worker

    async def start(self) -> None:
        """Start every worker; once more changes nothing."""
        if self.started and self._loop is not None and not self._loop.is_closed():
            return
        self.started, self._loop = True, asyncio.get_running_loop()
        for worker in self.workers.values():
            self._launch(worker)

    async def stop(self) -> None:
        """Cancel every worker and wait for their ends, ``stop_timeout`` seconds at most, if any."""
        if self._loop is not None and self._loop.is_closed():
            self._tasks.clear()  # they ended with their loop, which was never told to stop them
        elif self._tasks:  # without a worker, no loop has anything of ours
            self._check_loop("to stop the workers")
        self.started, self._loop = False, None
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks.values(), timeout=self._stop_timeout)
        for task in late:
            log.error(
                "%s did not end within %s s; no longer waited for",
                task.get_name(),
                self._stop_timeout,
            )

    def status(self) -> dict[str, dict[str, Any]]:
        """Return each worker's state and how often it was started again."""
        return {
            name: {"state": worker.state, "restarts": worker.restarts}
            for name, worker in self.workers.items()
        }

    def _check_loop(self, what: str) -> None:
        """Refuse what another thread wants: its loop is not the one that the workers run in."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            raise RuntimeError(
                f"the workers run in another event loop; {what} from another thread, have that "
                "loop do it: loop.call_soon_threadsafe(...) for a function, "
                "asyncio.run_coroutine_threadsafe(..., loop) for a coroutine"
            )

    def _critical_crashed(self, worker: Worker, error: BaseException) -> None:
        self.on_critical(worker, error)  # as it is now, not as it was when the worker was added

    def _launch(self, worker: Worker) -> None:
        context = contextvars.copy_context()
        context.run(SENDER.set, None)  # one that a handler adds works for no connection
        self._tasks[worker.name] = asyncio.get_running_loop().create_task(
            worker.supervise(), name=f"worker {worker.name}", context=context
        )


def _name_of(function: Any) -> str:
    callee = _callee(function)
    name: str = getattr(callee, "__name__", "")
    return name if name not in ("", "__call__") else type(function).__name__


def _callee(function: Any) -> Any:
    """Return what actually runs: a partial's function, a callable object's ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or not callable(function):
        return function
    return type(function).__call__
