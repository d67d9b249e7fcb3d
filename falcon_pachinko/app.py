"""The way in: `install` gives a Falcon app WebSocket routes, rooms and workers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Unpack, cast

import falcon
import falcon.asgi

from falcon_pachinko.errors import AlreadyInstalledError, BackendError, SetupError
from falcon_pachinko.handle import Pachinko
from falcon_pachinko.limits import Limits
from falcon_pachinko.manager import WebSocketConnectionManager
from falcon_pachinko.options import (
    DEFAULTS,
    AppOptions,
    InstallOptions,
    read_options,
    spelled_out,
)
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.routing import Declaration, ResourceFactory, Route, WebSocketRouter
from falcon_pachinko.session.gate import Gate
from falcon_pachinko.standins import SharedPath, place_of
from falcon_pachinko.typing import AsgiEvent, AsgiReceive, AsgiSend, Scope
from falcon_pachinko.workers import Worker

__all__ = ["App", "Pachinko", "install", "installed"]


class _Installed:
    """What an app gains by `install`; stands before the app's own class.

    By itself it is no `falcon.asgi.App`, since it stands before subclasses of that too; so a type
    checker does not see what ``super()`` finds there.
    """

    __slots__ = ()

    _pachinko: Pachinko

    @property
    def ws_connection_manager(self) -> WebSocketConnectionManager:
        """Who is connected to this app, and the way to send to them."""
        return self._pachinko.ws_connection_manager

    def add_websocket_route(
        self,
        template: str,
        resource: ResourceFactory | WebSocketRouter,
        *,
        name: str | None = None,
        limits: Limits | None = None,
        **init_kwargs: Any,
    ) -> Declaration | WebSocketRouter:
        """Serve WebSockets at a path; see `Pachinko.add_websocket_route`."""
        return self._pachinko.add_websocket_route(
            template, resource, name=name, limits=limits, **init_kwargs
        )

    def url_for(self, name: str, /, **params: object) -> str:
        """Return the path of a WebSocket route; see `Pachinko.url_for`."""
        return self._pachinko.url_for(name, **params)

    def create_websocket_resource(self, path: str) -> WebSocketResource:
        """Make a resource as a connection would get it; see `Pachinko`."""
        return self._pachinko.create_websocket_resource(path)

    def add_websocket_worker(
        self,
        function: Callable[..., Awaitable[Any]],
        *args: Any,
        name: str | None = None,
        **options: Any,
    ) -> Worker:
        """Run a coroutine function beside the app; see `Pachinko.add_websocket_worker`."""
        return self._pachinko.add_websocket_worker(function, *args, name=name, **options)

    def add_route(self, uri_template: str, resource: Any, **kwargs: Any) -> None:
        """Add an HTTP route as Falcon does, on the path of a WebSocket route too."""
        self._pachinko.add_http_route(uri_template, resource, **kwargs)

    def _get_responder(self, req: falcon.asgi.Request) -> tuple[Any, dict[str, Any], Any, Any]:
        """Find what answers a request, and what middleware gets as its resource."""
        found = super()._get_responder(req)  # type: ignore[misc]  # Falcon's App comes next, which mypy cannot know
        responder, params, resource, template = found
        if isinstance(resource, SharedPath):
            resource = resource.route if req.is_websocket else resource.http
        if isinstance(resource, Route):
            resource = resource.stand_in
        return responder, params, resource, template

    # What an error handler of the application's raises comes here, past the handlers that are
    # registered; see `_keep_denials_whole`.

    async def _http_error_handler(
        self, req: Any, resp: Any, error: Any, params: Any, ws: Any = None
    ) -> None:
        if not await _deny_whole(req, error, ws):
            await super()._http_error_handler(req, resp, error, params, ws=ws)  # type: ignore[misc]  # Falcon's App comes next, which mypy cannot know

    async def _http_status_handler(
        self, req: Any, resp: Any, status: Any, params: Any, ws: Any = None
    ) -> None:
        if not await _deny_whole(req, status, ws):
            await super()._http_status_handler(req, resp, status, params, ws=ws)  # type: ignore[misc]  # Falcon's App comes next, which mypy cannot know

    async def __call__(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        """Serve one request, WebSocket or lifespan, as Falcon does."""
        falcons = super().__call__  # type: ignore[misc]  # Falcon's App comes next, which mypy cannot know
        pachinko, kind = self._pachinko, scope["type"]
        if kind == "lifespan":
            try:
                await falcons(scope, *_lifespan(pachinko, receive, send))
            finally:  # a server that is itself cancelled sends no shutdown
                await pachinko.stop()
            return
        if not isinstance(scope.get("headers"), list):  # may be read only once, as ASGI has it
            scope = {**scope, "headers": list(scope.get("headers") or ())}
        scope = pachinko.without_root_path(scope)
        if kind == "websocket":
            pachinko.expect_started()
            manager = pachinko.ws_connection_manager
            gate = Gate(
                scope,
                receive,
                send,
                counters=manager._counters,
                revocations=manager._revocations,
                readable=pachinko.may_read,
            )
            try:
                refusal = pachinko.refuses_elsewhere(scope)
                if refusal is None:
                    await falcons(scope, receive, gate.send)
                else:
                    await receive()  # the handshake's own event, which comes first
                    await gate.deny(refusal, readable=False)
            finally:
                gate.leave()
        else:
            refused = pachinko.admission.check_http(scope)
            if refused is None:
                await falcons(scope, receive, send)
            else:
                await _answer(refused, scope["method"], send)


def _keep_denials_whole(app: falcon.asgi.App[Any, Any]) -> None:
    """Have the gate know what was raised to deny a handshake: its title, text and headers.

    Falcon's own handler passes on no more than the status. One that the application has
    set stays, as does whatever Falcon does for HTTP.
    """
    for kind in (falcon.HTTPError, falcon.HTTPStatus):
        falcons = app._error_handlers.get(kind)
        if getattr(falcons, "__module__", "") != falcon.asgi.App.__module__:
            continue

        async def handle(
            req: falcon.asgi.Request,
            resp: falcon.asgi.Response | None,
            error: Any,
            params: dict[str, Any],
            ws: falcon.asgi.WebSocket | None = None,
            *,
            falcons: Any = falcons,
        ) -> None:
            if not await _deny_whole(req, error, ws):
                await falcons(req, resp, error, params, **({} if ws is None else {"ws": ws}))

        app._error_handlers[kind] = handle


async def _deny_whole(
    req: falcon.asgi.Request, error: Any, ws: falcon.asgi.WebSocket | None
) -> bool:
    """Deny a handshake with an error, which the gate is told; False if it is not for us."""
    gate = None if ws is None else Gate.of(req.scope)
    if ws is None or gate is None or error.status_code < 300:
        return False
    gate.error = error
    await ws.close(3000 + error.status_code)
    return True


async def _answer(error: falcon.HTTPError, method: str, send: AsgiSend) -> None:
    """Answer an HTTP request that Falcon does not get to see."""
    body = json.dumps(error.to_dict()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": error.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def _lifespan(
    pachinko: Pachinko, receive: AsgiReceive, send: AsgiSend
) -> tuple[AsgiReceive, AsgiSend]:
    """Run the workers within the lifespan: after every startup hook, before every shutdown hook."""

    async def receive_for_falcon() -> AsgiEvent:
        event = await receive()
        if event["type"] == "lifespan.shutdown":
            await pachinko.stop()
        return event

    async def send_for_falcon(event: AsgiEvent) -> None:
        if event["type"] == "lifespan.startup.complete":
            try:
                await pachinko.start()
            except BackendError as error:
                event = {"type": "lifespan.startup.failed", "message": str(error)}
        await send(event)

    return receive_for_falcon, send_for_falcon


class App(_Installed, falcon.asgi.App[Any, Any]):  # type: ignore[misc]  # Falcon types ASGI's own arguments more narrowly
    """A `falcon.asgi.App` with everything installed, for people who use a type checker.

    It takes Falcon's own arguments, and those of `install` by name.

    Example::

        app = App(middleware=[Sessions()], limits=Limits(message_bytes=4096))
        app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
    """

    @spelled_out
    def __init__(self, *args: Any, **options: Unpack[AppOptions]) -> None:
        given = cast("dict[str, Any]", options)
        own = {name: given.pop(name) for name in DEFAULTS if name in given}
        super().__init__(*args, **given)
        falcons_add_route = super(_Installed, self).add_route
        self._pachinko = Pachinko(self, read_options(own), falcons_add_route)
        _keep_denials_whole(self)


@spelled_out
def install(app: falcon.asgi.App[Any, Any], **options: Unpack[InstallOptions]) -> Pachinko:
    """Give a Falcon app WebSocket routes, a connection manager and workers.

    The app gains ``add_websocket_route``, ``create_websocket_resource``,
    ``add_websocket_worker`` and ``ws_connection_manager``; the handle that is
    returned has the same, with types. The same call again changes nothing.

    Args:
        app: A `falcon.asgi.App`, or an instance of a subclass of it.
        backend: What connects this process with others that serve the same app:
            ``"redis://host:6379/0"``, ``"nats://host:4222"``, or a `Backend`. Without
            one, rooms end at the process.
        limits: What one client may cost, for all routes that do not say otherwise.
        origins: Web origins whose pages may connect, besides the server's own:
            ``["https://app.example", "https://*.app.example"]``; ``"*"`` for any.
            A client that sends no Origin is not a browser, and may connect.
        allowed_hosts: The names of this server, as in a Host header but without the port,
            for HTTP and WebSockets; None checks nothing. Set it where DNS rebinding matters.
        authenticate: A coroutine function that gets the request before
            ``on_connect`` and returns a user id, a `Principal`, or None for a
            stranger; it denies by raising ``falcon.HTTPUnauthorized``.
        hooks: Layers around every connection's life; see `Hook`.
        resource_factory: What makes the resources, for those who use a container:
            called with the class and its arguments, ``resource_factory(cls, **kwargs)``.
            It may be a coroutine function.
        enc_hook: Called with what msgspec cannot encode; returns something that it can.
        dec_hook: Called with a type that msgspec does not know and what came; returns an
            instance of it. Both as in msgspec, for all messages of this app.
        readable_denials: Tell a client that offers the subprotocol ``pachinko.json`` or
            ``pachinko.msgpack`` why its handshake was denied, by a close code, since a
            browser does not show the HTTP status.

    Raises:
        TypeError: There is no such option.
        SetupError: It is not an ASGI app of Falcon's, or an option has a wrong value.
        AlreadyInstalledError: The app has it, with other options.

    Example::

        app = falcon.asgi.App()
        install(app, origins=["https://app.example"])
        app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
    """
    if not isinstance(app, falcon.asgi.App):
        got = "falcon.App, which is WSGI" if isinstance(app, falcon.App) else repr(app)
        raise SetupError(f"install() takes a falcon.asgi.App, not {got}")
    wanted = read_options(options)
    there = installed(app)
    if there is not None:
        changed = [name for name in wanted if wanted[name] != there.options[name]]
        if changed:
            raise AlreadyInstalledError(changed)
        return there

    def falcons_add_route(template: str, resource: object, **given: Any) -> None:
        super(_Installed, app).add_route(template, resource, **given)  # type: ignore[misc]  # Falcon's App comes next, which mypy cannot know

    pachinko = Pachinko(app, wanted, falcons_add_route)
    _keep_denials_whole(app)
    # An App has __slots__ and no __dict__: nothing can be put on it.  So this one
    # app gets a class of its own, which adds no slots and hence fits the instance.
    own = type(app)
    members = {
        "__slots__": (),
        **place_of(own),
        "__doc__": own.__doc__,
        "_pachinko": pachinko,
    }
    app.__class__ = cast(
        "type[falcon.asgi.App[Any, Any]]", type(own.__name__, (_Installed, own), members)
    )
    return pachinko


def installed(app: object) -> Pachinko | None:
    """Return what `install` returned for an app; None if it has nothing installed."""
    return app._pachinko if isinstance(app, _Installed) else None  # this module's own
