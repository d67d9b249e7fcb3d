"""The reference of the public API: complete, and as the code has it."""

import inspect
import re

import pytest

import falcon_pachinko
from falcon_pachinko import to

PAGE = "docs/reference/public-api.md"

WIDTH = 100

NOT_CALLED = (
    *("Backend", "Connection", "Hook", "Lease", "Pachinko", "Target", "WebSocketResource"),
    "Worker",
)
"""Classes that the library makes, or that one derives from."""


def signature_of(name):
    """Write a public name as its signature, over several lines if it is long."""
    found = getattr(falcon_pachinko, name)
    if inspect.ismodule(found):
        return f"from falcon_pachinko import {name}\n"
    if name in NOT_CALLED:
        return f"class {name}\n"
    signature = inspect.signature(found)
    parameters = list(annotated(signature))
    returns = "" if inspect.isclass(found) else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) > WIDTH:
        line = f"{name}(\n    " + ",\n    ".join(parameters) + f",\n){returns}"
    return f"{line}\n"


def annotated(signature):
    """Write parameters as the source has them, with the bars before and after them."""
    seen = None
    for parameter in signature.parameters.values():
        kind = parameter.kind
        if seen is kind.POSITIONAL_ONLY and kind is not seen:
            yield "/"
        if kind is kind.KEYWORD_ONLY and seen not in (kind.KEYWORD_ONLY, kind.VAR_POSITIONAL):
            yield "*"
        text = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
        if parameter.annotation is not parameter.empty:
            text += f": {written(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            spaced = " = " if parameter.annotation is not parameter.empty else "="
            default = repr(parameter.default)
            text += f"{spaced}{'...' if ' object at 0x' in default else default}"
        seen = kind
        yield text.replace("'", '"')


def written(annotation):
    """Write an annotation as the source has it."""
    annotation = getattr(annotation, "__forward_arg__", annotation)  # as NamedTuple has them
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def called(owner, name):
    """Write a member of a class as one calls it: without ``self``, without annotations."""
    found = inspect.getattr_static(owner, name)
    found = getattr(found, "__func__", found)  # of a class method
    if not inspect.isfunction(found):
        return f"`{name}`"
    signature = inspect.signature(found)
    given = [
        each.replace(annotation=each.empty) for each in list(signature.parameters.values())[1:]
    ]
    bare = signature.replace(parameters=given, return_annotation=signature.empty)
    keyword = "await " if inspect.iscoroutinefunction(found) else ""
    if inspect.isasyncgenfunction(found):
        keyword = "async for ... in "
    return f"`{keyword}{name}{bare}`".replace("'", '"')


def first_line(documented):
    """Give what a docstring says first, with its literals as Markdown has them."""
    return inspect.cleandoc(documented.__doc__).splitlines()[0].replace("``", "`")


def test_every_name_has_its_place(pages):
    """What `falcon_pachinko` exports is on this page, or in the tree of the errors."""
    here = re.findall(r"^### `(\w+)`$", pages[PAGE].prose, re.MULTILINE)
    errors = pages["docs/reference/errors.md"]
    (tree,) = (block for block in errors.blocks if block.marker == "exceptions")
    there = re.findall(r"^[│├└─ ]*(\w+)", tree.text, re.MULTILINE)

    assert sorted({*here, *there}) == falcon_pachinko.__all__


def test_a_signature_is_that_of_the_code(signature):
    """A block names what it is the signature of, and equals it."""
    assert signature.text == signature_of(signature.source)


def test_every_name_has_its_signature_and_its_line(pages):
    """Under its heading stands the signature, then what its docstring says first."""
    page = pages[PAGE]
    for name in re.findall(r"^### `(\w+)`$", page.prose, re.MULTILINE):
        _, _, below = page.text.partition(
            f"### `{name}`\n\n<!-- signature: {name} -->\n```python\n"
        )
        found = getattr(falcon_pachinko, name)
        line = below.partition("```\n\n")[2].partition("\n\n")[0].replace("\n", " ")

        assert inspect.ismodule(found) or line.startswith(first_line(found)), name


def test_a_target_is_called_as_its_row_says(pages):
    """A row of the table has the function's parameters and its docstring's first line."""
    named = {
        f"`to.{name}({', '.join(inspect.signature(found).parameters)})`": first_line(found)
        for name, found in vars(to).items()
        if name in to.__all__ and inspect.isfunction(found) and found is not to.check_target
    }

    rows = dict(pages[PAGE].table("to"))
    assert rows == named | {"`to.everyone`": "Every connection."}


@pytest.mark.parametrize(
    "owner",
    [
        "WebSocketResource",
        "Connection",
        "WebSocketConnectionManager",
        "Pachinko",
        "Hook",
        "WorkerController",
        "WebSocketRouter",
        "Publisher",
    ],
)
def test_a_member_is_called_as_its_row_says(pages, owner):
    """A row of a class's table has the member as one calls it, and its docstring's first line."""
    found = getattr(falcon_pachinko, owner)
    rows = pages[PAGE].table(owner)

    assert rows
    for call, line in rows:
        name = re.search(r"(\w+)(?:\(|`)", call.removeprefix("`async for ... in ")).group(1)
        assert call == called(found, name)
        assert line == first_line(inspect.getattr_static(found, name)), name
