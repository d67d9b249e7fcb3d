"""The application, put together in one place."""

from falcon_pachinko import App, HistoryLimits

from .config import Config
from .routes import add_routes
from .workers import add_workers


def create_app(config: Config | None = None) -> App:
    """Make the app: its rooms' history, its routes, then its workers.

    Every call makes a new app that shares nothing with the others, as the tests need.
    Without a config, it is read from the environment.
    """
    config = config or Config.from_environment()
    app = App(allowed_hosts=config.allowed_hosts{% if cookiecutter.backend != 'memory' %}, backend=config.backend{% endif %})
    # Chat rooms keep their last messages, for clients that reconnect.
    app.ws_connection_manager.configure_rooms("chat:", history=HistoryLimits(count=100))
    add_routes(app)
    add_workers(app, config)
    return app
