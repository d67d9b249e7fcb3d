"""The reference of several processes in tests: as the code has it."""

import inspect
import re

import pytest

from falcon_pachinko import testing

PAGE = "docs/reference/testing.md"


@pytest.mark.parametrize("name", ["cluster", "VirtualClock"])
def test_a_signature_is_that_of_the_code(name, pages):
    """With every argument and its default."""
    (block,) = (b for b in pages[PAGE].blocks if (b.marker, b.source) == ("testing", name))
    written = re.sub(r"\s+", " ", block.text).replace("( ", "(").replace(", )", ")").strip()
    signature = inspect.signature(getattr(testing, name))
    if inspect.isclass(getattr(testing, name)):
        signature = signature.replace(return_annotation=inspect.Signature.empty)

    assert written == f"{name}{signature}".replace("'", "")


@pytest.mark.parametrize("name", ["Cluster", "ClusterNode"])
def test_the_table_has_what_a_user_calls(name, pages):
    """Every public name of the class that is its own."""
    page = pages[PAGE]
    table = " ".join(row[0] for row in page.table(name))
    public = [each for each in vars(getattr(testing, name)) if not each.startswith("_")]
    assert public
    for each in public:
        assert re.search(rf"\b{each}\b", table), each


def test_the_backends_methods_are_there(pages):
    """Those that a test calls."""
    table = " ".join(row[0] for row in pages[PAGE].table("Cluster"))

    for each in vars(testing.ClusterBackend):
        assert each.startswith("_") or f"backend.{each}(" in table
