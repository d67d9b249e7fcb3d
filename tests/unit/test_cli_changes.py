"""Several writes to a project: all of them or none, whatever happens in between."""

import json
import os
import signal
import subprocess
import sys

import pytest

from pachinko_cli.changes import UNDO, Status, alone, apply, edited, generated, read
from pachinko_cli.errors import CliError
from pachinko_cli.manifest import FOLDER

# Applies the same changes to copies of a project, and ends each time at another step: the operating
# system is watched for the calls that change something.
AT_EVERY_STEP = """
import errno, os, shutil, signal, sys
from pathlib import Path
from pachinko_cli.changes import alone, apply, edited, generated, read
from pachinko_cli.changes import Change, Status

how, root = sys.argv[1], Path(sys.argv[2])
STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.rmdir"}
left = None

def watch(event, arguments):
    global left
    if left is None or event not in STEPS:
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    left -= 1
    if left >= 0:
        return
    left = None
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "interrupt":
        raise KeyboardInterrupt
    raise OSError(errno.ENOSPC, "No space left on device")

sys.addaudithook(watch)
for step in range(100):
    copy = root.with_name(f"copy-{step}")
    shutil.copytree(root, copy)
    child = os.fork()
    if not child:
        changes = [
            generated(copy, "new/folder/a.py", "a", force=False),
            edited("table.py", read(copy, "table.py"), b"wired"),
            Change("old.py", read(copy, "old.py"), None, Status.REMOVE),
            generated(copy, "forced.py", "forced", force=True),
        ]
        try:
            with alone(copy):
                left = step
                apply(copy, changes)
                done, left = left, None
        except BaseException as error:
            print(step, type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0 if done >= 0 else 2)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        sys.exit(0)
sys.exit(3)
"""


@pytest.fixture
def root(tmp_path):
    """Give a project with a few files."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("table.py", "old.py", "forced.py"):
        (root / name).write_text(f"{name} as it was")
    (root / "table.py").chmod(0o640)
    return root


def contents(folder):
    """What is in a folder, with the modes."""
    return {
        str(path.relative_to(folder)): (
            oct(path.stat().st_mode),
            path.is_file() and path.read_text(),
        )
        for path in folder.rglob("*")
    }


def complete(root):
    return {
        **contents(root),
        "new": (oct(0o40755), False),
        "new/folder": (oct(0o40755), False),
        "new/folder/a.py": (oct(0o100644), "a"),
        "table.py": (oct(0o100640), "wired"),
        "forced.py": (oct(0o100644), "forced"),
    }


@pytest.mark.parametrize("how", ["kill", "interrupt", "full disk"])
def test_at_whatever_step_it_ends_the_project_is_complete_or_untouched(root, how):
    """A kill, a Ctrl-C, a full disk; after a kill, once the next command has begun."""
    os.umask(0o022)
    before, after = contents(root), complete(root)
    del after["old.py"]
    ran = subprocess.run(
        [sys.executable, "-c", AT_EVERY_STEP, how, str(root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, (ran.stdout, ran.stderr)
    copies = sorted(root.parent.glob("copy-*"), key=lambda copy: int(copy.name[5:]))
    found = []
    for copy in copies:
        if how == "kill":
            with alone(copy):
                pass
        found.append(contents(copy))
    done = [{path: was for path, was in state.items() if FOLDER not in path} for state in found]

    assert len(copies) > 10
    assert before in found[:5]
    assert done[-1] == after
    for number, state in enumerate(found):
        # What a failed clean-up left is no part of the project; the next command sweeps it.
        assert state == before or done[number] == after, (number, ran.stdout)


def test_a_file_that_was_edited_after_a_kill_is_not_taken_back(root):
    """Somebody saw half of it, and repaired it by hand."""
    undo = root / UNDO
    undo.mkdir(parents=True)
    (undo / "old-0").write_text("table.py as it was")
    entry = {"path": "table.py", "mode": 0o640, "after": "the digest of something else"}
    (undo / "journal.json").write_text(json.dumps({"changes": [entry], "folders": []}))
    (root / "table.py").write_text("repaired")
    with alone(root):
        pass

    assert (root / "table.py").read_text() == "repaired"
    assert not undo.exists()


def test_a_file_that_changed_since_the_plan_stops_it(root):
    """An editor saved in between: nothing is written over that."""
    planned = [edited("table.py", b"table.py as it was", b"wired")]
    (root / "table.py").write_text("saved just now")
    with pytest.raises(CliError, match="was changed by somebody else just now"):
        apply(root, planned)

    assert (root / "table.py").read_text() == "saved just now"


def test_a_generated_file_that_differs_is_a_conflict(root):
    """Unless it is forced; the same text, with other line ends too, is identical."""
    (root / "a.py").write_bytes(b"a\r\nb\r\n")

    assert generated(root, "a.py", "a\nb\n", force=False).status is Status.IDENTICAL
    assert generated(root, "a.py", "a\nc\n", force=False).status is Status.CONFLICT
    assert generated(root, "a.py", "a\nc\n", force=True).status is Status.MODIFY
    assert generated(root, "b.py", "a\nc\n", force=False).status is Status.CREATE


def test_the_difference_is_shown_as_people_know_it(root):
    """With what is there first."""
    diff = generated(root, "table.py", "other", force=False).diff

    assert diff[-2:] == ["-table.py as it was", "+other"]


def test_an_identical_file_is_not_written(root):
    """Its date stays, and no editor asks whether to load it again."""
    before = (root / "table.py").stat().st_mtime_ns
    apply(root, [edited("table.py", b"table.py as it was", b"table.py as it was")])

    assert (root / "table.py").stat().st_mtime_ns == before


@pytest.mark.parametrize("path", ["link/a.py", "link", "table.py/a.py"])
def test_what_is_no_file_of_the_project_is_named(root, path):
    """No symbolic link is followed; a folder that is a file is one line."""
    (root / "link").symlink_to(root.parent)
    with pytest.raises(CliError, match=r"is a symbolic link|cannot read .*: Not a directory"):
        read(root, path)


def test_a_link_at_the_folder_of_ours_is_not_followed(root, tmp_path):
    """Nothing in it is taken for a journal."""
    (tmp_path / "elsewhere/undo").mkdir(parents=True)
    (root / ".pachinko").symlink_to(tmp_path / "elsewhere")
    with alone(root):
        pass

    assert (tmp_path / "elsewhere/undo").is_dir()


def test_a_second_command_waits_for_the_first(root):
    """Two runs at the same time do not lose each other's line."""
    program = (
        "import sys; from pathlib import Path; from pachinko_cli.changes import alone\n"
        "print('begun', flush=True)\n"
        f"with alone(Path({str(root)!r})): print('alone', flush=True)"
    )
    with alone(root):
        second = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        )
        begun = second.stdout.readline()
        second.send_signal(signal.SIGSTOP)
        running = second.poll()
        second.send_signal(signal.SIGCONT)
        (root / "first").write_text("done")
    rest, _ = second.communicate(timeout=60)

    assert (begun, running, rest) == ("begun\n", None, "alone\n")
