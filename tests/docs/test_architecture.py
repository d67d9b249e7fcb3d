"""The explanation of the architecture: its pictures and its names are those of the code."""

import importlib
import pkgutil
import re

import pytest

import falcon_pachinko

PAGE = "docs/explanation/architecture.md"
MODULES = [
    module.name.removeprefix("falcon_pachinko.")
    for module in pkgutil.walk_packages(falcon_pachinko.__path__, "falcon_pachinko.")
    if not module.name.startswith("falcon_pachinko.testing")
]
"""The library's modules, below `falcon_pachinko`, but for what tests use."""


@pytest.mark.parametrize("contract_id", ["library-floors", "cli-floors"])
def test_the_floors_are_those_that_imports_are_held_to(contract_id, pages, settings):
    """The picture has the modules of the contract, floor by floor, from the top."""
    (picture,) = (b for b in pages[PAGE].blocks if (b.marker, b.source) == ("floors", contract_id))
    drawn = [set(line.split()) for line in picture.text.splitlines()]

    assert drawn == floors(settings, contract_id)


def floors(settings, contract_id):
    """Read a contract of pyproject.toml: the modules of each floor, from the top."""
    contracts = settings["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each["id"] == contract_id)
    return [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]


def test_the_tree_has_every_folder_and_every_module_beside_them(pages, root):
    """A newcomer finds the place for a question; what a folder holds is in the folder."""
    (tree,) = (block for block in pages[PAGE].blocks if block.marker == "tree")
    drawn = re.findall(r"^[├└]── (\S+)", tree.text, re.MULTILINE)
    package = root / tree.source
    there = [path.name for path in package.glob("[a-z]*.py")]
    there += [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]

    assert sorted(drawn) == sorted(there)


def test_the_stages_of_a_connection_are_those_of_the_code(pages):
    """Which stage may follow which is drawn once, and written once in the code."""
    (picture,) = (block for block in pages[PAGE].blocks if block.marker == "stages")
    code = pkgutil.resolve_name(f"falcon_pachinko.{picture.source}")
    drawn = {stage: set() for stage in code.Stage}
    for line in picture.text.splitlines():
        first, _, after = line.partition("──▶")
        following = {code.Stage[each.upper()] for each in after.split()}
        drawn[code.Stage[first.strip().upper()]] = following

    assert drawn == code.NEXT


def test_every_name_of_the_code_is_there(pages):
    """What the page calls `session.session.Session.serve` and the like can be imported."""
    packages = {path.partition(".")[0] for path in MODULES}
    names = re.findall(r"`(\w+(?:\.\w+)+)`", pages[PAGE].prose)
    ours = [name for name in names if name.partition(".")[0] in packages]

    assert ours
    for name in ours:
        assert pkgutil.resolve_name(f"falcon_pachinko.{name}")


def test_every_name_of_the_journey_is_there(pages):
    """What the pictures call `Session._run` and the like is a class of ours that has it."""
    pictures = [b.text for b in pages[PAGE].blocks if b.language == "text" and not b.marker]
    classes = {
        name: member
        for module in MODULES
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
