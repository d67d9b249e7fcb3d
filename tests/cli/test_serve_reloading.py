"""The supervisor of `pachinko serve`, where the system refuses."""

import contextlib
import os
import resource

import pytest

from pachinko_cli.console import Console
from pachinko_cli.errors import CliError
from pachinko_cli.server.listener import listen
from pachinko_cli.server.plan import Plan
from pachinko_cli.server.reloading import supervise

pytestmark = pytest.mark.quick


@contextlib.contextmanager
def no_more_files():
    """Let this process open no file beyond those that are open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_folder_that_cannot_be_watched_is_an_error(tmp_path):
    """The message names the folder, the hint the way to serve it all the same."""
    plan = Plan(root=tmp_path, app="app:app", host="127.0.0.1", console=Console(), uvicorn={})

    with (
        listen("127.0.0.1", 0) as listener,
        no_more_files(),
        pytest.raises(CliError) as refused,
    ):
        supervise(plan, listener)

    assert str(tmp_path) in refused.value.message
    assert "--no-reload" in refused.value.hint
