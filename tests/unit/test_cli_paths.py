"""The path of a WebSocket route as it is typed."""

import falcon.asgi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pachinko_cli.errors import CliError
from pachinko_cli.paths import CONVERTERS, Parameter, clash, route_path


def test_a_path_has_parameters_and_an_example():
    """The example is one that a client may ask for."""
    path = route_path("/ws/quiz/{quiz_id:int}/{part}")

    assert path.parameters == (Parameter("quiz_id", "int"), Parameter("part"))
    assert path.sample == "/ws/quiz/1/tea"


@pytest.mark.parametrize(
    ("text", "around"),
    [
        ("/ws", None),
        ("/ws/{a:uuid}/{b:float}", None),
        ("/ws/{a:uuid}/{b}/x", (f"/ws/{CONVERTERS['uuid'][1]}/", "a", "/x")),
        ("/ws/{n:int}", ("/ws/", "1", "")),
    ],
)
def test_a_parameter_of_any_length_is_found(text, around):
    """A room that is named by it may get a name that is too long."""
    assert route_path(text).unbounded == around


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not begin with a slash"),
        ("ws/{a}", "does not begin with a slash"),
        ("/", "has an empty part"),
        ("/ws/", "has an empty part"),
        ("/ws//x", "has an empty part"),
        ("/ws/{a", "letters, digits"),
        ("/ws/x{a}", "letters, digits"),
        ("/ws/{a}{b}", "letters, digits"),
        ("/ws/a b", "letters, digits"),
        ('/ws/"', "letters, digits"),
        ("/ws/\n", "letters, digits"),
        ("/{{ 7*7 }}", "letters, digits"),
        ("/ws/é", "letters, digits"),
        ("/ws/{}", "is no name in Python"),
        ("/ws/{class}", "is no name in Python"),
        ("/ws/{1a}", "is no name in Python"),
        ("/ws/{é}", "is no name in Python"),
        ("/ws/{self}", "a resource cannot use"),
        ("/ws/{req}", "a resource cannot use"),
        ("/ws/{state}", "a resource cannot use"),
        ("/ws/{_x}", "a resource cannot use"),
        (f"/ws/{{{'x' * 41}}}", "a resource cannot use"),
        ("/ws/{id}", "a builtin of Python"),
        ("/ws/{a}/{a}", "twice"),
        ("/ws/{a:int(2)}", "and others can be written into routes.py"),
        ("/ws/{a:path}/{b}", "behind a path parameter"),
        ("/ws/{a:path}/b", "behind a path parameter"),
        (f"/{'x' * 80}", "has 81 characters"),
        ("/" + "x" * 10_240, "characters, and 80 is the most"),
    ],
)
def test_a_path_that_is_none_is_refused(text, reason):
    """Exit 2, and the reason."""
    with pytest.raises(CliError, match=reason) as refused:
        route_path(text)

    assert refused.value.exit_code == 2
    assert len(refused.value.message) < 300


@given(st.text(alphabet="/{}:abint_-. \"'\n", max_size=30))
def test_what_is_taken_is_taken_by_falcon(text):
    """A path of ours is never one that the router refuses."""
    try:
        path = route_path(f"/{text}")
    except CliError:
        return
    app = falcon.asgi.App()
    app.add_route(path.template, object())


segments = st.sampled_from(["ws", "x", "{a}", "{b}", "{c:int}"])
templates = st.lists(segments, min_size=1, max_size=3, unique=True).map(
    lambda parts: "/" + "/".join(parts)
)


@given(templates, templates)
def test_two_paths_clash_where_falcon_says_so(first, second):
    """No path that the router would refuse beside another one is let through."""
    app = falcon.asgi.App()
    try:
        app.add_route(first, Answer())
        app.add_route(second, Answer())
    except ValueError:
        refused = True
    else:
        refused = first == second

    assert not refused or clash(first, second)


class Answer:
    async def on_get(self, req, resp):
        """Answer."""
