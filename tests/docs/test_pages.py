"""What the pages show is what the files say, and what they point at is there."""

import re
from pathlib import Path

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def slug(heading):
    """Make a heading's anchor as GitHub does."""
    words = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", ""))
    return words.replace(" ", "-")


def test_a_block_says_what_it_is(block):
    """Python is an example, what clients send and receive is a transcript: so all of it runs."""
    is_exchange = re.search(r"^((\w+ )?[<>]|\w+ connects to) ", block.text, re.MULTILINE)
    picture = {"", "acl", "exceptions", "floors", "log", "stages", "tree"}
    allowed = {
        "js": {"example"},
        "python": {"example", "signature", "testing"},
        "sh": {""},
        "text": {"transcript"} if is_exchange else picture,
    }

    assert block.marker in allowed[block.language]


def test_an_example_is_shown_as_its_file_has_it(example, region):
    """A block of Python equals the file under docs/examples that it names, or a region of it."""
    assert example.text == region(example.source)


def test_every_example_is_shown_by_a_page(example_name, pages):
    """A file that no page shows would be an example of nothing."""
    shown = {
        block.source.partition("#")[0]
        for page in pages.values()
        for block in page.blocks
        if block.marker == "example"
    }

    assert example_name in shown


def test_every_link_leads_somewhere(page, pages, root):
    """A relative link names a file of the project, and an anchor a heading of its page."""
    for link in _LINK.findall(page.prose):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), link
        if anchor:
            there = pages[path.relative_to(root).as_posix()]
            assert anchor in map(slug, _HEADING.findall(there.prose)), link


def test_every_page_can_be_found_from_the_map(pages, root):
    """docs/index.md names each page below it."""
    index = pages["docs/index.md"]
    linked = {(index.path.parent / link).resolve() for link in _LINK.findall(index.prose)}
    below = {(root / name) for name in pages if name.startswith("docs/")} - {index.path}

    assert below <= linked


def typed(page, command):
    """Give what follows a command wherever a page tells to type it."""
    shell = [block.text for block in page.blocks if block.language == "sh"]
    spans = re.findall(r"`([^`\n]+)`", page.prose)
    return re.findall(rf"\b{command} ([\w-]+)", "\n".join([*shell, *spans]))


def test_every_target_of_make_exists(page, root):
    """What a page tells to make is a target of the Makefile."""
    makefile = (root / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([\w-]+):", makefile, re.MULTILINE)

    assert set(typed(page, "make")) <= set(targets)


def test_every_command_of_pachinko_exists(page, root):
    """What a page tells to run with ``pachinko`` is one of its commands."""
    modules = (root / "pachinko_cli/commands").glob("[!_]*.py")
    commands = {path.stem.replace("_", "-") for path in modules}

    assert set(typed(page, "pachinko")) <= commands


def test_every_extra_exists(page, settings):
    """``falcon-pachinko[...]`` and ``'.[...]'`` name extras that pyproject.toml declares."""
    named = re.findall(r"(?:falcon-pachinko|'\.)\[([\w,]+)\]", page.text)
    extras = {extra for each in named for extra in each.split(",")}

    assert extras <= settings["project"]["optional-dependencies"].keys()


def test_a_page_names_no_file_that_is_not_there(page, root):
    """A path of the project in code type, such as `falcon_pachinko/session.py`, exists."""
    tops = {"falcon_pachinko", "pachinko_cli", "docs", "tests", "templates", "benchmarks"}
    for name in re.findall(r"`([\w./-]+/[\w./-]*)`", page.prose):
        if Path(name).parts[0] in tops:
            assert (root / name).exists(), name
