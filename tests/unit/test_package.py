"""What the package offers at its top, and nothing by accident."""

import importlib.metadata
import importlib.resources
import subprocess
import sys

import pytest

import falcon_pachinko
import falcon_pachinko.errors
import falcon_pachinko.testing

PUBLIC = [
    "AlreadyInstalledError",
    "App",
    "Backend",
    "BackendError",
    "ClusterAnswer",
    "ClusterRooms",
    "Connection",
    "ConnectionStateError",
    "Delivery",
    "Drained",
    "DuplicateConnectionError",
    "DuplicateHandlerError",
    "DuplicateWorkerError",
    "EncodeError",
    "Gap",
    "HandlerDefinitionError",
    "HistoryLimits",
    "HistoryPosition",
    "Hook",
    "InvalidNameError",
    "Lease",
    "LeaseLostError",
    "Limits",
    "MessageError",
    "NoHistoryError",
    "Pachinko",
    "PachinkoError",
    "Principal",
    "Publisher",
    "ReceivedMessage",
    "ResourceTypeError",
    "RoomLimitError",
    "RouteConflictError",
    "RouteTemplateError",
    "SetupError",
    "Target",
    "UnknownConnectionError",
    "UnknownRouteError",
    "WebSocketConnectionManager",
    "WebSocketResource",
    "WebSocketRouter",
    "Worker",
    "WorkerController",
    "WorkerDefinitionError",
    "current_lease",
    "handles_message",
    "install",
    "to",
    "worker",
]

EXTRAS = {"typer", "rich", "cookiecutter", "uvicorn", "redis", "nats", "pytest", "websockets"}


def test_the_public_names_are_these():
    """A name comes or goes on purpose only: with a line here and one in the change log."""
    assert falcon_pachinko.__all__ == PUBLIC


def test_the_public_names_are_sorted_and_there():
    """``from falcon_pachinko import *`` works, and a reader finds a name at a glance."""
    assert falcon_pachinko.__all__ == sorted(falcon_pachinko.__all__)
    assert all(hasattr(falcon_pachinko, name) for name in falcon_pachinko.__all__)


def test_every_error_is_importable_from_the_package():
    """Nobody has to know which module an exception lives in."""
    assert set(falcon_pachinko.errors.__all__) <= set(falcon_pachinko.__all__)


SHOWN = {
    falcon_pachinko.Connection: {
        "accept", "accepted", "add_tag", "close", "close_code", "close_reason", "closed", "drained",
        "id", "limits", "manager", "outbox_bytes", "ready", "remove_tag", "resource", "rooms",
        "route", "send_data", "send_media", "send_text", "state", "subprotocol", "subprotocols",
        "tags", "unaccepted", "user_id",
    },
    falcon_pachinko.WebSocketConnectionManager: {
        "add_connection", "broadcast", "broadcast_to_all", "broadcast_to_room", "configure_rooms",
        "connections", "count", "count_present", "disconnect", "drain", "get_connections_in_room",
        "get_rooms_by_prefix", "history", "join_room", "leave_room", "on_gap", "presence",
        "remove_connection", "send_to_connection", "send_to_user", "start", "status", "stop",
        "track", "untrack",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SHOWN)
def test_an_object_shows_what_a_user_calls(kind):
    """An editor offers nothing else, on the class or on an instance."""
    manager = falcon_pachinko.WebSocketConnectionManager()
    made = manager if kind is type(manager) else kind("id", print, manager)

    for found in (dir(kind), dir(made)):
        assert {name for name in found if not name.startswith("_")} == SHOWN[kind]


def test_the_testing_kit_lists_its_names_sorted():
    """The second public door is as tidy as the first."""
    names = falcon_pachinko.testing.__all__

    assert names == sorted(names)
    assert all(hasattr(falcon_pachinko.testing, name) for name in names)


def test_the_import_needs_no_extra():
    """With falcon and msgspec alone the library works; no extra is imported behind one's back."""
    script = "import sys, falcon_pachinko; print(*{name.partition('.')[0] for name in sys.modules})"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    ).stdout

    assert not EXTRAS & set(printed.split())


def test_the_types_ship():
    """A type checker finds ``py.typed`` beside the package."""
    installed = importlib.metadata.distribution("falcon-pachinko")

    assert installed.metadata["Requires-Python"] == ">=3.11"
    assert importlib.resources.files("falcon_pachinko").joinpath("py.typed").is_file()
