"""A minute of wear: clients of every kind, cuts of the backend, and nothing of it stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis_server import executable

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"
LONGEST = 900
"""Seconds: a minute of load, and after each of its rounds up to a minute until all is quiet."""


@pytest.mark.slow
@pytest.mark.timeout(LONGEST + 60)
def test_a_mix_of_clients_and_cuts_leaves_nothing_behind():
    """Connections, rooms, tasks, descriptors, tables and keys are those of the first round."""
    run = subprocess.run(
        [sys.executable, SOAK, "--seconds", "60"],
        env=os.environ | {"PATH": f"{Path(executable()).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
        check=False,
    )

    assert run.returncode == 0, run.stdout
