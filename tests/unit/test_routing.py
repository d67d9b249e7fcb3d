"""Templates: filled in, checked, and compared with what resources take."""

import falcon.uri
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falcon_pachinko import (
    Limits,
    SetupError,
    WebSocketConnectionManager,
    WebSocketResource,
    WebSocketRouter,
)
from falcon_pachinko.routing import Route, Site
from falcon_pachinko.session.admission import Admission


class Room(WebSocketResource):
    async def on_connect(self, req, ws, **params):
        return True


def routed(template, resource=Room, **init_kwargs):
    """Declare one route, and make it as an app would."""
    routes = []
    site = Site(WebSocketConnectionManager(), Limits(), Admission())
    router = WebSocketRouter()
    router.mount("", (), (), lambda line, hooks: routes.append(Route(line, hooks, site)))
    router.add_route(template, resource, **init_kwargs)
    return routes[0]


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers())
def test_a_path_is_filled_in_and_quoted(room, number):
    """Whatever the values are, they come out of the URL again as they went in."""
    path = routed("/rooms/{room}/{n:int}").path(room=room, n=number)
    _, rooms, quoted, n = path.split("/")

    assert (rooms, falcon.uri.decode(quoted, unquote_plus=False), n) == ("rooms", room, str(number))


def test_a_path_field_keeps_its_slashes():
    """It stands for several segments."""
    assert routed("/files/{rest:path}").path(rest="a b/c?") == "/files/a%20b/c%3F"


@pytest.mark.parametrize("given_fields", [{}, {"room": "a"}, {"room": "a", "n": 1, "more": 2}])
def test_a_path_needs_its_fields_and_no_others(given_fields):
    """The error lists both."""
    with pytest.raises(TypeError, match=r"the path of 'Room' needs room, n; given: \["):
        routed("/{room}/{n:int}").path(**given_fields)


def test_a_path_without_fields_is_itself():
    """And an error there says that it needs nothing."""
    assert routed("/lobby").path() == "/lobby"
    with pytest.raises(TypeError, match="needs nothing; given"):
        routed("/lobby").path(room="a")


@pytest.mark.parametrize("template", ["rooms", "", "//rooms", "/a//b", None, 3])
def test_a_template_starts_with_a_slash(template):
    """And has no empty segment, which no client's path could match."""
    with pytest.raises(SetupError, match=r"must start with '/' and not have '//'"):
        WebSocketRouter().add_route(template, Room)


def test_a_route_tells_what_it_is():
    """For a log, and for tools that list routes."""
    route = routed("/lobby", name="start", limits=Limits(rooms=3))

    assert repr(route) == "<Route /lobby to Room>"
    assert (route.name, route.limits.rooms, route.message_types) == ("start", 3, ())


@pytest.mark.parametrize("options", [{"name": "x"}, {"limits": Limits()}, {"colour": "red"}])
def test_a_router_takes_no_options_of_a_route(options):
    """They would be ignored."""
    with pytest.raises(SetupError, match="the router at '/a' takes no name, limits or arguments"):
        WebSocketRouter().add_route("/a", WebSocketRouter(), **options)


def test_a_router_is_not_within_itself():
    """Not even by a detour."""
    outer, inner = WebSocketRouter(), WebSocketRouter()
    outer.add_route("/in", inner)

    with pytest.raises(SetupError, match="the router at '/out' would be within itself"):
        inner.add_route("/out", outer)


def test_a_factory_without_a_signature_is_taken_on_trust():
    """Some of C's functions have none to compare with."""
    assert routed("/x", max).resource is WebSocketResource


def test_a_factory_is_asked_by_its_annotation():
    """Without one, it may make any resource."""

    def make() -> Room:
        return Room()

    def make_unannotated():
        return Room()

    def make_misnamed() -> "Missing":  # noqa: F821  # a type that is not there at run time
        return Room()

    resources = [routed("/x", each).resource for each in (make, make_unannotated, make_misnamed)]

    assert resources == [Room, WebSocketResource, WebSocketResource]
