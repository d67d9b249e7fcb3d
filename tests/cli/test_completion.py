"""Completion in a real bash: what Tab offers after `pachinko`."""

import shlex
import subprocess
import sys

import pytest

PRESS_TAB = """
COMP_WORDS=({line}) COMP_CWORD={at}
_pachinko_completion pachinko
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def bash(tmp_path, environment):
    """Run a script in a bash that knows `pachinko`, with a home of its own; give what it prints."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    command = binaries / "pachinko"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pachinko_cli "$@"\n')
    command.chmod(0o755)
    path = f"{binaries}:{environment['PATH']}"

    def run(script, cwd=tmp_path):
        done = subprocess.run(
            ["bash", "--norc", "--noprofile", "-c", script],
            cwd=cwd,
            env=environment | {"PATH": path, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert not done.stderr, done.stderr
        return done.stdout

    return run


@pytest.fixture
def offered(bash, tmp_path):
    """Press Tab behind some words, and give what is offered."""

    def press_tab(*words, cwd=tmp_path):
        line = ["pachinko", *words]
        keys = PRESS_TAB.format(line=shlex.join(line), at=len(words))
        return bash('eval "$(pachinko --show-completion)"' + keys, cwd).split()

    return press_tab


def test_commands_complete(offered):
    """By their beginnings, wherever one is."""
    assert offered("rou") == ["routes"]
    assert offered("pub") == ["publish"]
    assert set(offered("add-")) == {"add-resource", "add-worker"}


def test_options_complete(offered):
    """Those of the command that was typed."""
    assert offered("serve", "--po") == ["--port"]
    assert offered("publish", "tea", "said", "--back") == ["--backend"]


def test_what_was_added_completes_for_its_removal(offered, pachinko, project):
    """Kinds, then the names of that kind only."""
    pachinko("add-resource", "notes", cwd=project)
    pachinko("add-worker", "pulse", cwd=project)

    assert offered("remove", "res", cwd=project) == ["resource"]
    assert offered("remove", "resource", "", cwd=project) == ["notes"]
    assert offered("remove", "worker", "", cwd=project) == ["pulse"]


def test_outside_a_project_and_in_a_broken_one_nothing_is_offered(offered, project):
    """A half-typed line is no place for an error."""
    outside = offered("remove", "resource", "")
    (project / ".pachinko/manifest.json").write_text("{")

    assert outside == offered("remove", "resource", "", cwd=project) == []


def test_completion_is_installed_for_the_shells_that_come(bash):
    """`--install-completion` says where it wrote, and what a new bash reads there completes."""
    installed = bash("pachinko --install-completion; true")
    keys = PRESS_TAB.format(line="pachinko doc", at=1)

    assert installed.startswith("bash completion installed in ")
    assert bash(f". ~/.bashrc{keys}").split() == ["doctor"]
