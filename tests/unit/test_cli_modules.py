"""What a module inside a project may be called."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pachinko_cli.errors import CliError
from pachinko_cli.modules import ModuleName, class_name, first_free, module_name, snake_case


@pytest.mark.parametrize(
    ("typed", "module"),
    [
        ("notes", "notes"),
        ("tea-party", "tea_party"),
        ("Tea Party", "tea_party"),
        ("TeaParty", "tea_party"),
        ("HTTPStatus2", "http_status2"),
        (" _notes_ ", "notes"),
        ("json", "json"),
        ("a" * 64, "a" * 64),
    ],
)
def test_a_name_becomes_a_module(typed, module):
    """However its words are joined; one of the standard library's does no harm in a package."""
    assert module_name(typed, "add-resource") == ModuleName(module)


def test_the_other_names_follow():
    """The class, the path and the title."""
    name = ModuleName("tea_party2")

    assert (name.class_name, name.slug, name.title) == ("TeaParty2", "tea-party2", "Tea party2")


UNUSABLE = (
    *("", " ", "--", "class", "True", "match", "type", "1a", "CON", "lpt1"),
    *("../x", "/tmp/x", "a\\b", ".", "..", "a.b", "notes.py"),
    *("caf\u00e9", "\u0442\u0435\u0430", "\uff54\uff45\uff41", "a\nb", "tea\x1b[31m"),
    *("{{ 7*7 }}", "$(touch x)", "'", '"', "[/red]", "x" * 65, "x" * 10_240, "aB" * 32),
)


@pytest.mark.parametrize("typed", UNUSABLE)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(typed):
    """Exit 2, one sentence, and a command that works."""
    with pytest.raises(CliError) as refused:
        module_name(typed, "add-worker")

    assert refused.value.exit_code == 2
    assert len(refused.value.message) < 200
    assert module_name(refused.value.hint.removeprefix("try: pachinko add-worker "), "")


@given(st.text(max_size=80))
def test_whatever_is_typed_is_a_module_or_a_refusal(typed):
    """And a module is an identifier in ASCII and lower case, and so is its class."""
    try:
        name = module_name(typed, "add-resource")
    except CliError as refused:
        module_name(refused.hint.removeprefix("try: pachinko add-resource "), "")
        return

    assert name.module.isidentifier()
    assert name.module.isascii()
    assert name.module == name.module.lower()
    assert name.class_name.isidentifier()


@pytest.mark.parametrize("module", sorted(sys.stdlib_module_names)[::40])
def test_snake_case_leaves_a_module_as_it_is(module):
    """What is joined by underscores already."""
    assert snake_case(module.lower().strip("_")) == module.lower().strip("_")


def test_the_first_name_that_is_free_is_taken():
    """Builtins are never free; the last one is for want of a better."""
    assert first_free("list", "ours", "mine", taken=frozenset({"ours"})) == "mine"
    assert first_free("list", taken=frozenset()) == "list"
    assert class_name("value_error") == "ValueError"
