"""`pachinko new --template PATH|URL`: other people's templates, which may be anything."""

import http.server
import json
import os
import shlex
import stat
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from pachinko_cli.manifest import decode
from pachinko_cli.staging import STAGING_PREFIX

TOP = "{{cookiecutter.slug}}"
VARIABLES = {
    "project_name": "Teas",
    "slug": "{{ cookiecutter.project_name|lower|replace(' ', '_') }}",
    "colour": ["red", "green"],
    "web": True,
    "_private": "{{ untouched }}",
    "__shout": "{{ cookiecutter.colour|upper }}",
}
FILES = {
    f"{TOP}/README.md": "{{ cookiecutter.project_name }} is {{ cookiecutter.__shout }}\n",
    f"{TOP}/{{% if cookiecutter.web %}}web.txt{{% endif %}}": "web\n",
}
ESCAPE = "{{ cycler.__init__.__globals__.os.system('touch ran') }}"
HOOK = "from pathlib import Path\nprint('hooked')\nPath('hooked.txt').write_text('yes')\n"


def write(folder, files=FILES, **variables):
    """Write a template into a folder, and give the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(VARIABLES | variables)
    for path, text in {"cookiecutter.json": settings, **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def here(tmp_path):
    """Give the folder that projects are made in, with nothing else in it."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def template(tmp_path):
    """Give a template in a folder."""
    return write(tmp_path / "teas")


@pytest.fixture
def new(pachinko, here):
    """Make a project called Tea Room of a template, and give what came of it."""

    def run(template, *flags, **variables):
        flags = ("--no-git", "--template", str(template), *flags)
        return pachinko("new", "Tea Room", *flags, cwd=here, **variables)

    return run


@pytest.fixture
def refuse(new, here):
    """Give a function that tries it, and gives the error, once it has seen that nothing stays."""

    def run(template, *flags, code=1, **variables):
        done = new(template, *flags, **variables)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert [*here.iterdir()] == []
        assert "Traceback" not in done.stderr
        return done.stderr

    return run


@pytest.fixture
def git(tmp_path, environment):
    """Give a function that runs git in a folder, as Ann."""
    names = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ann"), ("EMAIL", "ann@example.org"))
    }

    def run(folder, *arguments):
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment | names,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()

    return run


@pytest.fixture
def repository(template, git):
    """Give a repository with a template, as an address; its branch `dev` is blue by default."""
    git(template, "init", "--quiet", "--initial-branch=main")
    git(template, "add", ".")
    git(template, "commit", "--quiet", "--message=red")
    git(template, "tag", "v1")
    git(template, "checkout", "--quiet", "-b", "dev")
    write(template, colour=["blue"])
    git(template, "commit", "--quiet", "--all", "--message=blue")
    git(template, "checkout", "--quiet", "main")
    return template.as_uri()


def zipped(template, archive, inside=""):
    """Put a template into an archive, in a folder of it, and give the archive."""
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(template.rglob("*")):
            packed.write(file, Path(inside) / file.relative_to(template))
    return archive


def test_a_folder_becomes_a_project_of_the_given_name(new, template, here):
    """The folder is called as NAME says, whatever the template calls it; NAME fills the name in."""
    made = new(template)

    assert (made.returncode, made.stderr) == (0, "")
    assert [path.name for path in here.iterdir()] == ["tea-room"]
    assert (here / "tea-room/README.md").read_text() == "Tea Room is RED\n"
    assert (here / "tea-room/web.txt").read_text() == "web\n"


def test_variables_are_set_by_flag(new, template, here):
    """Choices, switches and text; what a flag says is not rendered."""
    new(template, "--set", "colour=green", "--set", "web=no", "--set", "project_name={{ 7*7 }}")

    assert (here / "tea-room/README.md").read_text() == "{{ 7*7 }} is GREEN\n"
    assert not (here / "tea-room/web.txt").exists()


def test_the_project_notes_where_it_came_from(new, template, here):
    """The place is no name of a template of ours, so that no command takes it for one."""
    new(template, "--set", "colour=green")
    noted = decode((here / "tea-room/.pachinko/manifest.json").read_bytes())

    assert (noted.template, noted.template_version) == (str(template), "")
    assert noted.answers == {
        "project_name": "Tea Room",
        "slug": "tea_room",
        "colour": "green",
        "web": True,
    }
    assert set(noted.files) == {"README.md", "web.txt"}


def test_the_command_it_prints_makes_the_same_project(new, pachinko, template, here, contents):
    """Every variable is in it, and it asks nothing."""
    made = new(template, "--set", "colour=green", "--set", "web=off")
    again = here / "again"
    again.mkdir()
    pachinko(*shlex.split(made.stdout.splitlines()[-1])[1:], cwd=again)

    assert contents(again / "tea-room") == contents(here / "tea-room")


@pytest.mark.parametrize("inside", ["", "teas-main"])
def test_an_archive_is_as_good_as_a_folder(new, template, tmp_path, here, inside):
    """With the template at its top, or in the one folder that hosters put it in."""
    made = new(zipped(template, tmp_path / "teas.zip", inside))

    assert made.returncode == 0
    assert (here / "tea-room/README.md").read_text() == "Tea Room is RED\n"


def test_an_archive_may_be_at_an_address(new, template, tmp_path, here):
    """It is fetched over HTTP, with the name and password of the address, which nobody notes."""
    content = zipped(template, tmp_path / "teas.zip").read_bytes()
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        made = new(f"http://ann:s%20s@127.0.0.1:{server.server_port}/teas.zip")
        server.shutdown()
    noted = decode((here / "tea-room/.pachinko/manifest.json").read_bytes())

    assert asked == [("/teas.zip", "Basic YW5uOnMgcw==")]
    assert noted.template == f"http://127.0.0.1:{server.server_port}/teas.zip"
    assert "ann" not in made.stdout + made.stderr


def test_a_repository_is_cloned_and_its_commit_noted(new, repository, template, git, here):
    """What was made can be traced to the commit that it was made from."""
    made = new(repository)
    noted = decode((here / "tea-room/.pachinko/manifest.json").read_bytes())

    assert made.returncode == 0, made.stderr
    assert (noted.template, noted.template_version) == (
        repository,
        git(template, "rev-parse", "HEAD"),
    )
    assert (here / "tea-room/README.md").read_text() == "Tea Room is RED\n"


@pytest.mark.parametrize(("ref", "colour"), [("dev", "BLUE"), ("v1", "RED"), ("main", "RED")])
def test_a_branch_or_a_tag_can_be_asked_for(new, repository, here, ref, colour):
    """`--checkout` takes what git checkout takes."""
    made = new(repository, "--checkout", ref)

    assert made.returncode == 0, made.stderr
    assert (here / "tea-room/README.md").read_text() == f"Tea Room is {colour}\n"


def test_a_template_may_be_deeper(new, tmp_path, here):
    """`--directory` says where; without it, the error does."""
    write(tmp_path / "all/templates/web")

    without = new(tmp_path / "all")
    made = new(tmp_path / "all", "--directory", "templates/web")

    assert without.returncode == 2
    assert "add --directory templates/web" in without.stderr
    assert made.returncode == 0
    assert (here / "tea-room/README.md").is_file()


@pytest.mark.quick
def test_our_own_template_can_be_given_as_a_folder(new, here):
    """Somebody who copied ours and changed it goes on from there."""
    own = Path(__file__).parents[2] / "templates/minimal"
    made = new(own, "--set", "backend=redis")

    assert made.returncode == 0, made.stderr
    assert made.stdout.count("  pachinko serve\n") == 1
    assert (here / "tea-room/tea_room/app.py").is_file()
    assert (here / "tea-room/compose.yaml").is_file()


@pytest.mark.parametrize(
    ("files", "variables", "what"),
    [
        ({"hooks/post_gen_project.py": HOOK}, {}, "hooks/post_gen_project.py"),
        ({"hooks/pre_gen_project.sh": "exit 0"}, {}, "hooks/pre_gen_project.sh"),
        ({"hooks/pre_prompt.py": HOOK}, {}, "hooks/pre_prompt.py"),
        ({}, {"_extensions": ["local_extensions.Loud"]}, "extension local_extensions.Loud"),
    ],
)
def test_code_does_not_run_without_trust(refuse, template, files, variables, what):
    """Exit 2: what would run is named, and the flag that lets it."""
    write(template, FILES | files, **variables)

    error = refuse(template, code=2)

    assert error == (
        f"error: {template} would run code of its own: {what}\n"
        "  read it; if you trust it, add --trust\n"
    )


def test_hooks_run_with_trust_and_leave_stdout_to_us(new, template, here):
    """What they print is for people; a program that reads our events reads nothing else."""
    write(template, FILES | {"hooks/post_gen_project.py": HOOK})

    made = new(template, "--trust", "--json")

    assert made.returncode == 0, made.stderr
    assert (here / "tea-room/hooked.txt").read_text() == "yes"
    assert [json.loads(line)["event"] for line in made.stdout.splitlines()] == ["created", "next"]
    assert "hooked\n" in made.stderr


def test_a_dry_run_runs_no_hook(new, template, here):
    """It shows what the template writes; a hook might do anything anywhere."""
    write(template, FILES | {"hooks/post_gen_project.py": HOOK})

    shown = new(template, "--trust", "--dry-run")

    assert shown.returncode == 0
    assert "README.md" in shown.stdout
    assert "hooked" not in shown.stdout + shown.stderr
    assert [*here.iterdir()] == []


def test_extensions_and_questions_hooks_work_with_trust(new, template, here):
    """A template's own module is found, and a hook before the questions may change these."""
    extension = (
        "from jinja2.ext import Extension\n\n\n"
        "class Loud(Extension):\n"
        "    def __init__(self, environment):\n"
        "        super().__init__(environment)\n"
        "        environment.filters['loud'] = lambda text: f'{text}!'\n"
    )
    ask = (
        "import json\n"
        "told = json.load(open('cookiecutter.json'))\n"
        "json.dump(told | {'colour': ['pink']}, open('cookiecutter.json', 'w'))\n"
    )
    files = {
        f"{TOP}/README.md": "{{ cookiecutter.colour | loud }}",
        "local_extensions.py": extension,
        "hooks/pre_prompt.py": ask,
    }
    write(template, files, _extensions=["local_extensions.Loud"])

    made = new(template, "--trust")

    assert made.returncode == 0, made.stderr
    assert (here / "tea-room/README.md").read_text() == "pink!"


def test_a_hook_that_fails_leaves_nothing(refuse, template):
    """One sentence, and no half-made project."""
    write(template, FILES | {"hooks/post_gen_project.py": "raise SystemExit(3)"})

    error = refuse(template, "--trust")

    assert f"error: the template {template} failed: Hook script failed (exit status: 3)\n" in error


@pytest.mark.parametrize(
    ("files", "variables"),
    [
        ({f"{TOP}/README.md": ESCAPE}, {}),
        ({f"{TOP}/{{% if {ESCAPE[3:-3]} %}}a{{% endif %}}".replace("/touch", ""): "a"}, {}),
        ({}, {"slug": ESCAPE}),
        ({}, {"__shout": ESCAPE}),
    ],
    ids=["a file", "a path", "a default", "a private variable"],
)
def test_jinja_does_not_get_out_of_its_sandbox(refuse, template, here, files, variables):
    """A template without hooks is no way to run code either."""
    write(template, FILES | files, **variables)

    assert "unsafe" in refuse(template)
    assert not [*here.parent.rglob("ran")]


@pytest.mark.parametrize("slug", ["../../up", "/tmp/up", "..\\up", "C:/up", ".git/hooks"])
def test_no_path_leaves_the_project(refuse, template, tmp_path, slug):
    """Neither a variable's default nor what is typed leads a file elsewhere, nor into `.git`."""
    write(template, {f"{TOP}/a/{{{{cookiecutter.slug}}}}.txt": "up"})
    before = {path for path in tmp_path.rglob("*") if STAGING_PREFIX not in str(path)}

    error = refuse(template, "--set", f"slug={slug}")

    assert "which is no place in the project\n" in error
    assert {path for path in tmp_path.rglob("*") if STAGING_PREFIX not in str(path)} == before


def test_the_name_of_the_top_folder_is_no_path(new, template, here):
    """It is not used at all: what it renders to leads nowhere, and is not rendered twice."""
    made = new(template, "--set", "slug=../{{ 7*7 }}")

    assert made.returncode == 0, made.stderr
    assert [path.name for path in here.iterdir()] == ["tea-room"]


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_links_and_pipes_in_a_template_are_refused(refuse, template, tmp_path, kind):
    """A link would bring somebody's file into the project; a pipe would never end."""
    place = template / TOP / "odd"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        (tmp_path / "secret").write_text("secret")
        place.symlink_to(tmp_path / "secret" if kind == "file" else tmp_path)

    error = refuse(template, code=2)

    assert "/odd' in " in error
    assert ("is no ordinary file" if kind == "pipe" else "is a symbolic link") in error


@pytest.mark.parametrize("name", ["../up.txt", "/tmp/up.txt", "a\\..\\up.txt", "link"])
def test_an_archive_that_writes_elsewhere_is_refused(refuse, template, tmp_path, name):
    """Before anything of it is unpacked."""
    archive = zipped(template, tmp_path / "teas.zip")
    with zipfile.ZipFile(archive, "a") as packed:
        entry = zipfile.ZipInfo(name)
        if name == "link":
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(entry, "/etc/passwd")

    error = refuse(archive, code=2)

    assert "is a symbolic link" in error or "leads out of it" in error
    assert not (tmp_path / "up.txt").exists()


def test_what_git_would_run_is_not_copied(new, template, here):
    """A template that brings a repository of its own brings that repository's hooks, too."""
    write(template, FILES | {f"{TOP}/.git/hooks/post-checkout": "#!/bin/sh\ntouch ran\n"})

    made = new(template)

    assert made.returncode == 0
    assert not (here / "tea-room/.git").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--set", "colour=gren"), "colour cannot be 'gren'\n  did you mean green? "),
        (("--set", "colur=red"), "the template has no variable 'colur'\n  did you mean colour? "),
        (("--set", "_private=x"), "the template has no variable '_private'"),
        (("--set", "colour"), "--set 'colour' has no value"),
        (("--set", "web=perhaps"), "web cannot be 'perhaps'\n  it is yes or no"),
        (("--set", b"slug=\xff"), "slug='\\udcff' is no text"),
        (("--docker",), "--docker is for our own templates"),
        (("--checkout", "main"), "TEMPLATE is no git repository"),
        (("--directory", "../x"), "--directory '../x' leads out of the template"),
        (("--directory", "web"), "TEMPLATE has no folder 'web'"),
    ],
)
def test_a_flag_that_does_not_fit_is_a_usage_error(refuse, template, flags, sentence):
    """Exit 2, why, and what there is."""
    error = refuse(template, *flags, code=2)

    assert error.replace(str(template), "TEMPLATE").startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("cookiecutter.json", "{", "the cookiecutter.json of TEMPLATE cannot be read: "),
        ("cookiecutter.json", "[]", "the cookiecutter.json of TEMPLATE cannot be read: it is not"),
        ("cookiecutter.json", "[" * 100_000, "the cookiecutter.json of TEMPLATE cannot be read: "),
        (f"{TOP}/a.txt", "{{ cookiecutter.nope }}", "the template TEMPLATE failed: Unable to"),
        (f"{TOP}/a.txt", "\n{% if %}", "the template TEMPLATE failed: Expected an expression"),
        (f"{TOP}/a.txt", "{{ 1 // 0 }}", "the template TEMPLATE failed: integer "),
        (f"{TOP}/{{{{cookiecutter.nope}}}}", "", "the template TEMPLATE failed: "),
        (f"{TOP}/{'a' * 200}{{{{'a' * 99}}}}", "", "cannot write in "),
    ],
)
def test_a_template_that_is_broken_gets_a_sentence(refuse, template, path, text, sentence):
    """Its author's mistake is no traceback of ours, and nothing is made."""
    (template / path).write_text(text)

    error = refuse(template).replace(str(template), "TEMPLATE")

    assert error.startswith(f"error: {sentence}")
    assert len(error.splitlines()) == 2


@pytest.mark.parametrize("missing", ["cookiecutter.json", "top"])
def test_what_is_no_template_is_refused(refuse, template, missing):
    """A folder that has something else in it is told from a template."""
    if missing == "top":
        (template / TOP).rename(template / "plain")
    else:
        (template / missing).unlink()

    error = refuse(template, code=2)

    assert f"{template} has " in error


@pytest.mark.parametrize(
    ("place", "code", "sentence"),
    [
        ("./nope", 2, "there is no template at "),
        ("nope.zip", 2, "there is no template at "),
        ("https://ann:sesame@[::1/teas.git", 2, "[::1/teas.git is no address of a template"),
        ("http://127.0.0.1:1/teas.zip", 1, "cannot get http://127.0.0.1:1/teas.zip: "),
        ("http://ann:secret@127.0.0.1:1/teas", 1, "cannot get http://127.0.0.1:1/teas: "),
        ("file:///nope/teas.git", 1, "cannot get file:///nope/teas.git: "),
        ("chta", 2, "there is no template 'chta'\n  did you mean chat? "),
    ],
)
def test_a_place_where_nothing_is_gets_a_sentence(refuse, place, code, sentence):
    """Whether the network is down or a letter is wrong; no password is shown."""
    error = refuse(place, code=code)

    assert f"error: {sentence}" in error
    assert "secret" not in error


def test_a_file_that_is_no_archive_gets_a_sentence(refuse, tmp_path):
    """Its name promised one."""
    (tmp_path / "teas.zip").write_text("no archive")

    assert f"error: cannot unpack {tmp_path}/teas.zip: File is not a zip file\n" in refuse(
        tmp_path / "teas.zip"
    )


def test_without_git_a_repository_gets_a_sentence(refuse, repository, tmp_path):
    """And another way to give the template."""
    error = refuse(repository, PATH=str(tmp_path / "nothing"))

    assert f"error: {repository} is a git repository, and git is not installed\n" in error


def test_a_commit_that_is_not_there_gets_a_sentence(refuse, repository):
    """The reference is named beside the repository."""
    assert f"error: cannot get 'v9' of {repository}: " in refuse(repository, "--checkout", "v9")


def test_a_reference_is_no_option_of_git(refuse, repository):
    """What begins with a hyphen would be one."""
    error = refuse(repository, "--checkout=--orphan", code=2)

    assert "'--orphan' is no branch, tag or commit" in error


def test_cookiecutter_s_own_settings_and_replays_stay_out(new, template, tmp_path, contents):
    """They are neither read nor written, for these templates either."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".cookiecutterrc").write_text("default_context: {colour: green}\n")
    before = contents(home)

    made = new(template, HOME=str(home), COOKIECUTTER_CONFIG=str(home / ".cookiecutterrc"))

    assert "--set colour=red" in made.stdout
    assert contents(home) == before


def test_on_a_terminal_the_variables_are_asked_for(terminal, template, tmp_path):
    """One after the other, checked as they are answered; what was given is not asked."""
    person = terminal("new", "tea-room", "--template", str(template), "--set", "web=no", "--no-git")
    person.expect("slug (tea_room): ")
    person.type("{{ 7*7 }}\n")
    person.expect("colour [red, green] (red): ")
    person.type("gren\n")
    person.expect("did you mean green?")
    person.expect("colour [red, green] (red): ")
    person.type("green\n")
    code, shown = person.end()

    assert code == 0
    assert "web" not in shown.partition("Created")[0]
    assert (tmp_path / "tea-room/README.md").read_text() == "Tea Room is GREEN\n"
    assert "--set 'slug={{ 7*7 }}'" in shown


def test_ctrl_c_at_a_question_leaves_nothing(terminal, template, tmp_path):
    """The copy of the template goes, too."""
    person = terminal("new", "tea-room", "--template", str(template))
    person.expect("slug (tea_room): ")
    person.interrupt()
    code, shown = person.end()

    assert (code, shown.splitlines()[-1]) == (130, "error: interrupted; nothing was made")
    assert [path.name for path in tmp_path.iterdir()] == ["teas"]
