"""The query of a handshake in a whole app: who may connect, and with what the resource is asked."""

import datetime as dt
import enum

import falcon.asgi
import falcon.testing
import msgspec
import pytest

from falcon_pachinko import Principal, WebSocketResource, WebSocketRouter, install
from falcon_pachinko.testing import HandshakeDenied, simulate


class Order(enum.Enum):
    PRICE = "price"
    NAME = "name"


class Search(msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    page: int = 1
    page_size: int = 20
    tags: list[str] = []
    ids: set[int] = set()
    near: tuple[float, float] | None = None
    live: bool = False
    since: dt.date | None = None
    order: Order = Order.PRICE
    note: str | None = None


class Shop(WebSocketResource):
    """Tells its client what it was asked with."""

    async def on_connect(self, req, ws, shop, *, query: Search):
        await self.send({"shop": shop, "user": ws.user_id, "query": query})
        return True


async def by_token(req):
    name = req.get_param("token")
    return None if name is None else Principal(user_id=name)


def shops(**req_options):
    """Make an app with one route, whose request options may be anything."""
    app = falcon.asgi.App()
    for name, value in req_options.items():
        setattr(app.req_options, name, value)
    install(app, authenticate=by_token)
    app.add_websocket_route("/shops/{shop}", Shop)
    return app


async def asked(app, query, path="/shops/tea"):
    """Connect; return what the resource was asked with."""
    async with simulate(app) as client, client.connect(f"{path}?{query}") as ann:
        return await ann.receive_json()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("page=2&pageSize=5", {"page": 2, "pageSize": 5}),
        ("page=-3&pageSize=0", {"page": -3, "pageSize": 0}),
        ("tags=green", {"tags": ["green"]}),
        ("tags=green&page=2&tags=new&tags=green", {"page": 2, "tags": ["green", "new", "green"]}),
        ("tags=a,b&tags=c", {"tags": ["a,b", "c"]}),
        ("tags=&tags=x&tags=", {"tags": ["", "x", ""]}),
        ("tags", {"tags": [""]}),
        ("ids=7&ids=8&ids=7", {"ids": [7, 8]}),
        ("near=52.5&near=13.4", {"near": [52.5, 13.4]}),
        ("live=true", {"live": True}),
        ("live=1&since=2030-01-02", {"live": True, "since": "2030-01-02"}),
        ("order=name", {"order": "name"}),
        ("note=", {"note": ""}),
        ("note", {"note": ""}),
        ("note=5", {"note": "5"}),
        ("note=gr%C3%BCn+und%20%26%3D%2C", {"note": "grün und &=,"}),
        ("n%6fte=x", {"note": "x"}),
        ("utm=1&utm=2&page_size=9&Page=3", {}),
        ("&&page=2&&", {"page": 2}),
    ],
)
@pytest.mark.parametrize(
    "req_options",
    [
        {},
        {"auto_parse_qs_csv": True, "keep_blank_qs_values": False},
        {"auto_parse_qs_csv": False, "keep_blank_qs_values": True},
    ],
    ids=["default", "splitting", "keeping"],
)
async def test_a_query_is_decoded(query, expected, req_options):
    """Whatever Falcon's own parser of queries is told.

    Lists from keys that come again or once, blank values, converted texts, unknown keys.
    """
    seen = await asked(shops(**req_options), query)
    if "ids" in seen["query"]:
        seen["query"]["ids"].sort()

    assert seen == {"shop": "tea", "user": None, "query": expected}


@pytest.mark.parametrize("query", ["token=ann", "token=ann&page=2", "page=2&token=ann&token=ann"])
async def test_a_token_may_stand_beside(query):
    """The struct forbids unknown fields, and the query is authenticate's as well."""
    seen = await asked(shops(), query)

    assert seen["user"] == "ann"
    assert seen["query"] == ({"page": 2} if "page" in query else {})


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("page=two", "$.page"),
        ("page=", "$.page"),
        ("page=1&page=2", "$.page"),
        ("pageSize=1.5", "$.pageSize"),
        ("ids=7&ids=x", "$.ids[1]"),
        ("near=1", "$.near"),
        ("near=1&near=2&near=3", "$.near"),
        ("live=maybe", "$.live"),
        ("since=yesterday", "$.since"),
        ("order=size", "$.order"),
        ("note=a&note=b", "$.note"),
        ("note=%FF&page=x", "$.page"),
    ],
)
async def test_what_is_wrong_is_named(query, path):
    """The denial ends with its place; the resource is not asked."""
    with pytest.raises(HandshakeDenied) as denied:
        await asked(shops(), query)

    told = msgspec.json.decode(denied.value.body)
    assert denied.value.status == 400
    assert told["title"] == f"Wrong query: {path}"
    assert told["description"].endswith(path)


class Floor(msgspec.Struct):
    floor: int
    tags: list[str] = []


class House(WebSocketResource):
    async def on_connect(self, req, ws, house, *, query: Floor):
        self.floor = query.floor
        return True

    async def on_disconnect(self, ws, close_code):
        ws.state.left = True


class Room(WebSocketResource):
    async def on_connect(self, req, ws, query: Search):
        await self.send([self.parent.floor, query])
        return True


class Lamp(WebSocketResource):
    async def on_connect(self, req, ws):
        await self.send("no query asked for")
        return True


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/at/houses/9/room?floor=3&page=2", [3, {"page": 2}]),
        ("/at/houses/9/room?page=2&floor=-1&tags=a&tags=b", [-1, {"page": 2, "tags": ["a", "b"]}]),
        ("/at/houses/9/lamp?floor=0&page=two", "no query asked for"),
    ],
)
async def test_a_parent_and_its_child_each_read_their_own(path, expected):
    """Of the same query; what one knows is unknown to the other, and passes."""
    app = falcon.asgi.App()
    install(app)
    router = WebSocketRouter()
    house = router.add_route("/houses/{house:int}", House)
    house.add_route("/room", Room)
    house.add_route("/lamp", Lamp)
    app.add_websocket_route("/at", router)
    async with simulate(app) as client, client.connect(path) as ann:
        assert await ann.receive_json() == expected
