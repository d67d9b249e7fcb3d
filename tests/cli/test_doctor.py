"""`pachinko doctor`: each thing that can be wrong, in a project where it is."""

import json
import re
from pathlib import Path

import pytest
from search_path import search_path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/look-at-a-project.md"
ALL = {"python", "versions", "server", "project", "template", "manifest", "app"}


@pytest.fixture
def examined(pachinko, project):
    """Give what `doctor --json` found: the exit code, and the findings that are not ok."""

    def look(**variables):
        done = pachinko("doctor", "--json", cwd=project, **variables)
        assert not done.stderr, done.stderr
        findings = json.loads(done.stdout)["findings"]
        return done.returncode, [each for each in findings if each["mark"] != "ok"]

    return look


@pytest.fixture
def edit(project):
    """Put a text in the place of another in a file of the project."""

    def change(file, old, new):
        path = project / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def only(found, check, mark="warning"):
    """Give the text of the one finding, after a look at its kind."""
    ((finding),) = found
    assert (finding["check"], finding["mark"]) == (check, mark)
    assert finding["fix"]
    return finding["text"]


@pytest.mark.quick
def test_every_check_is_described():
    """The page has a row for each, and for nothing else."""
    sources = [(ROOT / f"pachinko_cli/{name}.py").read_text() for name in ("diagnosis", "mistakes")]
    named = re.findall(r'(?:Finding|of_error)\(\s*"([\w-]+)"', "".join(sources))
    rows = PAGE.read_text().partition("<!-- table: doctor -->")[2].partition("\n\n")[0]

    assert set(named) | {"project"} == set(re.findall(r"^\| `([\w-]+)` \|", rows, re.MULTILINE))


@pytest.mark.quick
def test_a_new_project_is_well(pachinko, project):
    """Everything is looked at, all of it is ok; exit 0."""
    done = pachinko("doctor", "--json", cwd=project)

    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert (document["problems"], document["warnings"]) == (0, 0)
    assert {each["check"] for each in document["findings"]} >= ALL
    assert {each["mark"] for each in document["findings"]} == {"ok"}


@pytest.mark.parametrize("template", ["chat", "minimal"])
def test_every_template_s_project_is_well(pachinko, baked, template):
    """What `new` writes is not complained about; one line a thing, each with its mark."""
    done = pachinko("doctor", cwd=baked[template])

    *lines, blank, last = done.stdout.splitlines()
    assert (done.returncode, done.stderr, blank, last) == (0, "", "", "All is well")
    assert all(line.startswith("ok       ") for line in lines)


def test_what_generators_add_is_well(pachinko, project):
    """A resource and a worker that were added are wired, and counted."""
    pachinko("add-resource", "notes", cwd=project)
    pachinko("add-worker", "pulse", cwd=project)
    done = pachinko("doctor", cwd=project)

    assert done.stdout.endswith("All is well\n")
    assert "2 WebSocket routes, 3 HTTP routes, 2 workers" in done.stdout


def test_quiet_says_only_what_is_wrong(pachinko, project, edit):
    """Nothing in a project that is well; else the warning, with its fix below it."""
    well = pachinko("doctor", "-q", cwd=project)
    edit("tea_room/app.py", "allowed_hosts=config.allowed_hosts", "")
    warned = pachinko("doctor", "-q", cwd=project)

    assert (well.returncode, well.stdout) == (0, "")
    assert warned.returncode == 0
    assert warned.stdout.startswith("warning  the app answers to every Host name")
    assert f"```text\n{warned.stdout}```\n" in PAGE.read_text()


def test_an_app_that_does_not_import_is_a_problem_among_the_rest(pachinko, project):
    """The user's own frame is shown, and everything else is looked at all the same; exit 1."""
    (project / "tea_room/messages.py").write_text("1 / 0\n")
    done = pachinko("doctor", cwd=project)

    assert (done.returncode, done.stderr) == (1, "")
    assert "problem  tea_room.asgi:app does not import\n" in done.stdout
    assert 'messages.py", line 1, in <module>' in done.stdout
    assert "1 edited since, 0 deleted" in done.stdout
    assert done.stdout.endswith("1 problem, 0 warnings\n")


def test_an_app_without_install_is_a_problem(examined, project):
    """A plain Falcon app has no WebSocket side at all."""
    (project / "tea_room/asgi.py").write_text("import falcon.asgi\napp = falcon.asgi.App()\n")
    code, found = examined()

    assert code == 1
    assert "install(app) was never called" in only(found, "install", "problem")


@pytest.mark.parametrize(
    ("kind", "file", "said"),
    [
        ("resource", "tea_room/resources/notes.py", "so no client reaches what is in it"),
        ("worker", "tea_room/workers/notes.py", "so it never runs"),
    ],
)
def test_a_module_that_nothing_imports_is_named(examined, project, kind, file, said):
    """It was written and forgotten: a file in the folder, and in no table."""
    (project / file).write_text('"""Notes."""\n')
    code, found = examined()

    assert code == 0
    assert only(found, f"unused-{kind}") == f"{file} is imported by nothing, {said}"


def test_a_resource_that_is_on_no_route_is_named(examined, edit):
    """Its module is imported, but not its line in the table; with the place of the class."""
    edit("tea_room/routes.py", '    ("/ws/chat/{room_name}", ChatRoom),\n', "")
    _, found = examined()

    said = "ChatRoom (tea_room/resources/chat.py:24) is on no route, so no client reaches it"
    assert only(found, "unused-resource") == said


def test_a_base_of_a_routed_resource_is_not_named(examined, edit):
    """It is reached through what derives from it."""
    edit("tea_room/resources/chat.py", "class ChatRoom(", "class Base(")
    edit("tea_room/routes.py", "import ChatRoom", "import Base")
    edit("tea_room/routes.py", "# WebSocket paths.", "class ChatRoom(Base): ...\n\n\n# ")

    assert examined() == (0, [])


def test_a_worker_that_is_imported_but_in_no_table_is_named(examined, edit):
    """Its import stayed, its line did not."""
    edit("tea_room/workers/__init__.py", "    announce,\n", "")
    _, found = examined()

    assert "announce (tea_room/workers/announcements.py:" in only(found, "unused-worker")


def test_a_method_that_looks_like_a_handler_is_named(examined, edit):
    """It takes a payload, and nobody ever calls it."""
    edit("tea_room/resources/chat.py", '    @handles_message("say")\n', "")
    edit("tea_room/resources/chat.py", "async def say(", "async def on_say(")
    _, found = examined()

    assert "ChatRoom.on_say (" in only(found, "undecorated-handler")
    assert found[0]["fix"].startswith('write @handles_message("say") above it')


@pytest.mark.parametrize(
    "method",
    [
        "async def shout(self, text, payload): ...",
        "async def hear(self, ws): ...",
        "async def count(self, ws, number: int): ...",
        "async def _later(self, ws, payload): ...",
        "def told(self, ws, payload): ...",
    ],
)
def test_a_method_of_the_user_s_own_is_not_named(examined, edit, method):
    """A warning that is often wrong is one that nobody reads."""
    before = '    @handles_message("say")\n'
    edit("tea_room/resources/chat.py", before, f"    {method}\n\n{before}")

    assert examined() == (0, [])


def test_two_resources_at_one_path_are_a_problem(examined, edit):
    """Falcon keeps the last one, and says nothing."""
    line = '    app.add_route("/health", Health())\n'
    edit("tea_room/routes.py", line, line + line.replace("Health()", 'Page(static / "x")'))
    code, found = examined()

    assert code == 1
    assert "/health was given to Health and then to Page" in only(found, "shadowed", "problem")


@pytest.mark.parametrize(
    ("added", "first"),
    [
        ('app.add_static_route("/", static)', "the static folder at /"),
        ("app.add_sink(Health().on_get)", "the sink on_get at /"),
    ],
)
def test_a_static_folder_that_nobody_reaches_is_named(examined, edit, added, first):
    """What was added after it answers all its paths."""
    line = '    app.add_static_route("/static", static)\n'
    edit("tea_room/routes.py", line, f"{line}    {added}\n")
    _, found = examined()

    said = f"the static folder at /static/ is never reached: {first} answers all its paths"
    assert only(found, "shadowed") == said


def test_a_sink_beside_a_static_folder_is_fine(examined, edit):
    """Each has paths of its own."""
    line = '    app.add_static_route("/static", static)\n'
    edit("tea_room/routes.py", line, f'{line}    app.add_sink(Health().on_get, "/old")\n')

    assert examined() == (0, [])


def test_doors_that_stand_open_are_named(examined, project):
    """Any Host name, and the pages of any site."""
    code = 'from falcon_pachinko import App\napp = App(origins="*")\n'
    (project / "tea_room/asgi.py").write_text(code)
    _, found = examined()

    assert {"allowed-hosts", "origins"} <= {each["check"] for each in found}


def test_a_backend_without_its_extra_is_a_problem(examined, project, tmp_path):
    """The library's own sentence names the extra."""
    (project / "tea_room/asgi.py").write_text(
        'from falcon_pachinko import App\napp = App(backend="redis://127.0.0.1")\n'
    )
    absent = "raise ModuleNotFoundError('No module named redis', name='redis')\n"
    (tmp_path / "redis.py").write_text(absent)
    code, found = examined(PYTHONPATH=search_path(tmp_path))

    assert code == 1
    assert "falcon-pachinko[redis]" in only(found, "app", "problem")


@pytest.mark.parametrize(
    ("name", "version"), [("uvicorn", "0.50.0"), ("falcon", "4.1.9"), ("msgspec", "0.19.0")]
)
def test_a_version_that_is_too_old_is_a_problem(examined, tmp_path, name, version):
    """With the command that puts it right; what is needed is read from our own metadata."""
    folder = tmp_path / f"old/{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    code, found = examined(PYTHONPATH=search_path(folder.parent))

    assert code == 1
    assert only(found, "versions", "problem").startswith(f"{name} {version} is too old: ")
    assert found[0]["fix"].startswith(f"type:  pip install --upgrade '{name}>=")


def test_another_environment_than_the_project_s_is_named(examined, project):
    """The versions that are listed are not those that the project will run with."""
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/pyvenv.cfg").write_text("home = /usr\n")
    _, found = examined()

    assert "the project has a .venv of its own" in only(found, "environment")


def test_edited_files_are_counted_and_no_reason_to_worry(pachinko, project):
    """A project is there to be edited; what was added and is gone is a warning.

    Its table, which got a line, is one of the edited ones.
    """
    pachinko("add-resource", "notes", cwd=project)
    (project / "README.md").write_text("# Tea\n")
    (project / "AGENTS.md").unlink()
    (project / "tests/test_notes.py").unlink()
    done = pachinko("doctor", cwd=project)

    assert done.returncode == 0
    assert "warning  tests/test_notes.py of the resource notes is gone\n" in done.stdout
    assert "forget the rest too: pachinko remove resource notes\n" in done.stdout
    assert "2 edited since, 2 deleted" in done.stdout


def test_a_project_that_forgot_what_was_generated_is_told(examined, project):
    """Without the manifest, and with one that cannot be read."""
    path = project / ".pachinko/manifest.json"
    path.write_text("{")
    broken = examined()
    path.unlink()
    missing = examined()

    assert (broken[0], missing[0]) == (1, 0)
    assert "cannot read .pachinko/manifest.json" in only(broken[1], "manifest", "problem")
    assert ".pachinko/manifest.json is missing" in only(missing[1], "manifest")


@pytest.mark.parametrize(
    ("version", "fix"), [("0.0.9", "type:  pachinko update"), ("99.0", "type:  pip install")]
)
def test_a_template_of_another_version_is_told(examined, project, version, fix):
    """An older one can be brought up to date; a newer one needs a newer command."""
    path = project / ".pachinko/manifest.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps(noted | {"template_version": version}))
    _, found = examined()

    assert f"chat {version}" in only(found, "template")
    assert found[0]["fix"].startswith(fix)


def test_a_broken_table_is_a_problem_beside_the_versions(pachinko, project, edit):
    """What the machine has is said all the same."""
    edit("pyproject.toml", 'package = "tea_room"', "package = 7")
    done = pachinko("doctor", cwd=project)

    assert done.returncode == 1
    assert done.stdout.startswith("ok       Python ")
    assert "problem  [tool.pachinko] package in " in done.stdout


def test_outside_a_project_only_the_machine_is_looked_at(pachinko):
    """What can be said is said; exit 4, like every command that needs a project."""
    done = pachinko("doctor")

    assert done.returncode == 4
    assert done.stdout.startswith("ok       Python ")
    assert "is not inside a project" in done.stderr
