"""What a project may be called."""

import keyword
import re
import sys
from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from pachinko_cli.errors import NameRefusedError
from pachinko_cli.names import DEVICES, LONGEST, TAKEN, project_name, suggestion

WORDS = st.from_regex(r"[A-Za-z0-9 _\-]{1,70}", fullmatch=True)


@pytest.mark.parametrize(
    ("typed", "forms"),
    [
        ("tea-room", ("Tea Room", "tea-room", "tea_room")),
        ("tea_room", ("Tea Room", "tea-room", "tea_room")),
        ("Tea Room", ("Tea Room", "tea-room", "tea_room")),
        ("TeaRoom", ("TeaRoom", "tearoom", "tearoom")),
        ("  -tea - room_ ", ("Tea Room", "tea-room", "tea_room")),
        ("Route 66", ("Route 66", "route-66", "route_66")),
        ("x" * LONGEST, ("X" + "x" * (LONGEST - 1), "x" * LONGEST, "x" * LONGEST)),
    ],
)
def test_a_name_has_three_forms(typed, forms):
    """One for people, one for the folder and the distribution, one for Python."""
    name = project_name(typed)

    assert (name.title, name.slug, name.package) == forms


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("class", "class-app"),
        ("json", "json-app"),
        ("../x", "x"),
        ("/srv/ann/Tea Room/", "tea-room"),
        ("1a", "app-1a"),
        ("", "tea-room"),
        ("...", "tea-room"),
        ("Café Zoë", "cafe-zoe"),
        ("茶", "tea-room"),
        ("\uff54\uff45\uff41", "tea"),  # full-width letters
        ("tea.room", "tea-room"),
        ("falcon", "falcon-app"),
        ("nul", "nul-app"),
        ("y" * 10_240, "y" * (LONGEST - 4)),
    ],
)
def test_a_refusal_suggests_a_name_near_it(typed, near):
    """What was meant is kept where it can be, and a plain name is offered where nothing is left."""
    with pytest.raises(NameRefusedError) as refused:
        project_name(typed)

    assert refused.value.suggestion == near


@given(st.text())
def test_every_suggestion_is_a_name_that_works(text):
    """Whatever was typed, what is offered instead is accepted, and is its own slug."""
    offered = suggestion(text)

    assert project_name(offered).slug == offered


@given(WORDS | st.text())
def test_an_accepted_name_is_safe_wherever_it_lands(text):
    """A folder, a distribution, a module, and words that mean nothing to TOML, HTML or Markdown."""
    try:
        name = project_name(text)
    except NameRefusedError:
        return

    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name.slug)
    assert re.fullmatch(r"[A-Za-z0-9]+( [A-Za-z0-9]+)*", name.title)
    assert name.package.isidentifier()
    assert not keyword.iskeyword(name.package)
    assert name.package not in sys.stdlib_module_names
    assert len(name.slug) <= LONGEST


@given(WORDS)
def test_a_slug_and_a_title_are_names_of_the_same_project(text):
    """Either can be typed again for the same folder and the same package."""
    try:
        name = project_name(text)
    except NameRefusedError:
        return

    assert project_name(name.title) == name
    assert project_name(name.slug).package == name.package


@given(st.text(min_size=200))
def test_a_refusal_never_repeats_all_of_a_long_name(text):
    """However long the name, the message is a line that can be read."""
    with pytest.raises(NameRefusedError) as refused:
        project_name(f"!{text}")

    assert len(refused.value.message) < 600
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("word", sorted({*keyword.kwlist, *keyword.softkwlist} - {"_"}))
def test_no_keyword_is_a_name(word):
    """Soft keywords and the capitalised ones are refused with the rest."""
    with pytest.raises(NameRefusedError, match="keyword"):
        project_name(word)


CORPUS = {
    "keywords": keyword.kwlist,
    "the standard library": sorted(name for name in sys.stdlib_module_names if name[0] != "_"),
    "what a project installs": sorted(TAKEN),
    "devices": sorted(DEVICES | {"COM1", "Nul", "con ", "com\u00b9"}),
    "paths": [
        "..",
        "../x",
        "/",
        "/x",
        "a/b",
        "a\\b",
        "C:x",
        "C:\\x",
        "~",
        "~/x",
        ".x",
        "x/",
        "./x",
    ],
    "look-alikes": [
        "\u0442\u0435\u0430",
        "te\u0430",
        "\uff54\uff45\uff41",
        "te\u0301a",
        "\u212aa",
        "t\u200bea",
    ],
    "template marks": [
        "{{ 7*7 }}",
        "{{7*7}}",
        "{% raw %}",
        "{# x #}",
        "{{cookiecutter.x}}",
        "${x}",
    ],
    "quotes": ["'", '"', "a'b", 'a"b', '"""', "`x`", "a\\'b", "x'); import os; ('", "]]>", "<x>"],
    "control characters": [
        "a\nb",
        "a\r\nb",
        "a\tb",
        "a\0b",
        "a\x1b[31m",
        "\u202ea",
        "\x7f",
        "\udcff",
    ],
    "lengths": ["x" * 65, "x" * 10_240, "\n" * 10_240, "{{" * 5_120, "\U0001f375" * 10_240],
}


@pytest.mark.parametrize("kind", CORPUS)
def test_no_name_of_the_corpus_is_accepted_and_each_is_answered_with_one_that_is(kind):
    """One printable sentence why, and a name that works."""
    for name in CORPUS[kind]:
        with pytest.raises(NameRefusedError) as refused:
            project_name(name)

        offered = refused.value.suggestion
        assert project_name(offered).slug == offered
        assert refused.value.message.isprintable()
        assert len(refused.value.message) < 400


def test_every_package_that_a_project_installs_is_taken():
    """A project called like something that it requires would hide it from itself."""
    required = Requirement("falcon-pachinko[cli,nats,redis,testing]")
    tools = [Requirement(tool) for tool in ("coverage[toml]", "mypy", "ruff")]
    installed = {name for each in everything_for([required, *tools]) for name in modules_of(each)}

    assert {"falcon", "msgspec", "uvicorn", "websockets", "mypy"} <= installed
    assert installed - TAKEN == set()


def everything_for(requirements):
    """The distributions that the requirements lead to, as far as they are installed here."""
    waiting, seen = list(requirements), set()
    while waiting:
        requirement = waiting.pop()
        for extra in requirement.extras or {""}:
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            try:
                distribution = metadata.distribution(requirement.name)
            except metadata.PackageNotFoundError:  # an extra that nobody installed here
                continue
            yield distribution
            for text in distribution.requires or ():
                following = Requirement(text)
                if not following.marker or following.marker.evaluate({"extra": extra}):
                    waiting.append(following)


def modules_of(distribution):
    """The top-level names that a distribution puts where projects import from."""
    top = {file.parts[0].removesuffix(".py") for file in distribution.files or ()}
    return {name for name in top if name.isidentifier() and not name.startswith("_")}
