"""`pachinko doctor`: says what is wrong with the machine and the project, and how to mend it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pachinko_cli import project
from pachinko_cli.console import Console
from pachinko_cli.errors import CliError
from pachinko_cli.options import JsonDocument, ShowTracebacks
from pachinko_cli.project import OutsideProjectError

if TYPE_CHECKING:
    from pachinko_cli.findings import Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    *,
    as_json: JsonDocument = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only warnings and problems.")
    ] = False,
    verbose: ShowTracebacks = False,
) -> None:
    """Look for what is wrong: versions, the server, the project's files, how its app is wired.

    Each thing that is wrong comes with its fix.  Exit code 1 if there is a problem; warnings alone
    are 0.  Nothing is changed.

    \b
    Examples:
      pachinko doctor
      pachinko doctor --quiet
      pachinko doctor --json
    """  # noqa: D301 - a raw string would show Click's mark for "keep these lines"
    from pachinko_cli import diagnosis  # noqa: PLC0415 - not for `--help`

    out = Console(as_json=as_json)
    findings = diagnosis.of_machine()
    root, outside = None, None
    try:
        found = project.current()
    except OutsideProjectError as error:
        outside = error
    except CliError as error:
        findings.append(diagnosis.of_error("project", error))
    else:
        root = str(found.root)
        findings += diagnosis.of_project(found, whole_trace=verbose)

    counts = _counts(findings)
    out.document({"project": root, **counts, "findings": [asdict(each) for each in findings]})
    for each in findings:
        if not (quiet and each.mark == "ok"):
            _show(out, each)
    if not quiet:
        told = [f"{count} {what[: len(what) - (count == 1)]}" for what, count in counts.items()]
        out.line(f"\n{', '.join(told)}" if any(counts.values()) else "\nAll is well")
    if outside:
        raise outside
    raise typer.Exit(1 if counts["problems"] else 0)


def _counts(findings: "list[Finding]") -> dict[str, int]:
    marks = [str(each.mark) for each in findings]
    return {"problems": marks.count("problem"), "warnings": marks.count("warning")}


def _show(out: Console, finding: "Finding") -> None:
    first, *others = finding.text.splitlines()
    out.marked(finding.mark, first, style=_STYLES[finding.mark])
    for line in [*others, *finding.fix.splitlines()]:
        out.line(f"         {line}")
