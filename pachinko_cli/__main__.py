"""`pachinko`, and `python -m pachinko_cli`."""

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


if __name__ == "__main__":
    main()
