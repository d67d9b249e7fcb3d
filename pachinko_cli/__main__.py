"""`pachinko`, and `python -m pachinko_cli`."""

import os
import sys
from importlib.util import find_spec

from pachinko_cli.errors import INTERRUPTED

# What the extra [cli] installs, and the library alone does not need.
EXTRA = ("typer", "rich", "cookiecutter", "uvicorn", "websockets")


def main() -> None:
    """Run the command line; where its extra is missing, say which pip command adds it."""
    try:
        if missing := [name for name in EXTRA if find_spec(name) is None]:
            sys.exit(
                f"pachinko needs {', '.join(missing)}, which the library alone does not install.\n"
                "Type:  pip install 'falcon-pachinko[cli]'"
            )
        from pachinko_cli.app import run  # noqa: PLC0415 - imports Typer, which was only now found

        run()
    except KeyboardInterrupt:  # before any command had begun, or after it had ended
        sys.exit(INTERRUPTED)
    finally:
        flush_or_drop()


def flush_or_drop() -> None:
    """Write what still waits to be printed, or forget it where it cannot be written.

    Python tries at its end, too, and where that fails it makes the exit code 120.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
