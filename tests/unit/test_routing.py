"""Routes: declared, checked, and compared with what resources take."""

import abc
import functools
from typing import Self

import pytest

from falcon_pachinko import (
    Limits,
    ResourceTypeError,
    RouteTemplateError,
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


@pytest.mark.parametrize("template", ["rooms", "", "//rooms", "/a//b", None, 3])
def test_a_template_starts_with_a_slash(template):
    """And has no empty segment, which no client's path could match."""
    with pytest.raises(RouteTemplateError, match=r"must start with '/' and not have '//'") as bad:
        WebSocketRouter().add_route(template, Room)

    assert isinstance(bad.value, SetupError)
    assert isinstance(bad.value, ValueError)


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


class Notes(WebSocketResource):
    """Has arguments that are called as options of routes are."""

    def __init__(self, name="?", limits=None):
        self.made_with = (name, limits)

    @classmethod
    def green(cls) -> Self:
        return cls("green")


@pytest.mark.parametrize(
    ("factory", "made_with"),
    [
        (functools.partial(Notes, name="tea"), ("tea", None)),
        (functools.partial(functools.partial(Notes, name="tea"), name="milk"), ("milk", None)),
        (functools.partial(Notes, "tea", limits=3), ("tea", 3)),
        (Notes.green, ("green", None)),
        (lambda: Notes(name="tea"), ("tea", None)),
    ],
)
def test_an_argument_called_as_an_option_is_given_by_a_factory(factory, made_with):
    """The option of that name stays the route's."""
    route = routed("/x", factory, name="notes")

    assert route.name == "notes"
    assert route.create_resource().made_with == made_with


@pytest.mark.parametrize("factory", [functools.partial(Notes, name="tea"), Notes.green])
def test_a_partial_of_a_class_is_known_for_what_it_makes(factory):
    """Its handlers, hooks and fields are checked as those of the class."""
    assert routed("/x", factory).resource is Notes


class Needs(WebSocketResource):
    def __init__(self, name):
        self.name = name


@pytest.mark.parametrize(
    ("resource", "options", "why"),
    [
        (Needs, {"name": "tea"}, r"argument: 'name'; name= is the route's own.*partial\(Needs, "),
        (Notes, {"limits": 3}, r"limits=3 is not Limits\(...\).*partial\(Notes, limits=...\)"),
        (Notes, {"limits": {"rooms": 1}}, "is not Limits"),
        (Notes, {"name": 7}, r"name=7 is not a str.*partial\(Notes, name=...\)"),
        (lambda: Notes("tea"), {"name": b"x"}, r"partial\(factory, name=...\)"),
    ],
)
def test_an_option_that_was_meant_for_the_resource_is_told(resource, options, why):
    """With the call that gives it to the resource."""
    with pytest.raises(ResourceTypeError, match=why):
        routed("/x", resource, **options)


class Shape(WebSocketResource, abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    def area(self):
        return 4


@pytest.mark.parametrize("factory", [Shape, functools.partial(Shape)])
def test_an_abstract_resource_is_refused(factory):
    """When it is routed, not when the first client comes."""
    with pytest.raises(ResourceTypeError, match="it is abstract; define area in a subclass"):
        routed("/x", factory)

    assert routed("/x", Square).create_resource().area() == 4


def test_a_container_may_make_something_of_an_abstract_resource():
    """It knows which subclass is meant; a partial's arguments are handed on to it."""
    site = Site(
        WebSocketConnectionManager(), Limits(), Admission(),
        resource_factory=lambda cls, **given: {Shape: Square, Notes: Notes}[cls](**given),
    )  # fmt: skip
    routes = []
    router = WebSocketRouter()
    router.mount("", (), (), lambda line, hooks: routes.append(Route(line, hooks, site)))
    router.add_route("/shape", Shape)
    router.add_route("/notes", functools.partial(Notes, name="tea"), limits=Limits(rooms=1))
    shape, notes = [route.create_resource() for route in routes]

    assert isinstance(shape, Square)
    assert notes.made_with == ("tea", None)
