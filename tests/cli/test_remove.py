"""`pachinko remove` for somebody who has added something."""

import json

import pytest

from pachinko_cli.manifest import PATH, decode


@pytest.fixture
def run(pachinko, project):
    """Run `pachinko` in the project."""
    return lambda *arguments: pachinko(*arguments, cwd=project)


ADDED = [
    ["add-resource", "notes"],
    ["add-resource", "quiz", "/ws/quiz/{quiz_id:int}", "--kind", "reply", "-m", "ask:text=str"],
    ["add-worker", "pulse", "--every", "5s"],
]


@pytest.mark.parametrize("template", ["chat", "minimal"])
@pytest.mark.parametrize("order", [ADDED, ADDED[::-1]], ids=["forwards", "backwards"])
def test_what_was_added_is_removed_to_the_byte(
    pachinko, baked, tmp_path, contents, template, order
):
    """Whatever the order, the project is what it was."""
    project = tmp_path / "tea-room"
    project.mkdir()
    before = contents(baked[template])
    for path, content in before.items():
        (project / path).mkdir() if content is None else (project / path).write_bytes(content)
    for arguments in ADDED:
        assert pachinko(*arguments, cwd=project).returncode == 0
    for command, name, *_ in order:
        assert pachinko("remove", command[4:], name, cwd=project).returncode == 0

    assert contents(project) == before


@pytest.mark.quick
def test_it_says_what_becomes_of_every_file(run):
    """One line a file, and one for what was removed."""
    run("add-resource", "notes")
    ran = run("remove", "resource", "Notes")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == (
        "   modify  tea_room/routes.py\n"
        "   remove  tea_room/resources/notes.py\n"
        "   remove  tests/test_notes.py\n"
        "   modify  .pachinko/manifest.json\n"
        "Removed Notes\n"
    )


def test_dry_run_shows_the_same_and_changes_nothing(run, project, contents):
    """The statuses are those that the run would have."""
    run("add-worker", "pulse")
    before = contents(project)
    shown = run("remove", "worker", "pulse", "--dry-run")

    assert shown.stdout.endswith("Would remove run_pulse\n")
    assert contents(project) == before
    assert run("remove", "worker", "pulse").stdout.splitlines()[:4] == shown.stdout.splitlines()[:4]


def test_a_file_that_was_edited_is_kept_and_named(run, project):
    """The rest goes; exit 3."""
    run("add-resource", "notes")
    test = project / "tests/test_notes.py"
    test.write_text(f"{test.read_text()}\n# mine\n")
    ran = run("remove", "resource", "notes")

    assert ran.returncode == 3
    assert "     keep  tests/test_notes.py\n" in ran.stdout
    assert ran.stderr == (
        "warning: tests/test_notes.py was edited since it was generated, so it was not changed\n"
        "  delete it yourself, or type the same with --force\n"
    )
    assert test.read_text().endswith("# mine\n")
    assert not (project / "tea_room/resources/notes.py").exists()
    assert "Notes" not in (project / "tea_room/routes.py").read_text()


@pytest.mark.parametrize("how", ["by hand", "--force"])
def test_the_same_again_finishes_it(run, project, contents, baked, how):
    """Once the edited file is gone, or with `--force`."""
    run("add-resource", "notes")
    (project / "tests/test_notes.py").write_text("# mine\n")
    first = run("remove", "resource", "notes")
    if how == "by hand":
        (project / "tests/test_notes.py").unlink()
    second = run("remove", "resource", "notes", *["--force"] * (how == "--force"))

    assert (first.returncode, second.returncode) == (3, 0)
    assert contents(project) == contents(baked["chat"])


def test_other_line_ends_are_no_edit(run, project):
    """Git may have made them."""
    run("add-resource", "notes")
    module = project / "tea_room/resources/notes.py"
    module.write_bytes(module.read_bytes().replace(b"\n", b"\r\n"))

    assert run("remove", "resource", "notes").returncode == 0
    assert not module.exists()


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ('"/ws/notes/{room_name}"', '"/n"', "has Notes in ROUTES in another way than it was added"),
        ("app.add_route", "print(Notes)\n    app.add_route", "uses Notes in line "),
        ("ROUTES: ", "ROUTES ", "has a syntax error in line "),
    ],
)
def test_where_the_line_cannot_be_taken_out_everything_is_kept(
    run, project, contents, before, after, why
):
    """The app needs the module as long as the table has it; exit 3, and what to do."""
    run("add-resource", "notes")
    routes = project / "tea_room/routes.py"
    routes.write_text(routes.read_text().replace(before, after, 1))
    there = contents(project)
    ran = run("remove", "resource", "notes")

    assert ran.returncode == 3
    assert f"warning: tea_room/routes.py {why}" in ran.stderr
    assert "  delete the first line from its imports, the second from its table:\n" in ran.stderr
    assert contents(project) == there


def test_lines_that_were_taken_out_by_hand_are_no_trouble(run, project):
    """Then only the files are left to be removed."""
    before = (project / "tea_room/routes.py").read_text()
    run("add-resource", "notes")
    (project / "tea_room/routes.py").write_text(before)
    ran = run("remove", "resource", "notes")

    assert ran.returncode == 0
    assert "identical  tea_room/routes.py\n" in ran.stdout
    assert decode((project / PATH).read_bytes()).added == ()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["resource", "nots"], "did you mean notes?"),
        (["resource", "something"], "there are: notes"),
        (["worker", "notes"], "pachinko add-worker has added none here"),
        (["resource", "chat"], "it came with the project: delete its files, and its lines"),
        (["route", "notes"], "did you mean resource? There are: resource, worker"),
        (["resource", "../../etc"], "there are: notes"),
    ],
)
def test_what_was_not_added_is_refused(run, project, contents, arguments, hint):
    """Exit 2, with what there is."""
    run("add-resource", "notes")
    before = contents(project)
    refused = run("remove", *arguments)

    assert refused.returncode == 2
    assert f"  {hint}" in refused.stderr
    assert contents(project) == before


def test_a_manifest_cannot_delete_what_is_outside(run, project, tmp_path):
    """It came with the repository, and may have been written by anybody."""
    run("add-resource", "notes")
    (tmp_path / "diary.txt").write_text("mine")
    noted = json.loads((project / PATH).read_text())
    noted["added"][0]["files"] = {"../diary.txt": "abc"}
    (project / PATH).write_text(json.dumps(noted))
    refused = run("remove", "resource", "notes", "--force")

    assert refused.returncode == 1
    assert "'../diary.txt' is no file of the project" in refused.stderr
    assert (tmp_path / "diary.txt").exists()


def test_json_is_one_event_a_line(run):
    """What happened to each file, then what was removed."""
    run("add-worker", "pulse")
    *files, removed = map(
        json.loads, run("remove", "worker", "pulse", "--json").stdout.splitlines()
    )

    assert [each["status"] for each in files] == ["modify", "remove", "remove", "modify"]
    assert (removed["event"], removed["subject"], removed["complete"]) == (
        "removed",
        "run_pulse",
        True,
    )
