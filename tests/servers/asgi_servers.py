"""The servers under which the live ring runs, for `parametrize` and for fixtures.

A test that takes its servers from here runs in `make test` or `make test-slow` on uvicorn's
default back end.  On every other server it runs in `make test-all`, or, if it is marked
`every_server`, in `make test-slow`: see `pytest_collection_modifyitems` in tests/live.
"""

import pytest

DEFAULT = "websockets-sansio"
"""What uvicorn takes when it is told nothing."""


def on(kind, *values):
    """Make a parameter of a test: a server, and what the test expects of it."""
    marks = () if kind == DEFAULT else pytest.mark.other_server
    return pytest.param(kind, *values, marks=marks)


UVICORN = [on(DEFAULT), on("websockets"), on("wsproto")]
"""The back ends of uvicorn."""
SERVERS = [*UVICORN, on("hypercorn")]
"""All on which everything works, as far as their protocol lets it."""
ALL = [*SERVERS, on("granian"), on("daphne")]
"""All of the table in docs/reference/servers.md, which says what each can do."""
