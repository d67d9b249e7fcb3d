"""The options that several commands have, each written once: they are called and read alike."""

from typing import Annotated

import typer

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show it, and change nothing.")]
JsonEvents = Annotated[bool, typer.Option("--json", help="Print one JSON event a line on stdout.")]
JsonDocument = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Overwrite = Annotated[
    bool, typer.Option("--force", help="Overwrite files that are there and differ.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only what failed.")]
ShowChanges = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print what changes in a file, too.")
]
ShowTracebacks = Annotated[bool, typer.Option("--verbose", "-v", help="Print whole tracebacks.")]
