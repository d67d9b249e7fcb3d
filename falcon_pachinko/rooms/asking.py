"""What applications ask: how many connections there are, which rooms, and to end some of them."""

from __future__ import annotations

from typing import Literal, overload

from falcon_pachinko.connection.ends import check_close_code
from falcon_pachinko.leases import check_lease
from falcon_pachinko.rooms.answers import ClusterAnswer, ClusterRooms
from falcon_pachinko.rooms.exchange import Exchange
from falcon_pachinko.rooms.members import Members
from falcon_pachinko.targets import ConnectionId, Everyone, Target, check_target

__all__ = ["Asking"]

MOST_SECONDS = 31_536_000
"""How long a time-out may be: a year."""


class Asking:
    """The verbs of the manager that have an answer, of this process or of all of them."""

    _exchange: Exchange
    _members: Members

    @overload
    async def count(
        self,
        to: Target | None = None,
        *,
        cluster: Literal[False] = False,
        timeout: float | None = None,
    ) -> int: ...

    @overload
    async def count(
        self, to: Target | None = None, *, cluster: Literal[True], timeout: float | None = None
    ) -> ClusterAnswer: ...

    @overload
    async def count(
        self, to: Target | None = None, *, cluster: bool, timeout: float | None = None
    ) -> int | ClusterAnswer: ...

    async def count(
        self, to: Target | None = None, *, cluster: bool = False, timeout: float | None = None
    ) -> int | ClusterAnswer:
        """Count the connections that a target names, on this process or on all.

        Those that are closed, or about to be, do not count.

        Args:
            to: The target; by default everyone.
            cluster: Ask all processes; then the answer is a `ClusterAnswer`.
            timeout: Seconds to wait for them, the backend's ``timeout`` by default. What has not
                answered by then is missing; nothing is raised.

        Example::

            total, answered, processes = await manager.count(to.user("ann"), cluster=True)

        Raises:
            TypeError: ``to`` is not a target, or an option has a wrong type.
            ValueError: The time-out is not between 0 and a year.
        """
        target = Everyone() if to is None else to
        check_target(target)
        _check(cluster=cluster, timeout=timeout)
        if not cluster:
            return self._exchange.answers.count_here(target)
        self._members.check_loop()
        return await self._exchange.answers.count(target, timeout)

    @overload
    async def get_rooms_by_prefix(
        self, prefix: str, *, cluster: Literal[False] = False, timeout: float | None = None
    ) -> list[str]: ...

    @overload
    async def get_rooms_by_prefix(
        self, prefix: str, *, cluster: Literal[True], timeout: float | None = None
    ) -> ClusterRooms: ...

    @overload
    async def get_rooms_by_prefix(
        self, prefix: str, *, cluster: bool, timeout: float | None = None
    ) -> list[str] | ClusterRooms: ...

    async def get_rooms_by_prefix(
        self, prefix: str, *, cluster: bool = False, timeout: float | None = None
    ) -> list[str] | ClusterRooms:
        """Return the rooms whose names start with a plain string, sorted; of this process, or all.

        The cost is that of the answer, however many other rooms there are. To send
        to such rooms on all processes, use ``to.rooms(prefix)``.

        Args:
            prefix: ``"chat:"``, or ``""`` for all rooms.
            cluster: Ask all processes; then the answer is a `ClusterRooms`.
            timeout: As for `count`.

        Raises:
            TypeError: The prefix is not a str, or an option has a wrong type.
            ValueError: The time-out is not between 0 and a year.
        """
        _check(cluster=cluster, timeout=timeout)
        if not cluster:
            return self._exchange.registry.rooms.names(prefix)
        self._members.check_loop()
        return await self._exchange.answers.rooms(prefix, timeout)

    async def disconnect(
        self,
        to: Target | str,
        code: int = 1000,
        reason: str = "",
        *,
        local: bool = False,
        timeout: float | None = None,
    ) -> ClusterAnswer:
        """Close the connections that a target names, on all processes, after what waits for them.

        It returns when the other processes have done so too, or the time is over; those that are
        late close them when they get to it. Their handlers are cancelled at once.

        Clients whose handshakes began before, and who turn out to be meant,
        are closed too, and not counted.

        Args:
            to: A target, or the id of one connection.
            code: The close code they get.
            reason: A few words; what does not fit into 123 bytes is cut off.
            local: On this process only; the others are neither told nor waited for.
            timeout: As for `count`.

        Returns:
            How many connections were closed, and how many processes have told.

        Example::

            gone = await manager.disconnect(to.user("ann"), 4003, "Banned.")
            if gone.answered < gone.processes:
                log.warning("%d processes are late", gone.processes - gone.answered)

        Raises:
            ValueError: The code is not one that may be sent, or the time-out not between 0
                and a year.
            TypeError: ``to`` is not a target, or an option has a wrong type.
            LeaseLostError: A singleton worker calls it, after its lease ended.
        """
        check_close_code(code)
        check_lease()
        target = ConnectionId(to) if isinstance(to, str) else to
        check_target(target)
        _check(local=local, timeout=timeout)
        self._members.check_loop()
        answers = self._exchange.answers
        if local:
            return ClusterAnswer(await answers.disconnect_here(target, code, reason), 1, 1)
        return await answers.disconnect(target, code, reason, timeout)


def _check(*, timeout: float | None, **choices: object) -> None:
    """Refuse options of a wrong kind, before anything is done.

    Raises:
        TypeError: A choice is not True or False, or the time-out is not a number.
        ValueError: The time-out is not between 0 and a year.
    """
    for name, choice in choices.items():
        if not isinstance(choice, bool):
            raise TypeError(f"{name}={choice!r:.200}: give True or False")
    if timeout is None:
        return
    wanted = "give seconds above 0, at most a year, or None for the backend's timeout"
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout={timeout!r:.200}: {wanted}")
    if not 0 < timeout <= MOST_SECONDS:
        raise ValueError(f"timeout={timeout!r:.200}: {wanted}")
