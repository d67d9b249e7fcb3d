"""`install` gives any ASGI app of Falcon's its WebSocket side, once, and that app only."""

import functools
import inspect

import falcon
import falcon.asgi
import pytest

import falcon_pachinko
from falcon_pachinko import (
    AlreadyInstalledError,
    Limits,
    SetupError,
    WebSocketConnectionManager,
    WebSocketResource,
    install,
)
from falcon_pachinko.testing import simulate


class Echo(WebSocketResource):
    async def on_message(self, ws, message):
        await ws.send_text(message)


class Hello:
    async def on_get(self, req, resp):
        resp.media = "hello"


class Mine(falcon.asgi.App):
    """A subclass of the user's own, with state and an override."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def add_route(self, uri_template, resource, **kwargs):
        self.seen.append(uri_template)
        super().add_route(uri_template, resource, **kwargs)


class Frugal(falcon.asgi.App):
    __slots__ = ("colour",)


APPS = {
    "stock": falcon.asgi.App,
    "subclass": Mine,
    "slotted subclass": Frugal,
    "ours": falcon_pachinko.App,
}


@pytest.mark.parametrize("kind", APPS)
async def test_an_installed_app_serves_http_and_websockets(kind):
    """A stock app, a user's subclass with or without a dict, and ours."""
    app = APPS[kind]()
    install(app)
    app.add_route("/hello", Hello())
    app.add_websocket_route("/echo", Echo)

    async with simulate(app) as client:
        answer = await client.http.simulate_get("/hello")
        async with client.connect("/echo") as ann:
            await ann.send_text("hi")
            heard = await ann.receive_text()

    assert (answer.json, heard) == ("hello", "hi")


@pytest.mark.parametrize("kind", APPS)
def test_an_installed_app_is_still_what_it_was(kind):
    """Its class keeps its name, and ``isinstance`` its answer."""
    app = APPS[kind]()
    before = type(app)
    install(app)

    assert isinstance(app, before)
    assert (type(app).__name__, type(app).__module__) == (before.__name__, before.__module__)
    assert type(app).__doc__ == before.__doc__


def test_the_source_of_an_installed_app_is_found():
    """Whoever inspects the app sees the class that the application wrote."""
    app = Mine()
    install(app)

    assert inspect.getsource(type(app)) == inspect.getsource(Mine)


def test_a_subclass_keeps_its_state_and_its_overrides():
    """Its own ``add_route`` hears of WebSocket routes too."""
    app = Mine()
    app.name = "set before"
    install(app)

    app.add_route("/hello", Hello())
    app.add_websocket_route("/echo", Echo)

    assert app.name == "set before"
    assert app.seen == ["/hello", "/echo"]


def test_install_returns_a_handle_with_the_same_methods():
    """For those who use a type checker; the app has them as well."""
    app = falcon.asgi.App()

    pachinko = install(app)

    assert pachinko.app is app
    assert isinstance(pachinko.ws_connection_manager, WebSocketConnectionManager)
    assert app.ws_connection_manager is pachinko.ws_connection_manager
    for name in ("add_websocket_route", "add_websocket_worker", "create_websocket_resource"):
        assert callable(getattr(app, name))
        assert callable(getattr(pachinko, name))


def test_the_same_install_again_changes_nothing():
    """Two modules may both make sure of it."""
    app = falcon.asgi.App()
    first = install(app, limits=Limits(rooms=3))
    app.add_websocket_route("/echo", Echo)

    second = install(app, limits=Limits(rooms=3))

    assert second is first
    assert [route.template for route in second.routes] == ["/echo"]


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({}, {"limits": Limits(rooms=3)}, r"limits="),
        ({"limits": Limits(rooms=3)}, {}, r"limits="),
        ({}, {"origins": "*", "limits": Limits(rooms=3)}, r"limits=, origins="),
        ({"allowed_hosts": ["a.example"]}, {"allowed_hosts": ["b.example"]}, "allowed_hosts="),
        ({"enc_hook": str}, {"enc_hook": repr}, "enc_hook="),
        ({}, {"dec_hook": isinstance}, "dec_hook="),
        ({}, {"readable_denials": False}, "readable_denials="),
        ({"backend": "memory://a"}, {"backend": "memory://b"}, "backend="),
    ],
)
def test_another_install_is_refused(first, second, named):
    """With other options one of the two would be silently ignored; the error names them."""
    app = falcon.asgi.App()
    install(app, **first)

    with pytest.raises(AlreadyInstalledError, match=f"another {named}; call install.. once"):
        install(app, **second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"origins": "https://a.example"}, {"origins": ["https://a.example"]}),
        (
            {"allowed_hosts": ["a.example", "b.example"]},
            {"allowed_hosts": ("a.example", "b.example")},
        ),
        ({"allowed_hosts": (each for each in ["a.example"])}, {"allowed_hosts": "a.example"}),
        ({"limits": None}, {"limits": Limits(rooms=128)}),
        ({"hooks": []}, {"hooks": iter(())}),
        ({"enc_hook": str}, {"enc_hook": str, "readable_denials": True}),
        ({"backend": "memory://same"}, {"backend": "memory://same"}),
        ({"origins": []}, {"origins": ()}),
    ],
)
def test_options_are_the_same_by_value(first, second):
    """However they are spelled."""
    app = falcon.asgi.App()

    assert install(app, **first) is install(app, **second)


async def waits(only): ...


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"limits": {"rooms": 3}}, r"limits=\{'rooms': 3\}: give Limits\(...\)"),
        ({"limits": 3}, "give Limits"),
        ({"origins": 3}, "origins=3: give a list"),
        ({"allowed_hosts": True}, "allowed_hosts=True: give a list"),
        ({"hooks": None}, "hooks=None: give a list"),
        ({"enc_hook": "str"}, "enc_hook='str': give a function, or None"),
        ({"dec_hook": 1}, "dec_hook=1: give a function"),
        ({"resource_factory": {}}, "resource_factory={}: give a function"),
        ({"resource_factory": lambda: None}, r"as resource_factory\(cls, .*, and takes \(\)"),
        ({"resource_factory": lambda **_more: None}, r"as resource_factory\(cls, .*\(\*\*_more\)"),
        ({"enc_hook": waits}, r"a plain one: `def enc_hook\(obj\): ...`"),
        ({"dec_hook": waits}, r"a plain one: `def dec_hook\(type, obj\): ...`"),
        ({"enc_hook": lambda: None}, r"called as enc_hook\(obj\), and takes \(\)"),
        ({"enc_hook": lambda _type, _obj: None}, r"as enc_hook\(obj\), and takes \(_type, _obj\)"),
        ({"dec_hook": lambda _obj: None}, r"as dec_hook\(type, obj\), and takes \(_obj\)"),
        ({"dec_hook": lambda _a, _b, _c: None}, r"dec_hook\(type, obj\), and takes \(_a, _b, _c\)"),
        ({"authenticate": functools.partial(waits, 1)}, r"is called with \(req\), and takes"),
        ({"readable_denials": "no"}, "readable_denials='no': True or False"),
    ],
)
@pytest.mark.parametrize("make", [lambda **o: install(falcon.asgi.App(), **o), falcon_pachinko.App])
def test_an_option_of_the_wrong_kind_is_refused(make, options, why):
    """When the app is built, by `install` and by `App` alike."""
    with pytest.raises(SetupError, match=why):
        make(**options)


def test_an_unknown_option_is_told_with_the_known_ones():
    """A typo of ``origins`` would leave the door as it was."""
    with pytest.raises(TypeError, match=r"no option 'origin'; it has backend, limits, origins"):
        install(falcon.asgi.App(), origin="*")
    with pytest.raises(TypeError, match="origin"):
        falcon_pachinko.App(origin="*")


@pytest.mark.parametrize("function", [install, falcon_pachinko.App])
def test_the_options_are_spelled_out_where_one_asks(function):
    """``help()`` and editors show them one by one, with their defaults."""
    parameters = inspect.signature(function).parameters

    assert {
        name: parameters[name].default
        for name in ("backend", "limits", "enc_hook", "dec_hook", "readable_denials", "hooks")
    } == {
        "backend": None,
        "limits": None,
        "enc_hook": None,
        "dec_hook": None,
        "readable_denials": True,
        "hooks": (),
    }


def test_an_app_of_ours_takes_the_options_itself():
    """And a later ``install`` with the same ones is nothing."""
    app = falcon_pachinko.App(limits=Limits(rooms=3), cors_enable=True)

    assert install(app, limits=Limits(rooms=3)).limits == Limits(rooms=3)
    with pytest.raises(AlreadyInstalledError, match="limits="):
        install(app)


@pytest.mark.parametrize("thing", [falcon.App(), None, 3, falcon.asgi.App, "app"])
def test_only_an_asgi_app_of_falcons_can_be_installed_on(thing):
    """The WSGI app, which looks so alike, gets a word of its own."""
    with pytest.raises(SetupError, match=r"install\(\) takes a falcon.asgi.App, not") as refused:
        install(thing)

    assert ("which is WSGI" in str(refused.value)) == isinstance(thing, falcon.App)


async def test_two_apps_know_nothing_of_each_other():
    """Rooms, routes and options are an app's own, though their classes are the same."""

    class Join(WebSocketResource):
        async def on_connect(self, req, ws):
            await self.join_room("lobby")
            return True

    first, second = falcon.asgi.App(), falcon.asgi.App()
    for app in (first, second):
        install(app)
        app.add_websocket_route("/", Join)

    async with (
        simulate(first) as one,
        simulate(second) as two,
        one.connect("/") as ann,
        two.connect("/") as bob,
    ):
        await first.ws_connection_manager.broadcast_to_room("lobby", "hi")
        heard = await ann.receive_json()
        await bob.expect_nothing(0.01)

    assert heard == "hi"
    assert type(first) is not type(second)


def test_an_app_without_install_is_untouched():
    """What one app gained, its class did not."""
    install(falcon.asgi.App())

    assert not hasattr(falcon.asgi.App(), "add_websocket_route")
