"""Real-time applications with Falcon: WebSocket routes, typed messages, rooms and workers.

::

    app = falcon.asgi.App()
    install(app)
    app.add_websocket_route("/ws/chat/{room_name}", ChatRoom)
    app.add_websocket_worker(announce, app.ws_connection_manager)
"""

from falcon_pachinko.admission import Principal
from falcon_pachinko.backends import Backend
from falcon_pachinko.backends.base import Position
from falcon_pachinko.cluster import Gap
from falcon_pachinko.connection import Connection
from falcon_pachinko.drain import Drained
from falcon_pachinko.errors import (
    AlreadyInstalledError,
    BackendError,
    DuplicateConnectionError,
    DuplicateHandlerError,
    DuplicateWorkerError,
    EncodeError,
    HandlerError,
    LeaseLostError,
    MessageError,
    NotAllowedError,
    PachinkoError,
    ResourceTypeError,
    RoomLimitError,
    RoomNameError,
    RouteConflictError,
    SetupError,
    UnknownConnectionError,
    UnknownRouteError,
    WorkerError,
)
from falcon_pachinko.extension import App, Pachinko, install
from falcon_pachinko.handlers import handles_message
from falcon_pachinko.hooks import Hook, Message
from falcon_pachinko.leases import Lease, current_lease
from falcon_pachinko.limits import HistoryLimits, Limits
from falcon_pachinko.manager import Delivery, WebSocketConnectionManager
from falcon_pachinko.resource import WebSocketResource
from falcon_pachinko.router import WebSocketRouter
from falcon_pachinko.targets import Target, connection, everyone, room, tag, user
from falcon_pachinko.workers import Worker, WorkerController, worker

__all__ = [
    "AlreadyInstalledError",
    "App",
    "Backend",
    "BackendError",
    "Connection",
    "Delivery",
    "Drained",
    "DuplicateConnectionError",
    "DuplicateHandlerError",
    "DuplicateWorkerError",
    "EncodeError",
    "Gap",
    "HandlerError",
    "HistoryLimits",
    "Hook",
    "Lease",
    "LeaseLostError",
    "Limits",
    "Message",
    "MessageError",
    "NotAllowedError",
    "Pachinko",
    "PachinkoError",
    "Position",
    "Principal",
    "ResourceTypeError",
    "RoomLimitError",
    "RoomNameError",
    "RouteConflictError",
    "SetupError",
    "Target",
    "UnknownConnectionError",
    "UnknownRouteError",
    "WebSocketConnectionManager",
    "WebSocketResource",
    "WebSocketRouter",
    "Worker",
    "WorkerController",
    "WorkerError",
    "connection",
    "current_lease",
    "everyone",
    "handles_message",
    "install",
    "room",
    "tag",
    "user",
    "worker",
]
