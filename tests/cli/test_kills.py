"""A kill or a Ctrl-C at any moment: what a command makes is complete, or was never begun."""

import contextlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from pachinko_cli.changes import UNDO
from pachinko_cli.staging import STAGING_PREFIX

DEADLINE = 120  # seconds

# A line of a traceback that says: Ctrl-C came when the command was in our hands already.
OURS = re.compile(r"pachinko_cli\W__main__\.py\", line \d+, in main")

# Runs a command again and again, each time in a copy of a folder, and ends it at another of the
# steps that change something on the disk; the operating system is watched for those.  All is loaded
# before, so that a run is a fork.  Prints for each copy how the command ended, and how another one
# ended that was typed after it.
AT_EVERY_STEP = """
import json, os, shutil, signal, sys
from pathlib import Path

sys.dont_write_bytecode = True
import cookiecutter.generate, jinja2.ext, rich.console
import pachinko_cli.additions, pachinko_cli.app, pachinko_cli.reports
from pachinko_cli.__main__ import main

asked = json.loads(sys.argv[1])
pristine, inside = Path(asked["folder"]), asked["inside"]
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.rmdir"}
left = None


def watch(event, arguments):
    global left
    if left is None or event not in STEPS:
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    left -= 1
    if left == 0:
        os.kill(os.getpid(), asked["signal"])


sys.addaudithook(watch)


def run(folder, arguments, steps, log):
    child = os.fork()
    if not child:
        global left
        os.chdir(folder / inside)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["pachinko", *arguments]
        code, left = 0, steps
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException as error:
            code = 99
            os.write(2, repr(error).encode())
        done, left = steps - left, None
        Path(f"{log}.steps").write_text(str(done))
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def copy(name):
    return shutil.copytree(pristine, pristine.with_name(name))


log = pristine.with_name("whole.log")
ended = [run(copy("whole"), asked["command"], 10**9, log)]
count = int(Path(f"{log}.steps").read_text())
chosen = {1 + number * count // asked["most"] for number in range(asked["most"])} | {count}
results = {}
for step in sorted(chosen):
    folder = copy(f"at-{step}")
    log = pristine.with_name(f"at-{step}.log")
    code = run(folder, asked["command"], step, log)
    shutil.copytree(folder, pristine.with_name(f"left-{step}"), symlinks=True)
    results[step] = [code, run(folder, asked["after"], 10**9, log)]
print(json.dumps({"whole": ended[0], "steps": results}))
"""

# The command; what is typed after it, how that ends.  Nothing but a command finds what one left.
COMMANDS = {
    "new": (["new", "tea-room", "-q", "--no-git"], ["new", "other", "-q", "--no-git"]),
    "add-resource": (["add-resource", "notes"], ["remove", "resource", "nothing"]),
    "add-worker": (["add-worker", "pulse", "--every", "5s"], ["remove", "worker", "nothing"]),
    "remove": (["remove", "resource", "quiz"], ["remove", "resource", "nothing"]),
}


@pytest.fixture
def folder(request, baked, tmp_path, pachinko):
    """Give a folder for a command to be typed in: an empty one for `new`, else one with a project.

    The project has a resource of its own, for `remove` to take out.
    """
    folder = tmp_path / "pristine"
    if request.param == "new":
        folder.mkdir()
    else:
        shutil.copytree(baked["minimal"], folder / "tea-room")
        pachinko("add-resource", "quiz", cwd=folder / "tea-room")
    return folder


def inside(name):
    return "." if name == "new" else "tea-room"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(
    ("folder", "name"), [(name, name) for name in COMMANDS], indirect=["folder"], ids=COMMANDS
)
def test_at_whatever_step_a_command_ends_all_of_it_is_there_or_nothing(
    folder, name, how, environment, contents
):
    """Ctrl-C: at once, with exit 130.  A kill: once the next command has begun."""
    command, after = COMMANDS[name]
    asked = {
        "folder": str(folder),
        "inside": inside(name),
        "command": command,
        "after": after,
        "signal": how,
        "most": 18,
    }
    ran = subprocess.run(
        [sys.executable, "-c", AT_EVERY_STEP, json.dumps(asked)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    before, whole = contents(folder), contents(folder.with_name("whole"))

    assert told["whole"] == 0
    assert before != whole
    assert len(told["steps"]) > 10
    for step, (code, next_code) in told["steps"].items():
        said = folder.with_name(f"at-{step}.log").read_text()
        left, at_last = (contents(folder.with_name(f"{what}-{step}")) for what in ("left", "at"))

        assert code == (130 if how == signal.SIGINT else -how), (step, said)
        assert "Traceback" not in said
        if how == signal.SIGINT:
            assert swept(left) in (before, whole), (step, said)
            if "nothing was made" in said or "nothing was changed" in said:
                assert swept(left) == before, (step, said)
        assert next_code == (0 if name == "new" else 2), (step, said)
        assert without_other(at_last) in (before, whole), (step, said)


def without_other(contents):
    """Leave out what the next command made."""
    return {path: what for path, what in contents.items() if path.split("/")[0] != "other"}


def swept(contents):
    """Leave out what the clean-up had no time for; the next command sees to that."""
    return {
        path: what
        for path, what in contents.items()
        if UNDO not in path and STAGING_PREFIX not in path
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(
    ("folder", "name"), [(name, name) for name in COMMANDS], indirect=["folder"], ids=COMMANDS
)
def test_at_whatever_moment_a_command_ends_the_next_one_finds_all_or_nothing(
    folder, name, how, begin, pachinko, contents, tmp_path
):
    """Real processes, and moments that nobody has chosen: five of each command."""
    command, after = COMMANDS[name]
    before = contents(folder)
    shutil.copytree(folder, tmp_path / "whole")
    started = time.monotonic()
    assert pachinko(*command, cwd=tmp_path / "whole" / inside(name)).returncode == 0
    duration = time.monotonic() - started
    whole = contents(tmp_path / "whole")

    for number in range(5):
        copy = shutil.copytree(folder, tmp_path / str(number))
        process = begin(*command, cwd=copy / inside(name))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0, 1.1 * duration))
        process.send_signal(how)
        _, said = process.communicate(timeout=DEADLINE)
        left = swept(contents(copy))
        pachinko(*after, cwd=copy / inside(name))
        at_last = without_other(contents(copy))

        # Before it is in our hands, Ctrl-C is Python's, which shows a traceback of its own.
        at_start = "Traceback" in said and OURS.search(said) is None
        assert process.returncode in {0, 130, -how} or at_start, said
        if how == signal.SIGINT:
            assert left in (before, whole), said
            assert at_start or "Traceback" not in said, (process.returncode, left == whole, said)
        assert at_last in (before, whole)
