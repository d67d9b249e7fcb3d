"""One client, as resources see it: who it is, and the verbs to talk to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from threading import get_ident
from typing import TYPE_CHECKING, Any

import falcon

from falcon_pachinko.connection.ends import ABNORMAL, check_close_code
from falcon_pachinko.connection.headers import written_headers
from falcon_pachinko.connection.outbox import Outbox
from falcon_pachinko.connection.sender import MUTED, SENDER, check_sending, is_muted
from falcon_pachinko.connection.stage import CLOSED, CLOSING, CONNECTING, FORGOTTEN, OPEN
from falcon_pachinko.errors import ConnectionStateError
from falcon_pachinko.leases import check_lease
from falcon_pachinko.limits import Limits
from falcon_pachinko.messages.codec import SUBPROTOCOLS, Codec, pack_bytes, pack_text
from falcon_pachinko.names import check_user_id
from falcon_pachinko.typing import AsgiEvent, AsgiSend

if TYPE_CHECKING:
    from falcon.constants import WebSocketPayloadType

__all__ = ["NONE", "Connection", "chosen_subprotocol"]

NONE: frozenset[str] = frozenset()
"""No rooms, or no tags: what nearly all connections have of the one, or of both."""


def chosen_subprotocol(offered: Iterable[str], understood: Iterable[str]) -> str | None:
    """Choose a subprotocol: the client's first of the resource's own, else one of ours.

    >>> chosen_subprotocol(["pachinko.msgpack", "tea.v1"], ["tea.v2", "tea.v1"])
    'tea.v1'
    """
    for known in (frozenset(understood), SUBPROTOCOLS):
        for each in offered:
            if each in known:
                return each
    return None


class Connection:
    """One client, from the moment its handshake arrives; what resources know as ``ws``.

    It has the verbs of `falcon.asgi.WebSocket` (``accept``, ``close``,
    ``send_media``, ``send_text``, ``send_data``, ``closed``, ``subprotocols``)
    but no ``receive``: the library reads, and handlers get what it read.
    The library makes it; an application never does.

    What is sent before the accept waits, and leaves right after it. What is sent
    to a client that has gone is discarded without an error. A message that
    cannot be encoded raises at the sender.

    Example::

        async def on_connect(self, req, ws):
            ws.user_id = req.context.user
            await ws.add_tag("pro")
            await ws.send_media({"type": "welcome"})
            return True
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_codec",
        "_expiry",
        "_outbox",
        "_rooms",
        "_session",
        "_state",
        "_tags",
        "_user_id",
        "id",
        "limits",
        "manager",
        "resource",
        "route",
        "subprotocol",
        "subprotocols",
    )

    id: str
    """A random name, unique among all processes; not a secret."""
    subprotocol: str | None
    """The subprotocol agreed on: of those offered, the first of the resource's own, else
    one of the library's."""
    subprotocols: tuple[str, ...]
    """The subprotocols that the client offered, in its order of preference."""
    route: str
    """The template of the route it came by; empty for one that was adopted."""
    resource: Any
    """The resource instance that serves this connection; None once it has ended."""
    manager: Any
    """The `WebSocketConnectionManager` that knows this connection."""
    limits: Limits
    """What this client may cost."""

    def __init__(
        self,
        connection_id: str,
        send: AsgiSend,
        manager: Any,
        *,
        limits: Limits | None = None,
        subprotocols: Iterable[str] = (),
        route: str = "",
        direct: bool | None = None,
        is_open: bool = False,
    ) -> None:
        self.id = connection_id
        self.manager = manager
        self.route = route
        self.limits = limits or Limits()
        self.resource = None
        self.subprotocols = tuple(subprotocols)
        self.subprotocol = None
        self._codec: Codec = manager._codecs.json
        self._outbox = Outbox(
            send,
            self.limits,
            manager._counters,
            name=connection_id,
            route=route,
            direct=direct,
            is_open=is_open,
        )
        self._user_id: str | None = None
        self._state: falcon.Context | None = None
        self._expiry: asyncio.TimerHandle | None = None
        # The registry's, which alone changes them: the connection's rooms and tags, and its address
        # where connections are counted by it.
        self._rooms: AbstractSet[str] = NONE
        self._tags: AbstractSet[str] = NONE
        self._address: str | None = None
        self._session: Any = None  # itself while it lives; it sets that

    def __repr__(self) -> str:
        return repr(self._outbox)

    @property
    def state(self) -> falcon.Context:
        """A bag for the application's own: attributes or items, one per connection."""
        if self._state is None:
            self._state = falcon.Context()
        return self._state

    @property
    def user_id(self) -> str | None:
        """The user's id; None for a stranger. Set it to have `send_to_user` reach the connection.

        Raises:
            TypeError: It is not a str.
            InvalidNameError: It is not 1 to 200 bytes of visible text.
        """
        return self._user_id

    @user_id.setter
    def user_id(self, user_id: str | None) -> None:
        if user_id is not None:
            check_user_id(user_id)
        before, self._user_id = self._user_id, user_id
        self.manager._registry.identify(self, before)

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms it is in, on this process."""
        return frozenset(self._rooms)

    @property
    def tags(self) -> frozenset[str]:
        """Its tags; see `add_tag`."""
        return frozenset(self._tags)

    @property
    def accepted(self) -> bool:
        """Whether the handshake was accepted, even if it is closed by now."""
        return self._outbox.accepted

    @property
    def unaccepted(self) -> bool:
        """Whether its handshake is still unanswered."""
        return self._outbox.stage is CONNECTING

    @property
    def ready(self) -> bool:
        """Whether it was accepted and has not begun to close."""
        return self._outbox.stage is OPEN

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be: no frame is taken any more."""
        return self._outbox.stage in (CLOSING, CLOSED, FORGOTTEN)

    @property
    def close_code(self) -> int | None:
        """Why it ended: the code that was sent or received, 1006 without a close frame."""
        return self._outbox.close_code

    @property
    def close_reason(self) -> str:
        """The reason beside the close code, ours or the peer's; often empty."""
        return self._outbox.close_reason

    @property
    def outbox_bytes(self) -> int:
        """How many bytes wait for the client to read."""
        return 0 if self._outbox.stage in (CLOSED, FORGOTTEN) else self._outbox.bytes

    async def add_tag(self, tag: str) -> None:
        """Give it a tag, so that a broadcast to ``to.tag(...)`` reaches it.

        Returns when broadcasts of other processes to the tag reach it, or their
        backend is away.

        Raises:
            InvalidNameError: It is not 1 to 200 bytes of visible text.
            MessageError: The connection has ``Limits.tags`` tags already (``tag_limit``).
        """
        self.manager._members.check_loop()
        self.manager._registry.tag(self, tag)
        await self.manager._live("tag", tag)

    async def remove_tag(self, tag: str) -> None:
        """Take a tag away; one it does not have is ignored."""
        self.manager._members.check_loop()
        self.manager._registry.untag(self, tag)

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Accept the handshake; ``on_connect`` returning True does it too.

        Frames that were sent before leave right after it, in order.

        Args:
            subprotocol: One of ``subprotocols``, in place of the one agreed on.
            headers: HTTP headers for the answer, ASCII only.

        Raises:
            ConnectionStateError: The handshake was answered already, or messages wait that
                this subprotocol's codec did not write.
            ValueError: The client did not offer that subprotocol, or a header cannot be sent.
            falcon.WebSocketDisconnected: The client went before it was accepted, or
                somebody closed the connection.
        """
        if self.closed and not self.accepted:
            raise falcon.WebSocketDisconnected(self.close_code or ABNORMAL)
        if self._outbox.stage is not CONNECTING:
            answer = "accepted" if self._outbox.stage is OPEN else "closed"
            raise ConnectionStateError(
                f"accept() can be called once, before close(); this connection is {answer} already"
            )
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                offered = ", ".join(self.subprotocols) or "none"
                raise ValueError(
                    f"the client did not offer the subprotocol {subprotocol!r:.200}; "
                    f"it offered: {offered:.200}"
                )
            codec = self.manager._codecs.of(subprotocol)
            if codec is not self._codec and self._outbox.bytes:
                raise ConnectionStateError(
                    f"messages that wait for the accept are encoded as {self._codec.name}, which "
                    f"{subprotocol!r:.200} does not use; accept first, then send"
                )
            self._speak(subprotocol, codec)
        self.manager._revocations.apply(self)  # the last moment for a disconnect that came before
        if self._outbox.stage is not CONNECTING:
            raise falcon.WebSocketDisconnected(self.close_code)
        event: AsgiEvent = {"type": "websocket.accept"}
        if self.subprotocol is not None:
            event["subprotocol"] = self.subprotocol
        if headers:
            event["headers"] = written_headers(headers)
        await self._outbox.accept(event)

    def _speak(self, subprotocol: str, codec: Codec) -> None:
        before, self._codec, self.subprotocol = self._codec, codec, subprotocol
        if codec is not before:
            self.manager._registry.recode(self, before)

    async def send_media(
        self,
        message: Any,
        payload_type: WebSocketPayloadType | None = None,
        *,
        volatile: bool = False,
        latest: str | None = None,
    ) -> None:
        """Send a message, encoded as the connection's codec says.

        Code that runs on this connection's behalf waits while more than half of
        ``outbox_bytes`` waits for the client; all other code never waits.

        Args:
            message: What can be encoded: dicts, structs, lists, text, numbers ...
            payload_type: As in Falcon: ``TEXT`` writes JSON, ``BINARY`` MessagePack.
            volatile: Drop it if the client is behind, instead of having it wait.
            latest: Replace what still waits under this key, in its place.

        Raises:
            EncodeError: It cannot be encoded; nothing was sent.
            ConnectionStateError: It does not fit before the accept (``outbox_bytes``).
            LeaseLostError: A singleton worker sends it, after its lease ended.
            RuntimeError: Another event loop than the app's calls it, in another thread.
        """
        if not self._is_heard():
            return
        if payload_type is None and latest is None and not volatile:
            await self._say(message)
            return
        codec, codecs = self._codec, self.manager._codecs
        if payload_type is not None:
            codec = codecs.msgpack if payload_type.name == "BINARY" else codecs.json
        check_sending(latest, volatile=volatile)
        if await self._send(codec.encode(message), volatile=volatile, latest=latest):
            self.manager._counters.count_sent(message)

    def _is_heard(self) -> bool:
        """Whether what the caller sends is sent; not if we have closed what it is for.

        Raises:
            LeaseLostError: It is a singleton worker's, whose lease has ended.
            RuntimeError: It runs in another event loop than the app's.
        """
        check_lease()
        if get_ident() != self.manager._members.thread:
            self.manager._members.check_loop()
        return not (MUTED and is_muted(SENDER.get()))

    async def _say(self, message: Any) -> None:
        """`send_media` without options, for whoever may: the session answers its client so."""
        packet, outbox = self._codec.encode(message), self._outbox
        if outbox._direct and outbox._paced is None and not self.manager._fanout.underway:
            sent = outbox.push(packet)
        else:
            sent = await self._send(packet, volatile=False, latest=None)
        if sent:
            self.manager._counters.count_sent(message)

    async def _send(self, packet: Any, *, volatile: bool, latest: str | None) -> bool:
        """Send a frame at the client's pace, if it is this connection's own code that sends it."""
        if self.manager._fanout.underway:
            self.manager._fanout.serve_first(self)
        key = None if latest is None else ("connection", latest)
        own = self._outbox.stage is CONNECTING or SENDER.get() is self
        if own and self._session is not None:
            return await self._outbox.send(packet, volatile=volatile, key=key)
        return self._outbox.put(packet, volatile=volatile, key=key)

    async def send_text(
        self, text: str, *, volatile: bool = False, latest: str | None = None
    ) -> None:
        """Send a text frame as it is; see `send_media`.

        Raises:
            TypeError: It is not a str.
            EncodeError: It has no UTF-8 form.
        """
        await self._send_frame(pack_text(text), volatile=volatile, latest=latest)

    async def send_data(
        self,
        data: bytes | bytearray | memoryview,
        *,
        volatile: bool = False,
        latest: str | None = None,
    ) -> None:
        """Send a binary frame as it is; see `send_media`.

        Raises:
            TypeError: It is not a bytes-like object.
        """
        await self._send_frame(pack_bytes(data), volatile=volatile, latest=latest)

    async def _send_frame(self, packet: Any, *, volatile: bool, latest: str | None) -> None:
        check_sending(latest, volatile=volatile)
        if self._is_heard():
            await self._send(packet, volatile=volatile, latest=latest)

    async def drained(self) -> None:
        """Wait until no frame waits for the client or is being written, or it is closed.

        Before the accept it returns at once.
        """
        await self._outbox.drained()

    async def close(self, code: int | None = 1000, reason: str | None = "") -> None:
        """Close, after the frames that wait; before the accept, deny the handshake (403).

        Closing twice is harmless: the first code counts. Handlers of this connection
        are cancelled, except the one that calls this.

        Args:
            code: A close code that may be sent; see the table of close codes. None is 1000.
            reason: A few words; what does not fit into 123 bytes is cut off.

        Raises:
            ValueError: The code is not one that may be sent.
            LeaseLostError: A singleton worker closes it, after its lease ended.
        """
        code = 1000 if code is None else code
        check_close_code(code)
        check_lease()
        self.manager._members.check_loop()
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"a close reason is a str, not {reason!r:.200}")
        self._outbox.close(code, reason or "")

    def _expire_in(self, seconds: float) -> None:
        """Close with 4401 after some seconds, when its authentication ends."""
        self._expiry = asyncio.get_running_loop().call_later(
            max(seconds, 0), self._outbox.close, 4401, "the authentication has expired"
        )
