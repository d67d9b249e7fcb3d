"""Real-time applications with Falcon: WebSocket routes, typed messages, rooms and workers.

::

    app = falcon.asgi.App()
    install(app)
    app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
    app.add_websocket_worker(announce, app.ws_connection_manager)
"""

from falcon_pachinko import targets as to
from falcon_pachinko.app import App, Pachinko, install
from falcon_pachinko.backends import Backend
from falcon_pachinko.backends.base import HistoryPosition
from falcon_pachinko.cluster.node import Gap
from falcon_pachinko.connection.connection import Connection
from falcon_pachinko.errors import (
    AlreadyInstalledError,
    BackendError,
    ConnectionStateError,
    DuplicateConnectionError,
    DuplicateHandlerError,
    DuplicateWorkerError,
    EncodeError,
    HandlerDefinitionError,
    InvalidNameError,
    LeaseLostError,
    MessageError,
    NoHistoryError,
    PachinkoError,
    ResourceTypeError,
    RoomLimitError,
    RouteConflictError,
    RouteTemplateError,
    SetupError,
    UnknownConnectionError,
    UnknownRouteError,
    WorkerDefinitionError,
)
from falcon_pachinko.leases import Lease, current_lease
from falcon_pachinko.limits import HistoryLimits, Limits
from falcon_pachinko.manager import WebSocketConnectionManager
from falcon_pachinko.messages.handlers import handles_message
from falcon_pachinko.messages.hooks import Hook, ReceivedMessage
from falcon_pachinko.publisher import Publisher
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.rooms.answers import ClusterAnswer, ClusterRooms
from falcon_pachinko.rooms.drain import Drained
from falcon_pachinko.rooms.sending import Delivery
from falcon_pachinko.routing import WebSocketRouter
from falcon_pachinko.session.admission import Principal
from falcon_pachinko.targets import Target
from falcon_pachinko.workers import Worker, WorkerController, worker

__all__ = [
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
