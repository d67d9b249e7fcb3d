"""The explanation of the architecture: its pictures and its names are those of the code."""

import importlib
import re

import pytest

PAGE = "docs/explanation/architecture.md"


@pytest.mark.parametrize("contract_id", ["library-floors", "cli-floors"])
def test_the_floors_are_those_that_imports_are_held_to(contract_id, pages, settings):
    """The picture has the modules of the contract, floor by floor, from the top."""
    contract = next(
        each for each in settings["tool"]["importlinter"]["contracts"] if each["id"] == contract_id
    )
    floors = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]

    assert [set(floor) for _, floor in drawn(pages[PAGE], contract_id)] == floors


def test_the_floors_have_the_names_of_the_contract(pages, settings):
    """Tools, doors and so on are called the same in both places."""
    contract = settings["tool"]["importlinter"]["contracts"][0]
    names = [name for name, _ in drawn(pages[PAGE], "library-floors")]

    assert contract["name"] == f"falcon_pachinko: {', '.join(names)}"


def drawn(page, contract_id):
    """Read a picture of floors: each one's name, where it has one, and its modules."""
    (block,) = (b for b in page.blocks if (b.marker, b.source) == ("floors", contract_id))
    for line in block.text.splitlines():
        words = line.split()
        named = contract_id == "library-floors"
        yield (words[0], words[1:]) if named else ("", words)


def test_every_name_of_the_code_is_there(pages, root):
    """What the page calls `session.Session.serve` and the like can be imported."""
    modules = {path.stem for path in (root / "falcon_pachinko").glob("*.py")}
    names = re.findall(r"`(\w+)((?:\.\w+)+)`", pages[PAGE].prose)
    ours = [(module, path[1:].split(".")) for module, path in names if module in modules]

    assert ours
    for module, path in ours:
        found = importlib.import_module(f"falcon_pachinko.{module}")
        for name in path:
            found = getattr(found, name)


def test_every_name_of_the_journey_is_there(pages, root):
    """What the pictures call `Session._run` and the like is a class of ours that has it."""
    pictures = [b.text for b in pages[PAGE].blocks if b.language == "text" and not b.marker]
    modules = [path.stem for path in (root / "falcon_pachinko").glob("[a-z]*.py")]
    classes = {
        name: member
        for module in modules
        for name, member in vars(importlib.import_module(f"falcon_pachinko.{module}")).items()
        if isinstance(member, type)
    }
    named = re.findall(r"\b([A-Z]\w+)\.(\w+)", "\n".join(pictures))

    assert named
    for name, attribute in named:
        assert hasattr(classes[name], attribute), f"{name}.{attribute}"


def test_every_limit_is_a_field(page):
    """`Limits.outbox_bytes` and the like are fields of `Limits`, on every page."""
    limits = importlib.import_module("falcon_pachinko").Limits
    for name in re.findall(r"`Limits\.(\w+)`", page.prose):
        assert hasattr(limits, name), name
