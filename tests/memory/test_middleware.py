"""What Falcon's middleware finds out about the resource of a WebSocket route."""

import functools

import falcon
import falcon.asgi
import pytest

from falcon_pachinko import WebSocketResource, WebSocketRouter, handles_message, install
from falcon_pachinko.testing import simulate


class Asks:
    """Middleware that looks at the resource, and denies or notes."""

    def __init__(self, ask):
        self.ask, self.seen = ask, []

    async def process_resource_ws(self, req, ws, resource, params):
        self.seen.append(self.ask(resource))
        if self.seen[-1] == "deny":
            raise falcon.HTTPUnauthorized


class Staff(WebSocketResource):
    """Has all kinds of attributes."""

    login_required = True
    name = "staff"  # as are attributes of the library's own route
    limits = "few"
    roles = ("cook", "waiter")
    seen = None

    def __init__(self):
        self.made_late = True

    @property
    def first_role(self):
        return self.roles[0]

    @classmethod
    def title(cls):
        return cls.__name__

    @staticmethod
    def motto():
        return "tea"

    def allows(self, role):
        return role in self.roles

    @handles_message("open")
    async def open(self, ws):
        return "let in"


class Kitchen(Staff):
    roles = ("cook",)


async def asked(ask, resource=Kitchen):
    """Connect through middleware that asks something of the resource; give what it saw."""
    middleware = Asks(ask)
    app = falcon.asgi.App(middleware=[middleware])
    install(app)
    app.add_websocket_route("/till", resource)
    async with simulate(app) as client, client.connect("/till"):
        pass
    return middleware.seen


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda resource: resource.login_required, True),
        (lambda resource: getattr(resource, "login_required", False), True),
        (lambda resource: getattr(resource, "nothing", "default"), "default"),
        (lambda resource: (resource.name, resource.limits), ("staff", "few")),
        (lambda resource: resource.roles, ("cook",)),
        (lambda resource: resource.first_role, "cook"),
        (lambda resource: resource.title(), "Kitchen"),
        (lambda resource: resource.motto(), "tea"),
        (lambda resource: resource.allows("waiter"), False),
        (lambda resource: isinstance(resource, Staff), True),
        (lambda resource: isinstance(resource, Kitchen), True),
        (lambda resource: isinstance(resource, falcon.asgi.App), False),
        (lambda resource: resource.__class__.__name__, "Kitchen"),
        (lambda resource: hasattr(resource, "made_late"), False),
        (lambda resource: callable(resource.open), True),
        (lambda resource: callable(resource.on_connect), True),
        (repr, "<Kitchen, before there is a connection>"),
    ],
)
async def test_middleware_sees_what_the_class_has(ask, answer):
    """As of an HTTP resource; what an instance would have is not there yet."""
    assert await asked(ask) == [answer]


async def test_a_login_that_is_required_is_required(knock):
    """The convention of many a middleware: nobody gets in without."""
    middleware = Asks(lambda resource: "deny" if resource.login_required else "let in")
    app = falcon.asgi.App(middleware=[middleware])
    install(app)
    app.add_websocket_route("/till", Kitchen)
    app.add_websocket_route("/open", type("Open", (Staff,), {"login_required": False}))

    async with simulate(app) as client:
        assert await knock(client.connect("/till")) == 401
        assert await knock(client.connect("/open")) == "accepted"


async def test_a_mistake_of_the_middleware_says_what_it_met():
    """The class, and why there is no instance."""
    errors = []

    def ask(resource):
        try:
            return resource.made_late
        except AttributeError as error:
            errors.append(str(error))

    await asked(ask)

    assert errors == [
        (
            "the class Kitchen has no attribute 'made_late', and an instance of it is made only "
            "after the handshake was admitted"
        )
    ]


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
async def test_a_websocket_route_answers_no_http(method):
    """None of its class's methods is one of Falcon's responders, ``on_connect`` neither."""
    app = falcon.asgi.App()
    install(app)
    app.add_websocket_route("/till", Kitchen)

    async with simulate(app) as client:
        assert (await client.http.simulate_request(method, "/till")).status_code == 405


def makes_kitchen() -> Kitchen:
    return Kitchen()


def makes_something():
    return Kitchen()


class Wing(WebSocketResource):
    login_required = False


def behind_a_router(app):
    router = WebSocketRouter()
    router.add_route("/in", Kitchen)
    app.add_websocket_route("/till", router)


def below_a_parent(app):
    router = WebSocketRouter()
    router.add_route("/wing", Wing).add_route("/in", Kitchen)
    app.add_websocket_route("/till", router)


def beside_http(app):
    class Page:
        login_required = False

        async def on_get(self, req, resp): ...

    app.add_route("/till/in", Page())
    app.add_websocket_route("/till/in", Kitchen)


ROUTED = {
    "partial": lambda app: app.add_websocket_route("/till/in", functools.partial(Kitchen)),
    "function": lambda app: app.add_websocket_route("/till/in", makes_kitchen),
    "router": behind_a_router,
    "child": below_a_parent,
    "http": beside_http,
}


@pytest.mark.parametrize("routed", ROUTED)
async def test_a_login_is_required_however_the_resource_is_routed(knock, routed):
    """What counts are the attributes of the class that serves, whoever makes it."""
    middleware = Asks(lambda resource: "deny" if resource.login_required else "let in")
    app = falcon.asgi.App(middleware=[middleware])
    install(app, resource_factory=(lambda made: made()) if routed == "router" else None)
    ROUTED[routed](app)
    path = "/till/wing/in" if routed == "child" else "/till/in"

    async with simulate(app) as client:
        assert await knock(client.connect(path)) == 401


@pytest.mark.parametrize(
    "ask",
    [
        lambda resource: getattr(resource, "login_required", False),
        lambda resource: hasattr(resource, "roles"),
        lambda resource: resource.nothing,
    ],
    ids=["default", "hasattr", "attribute"],
)
async def test_nobody_gets_in_where_the_class_is_not_known(knock, caplog, ask):
    """A function that does not say what it makes leaves such a question without an answer."""
    app = falcon.asgi.App(middleware=[Asks(ask)])
    install(app)
    app.add_websocket_route("/till", makes_something)

    async with simulate(app) as client:
        assert await knock(client.connect("/till")) == 500

    assert "does not say what it makes; write `-> MyResource` on it" in caplog.text


async def test_a_function_that_is_not_asked_about_needs_no_annotation(knock):
    """Middleware that does not look at the resource has nothing to know."""
    app = falcon.asgi.App(middleware=[Asks(type)])
    install(app)
    app.add_websocket_route("/till", makes_something)

    async with simulate(app) as client:
        assert await knock(client.connect("/till")) == "accepted"
