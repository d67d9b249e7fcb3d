"""The documentation's ring: its pages, taken apart, and its examples, run for real."""

import contextlib
import dataclasses
import importlib.util
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import falcon.asgi
import pytest

from falcon_pachinko import install

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(r"<!-- (\w+): (.+) -->\n\Z")
_TABLE = re.compile(r"^<!-- table: (.+) -->\n((?:\|.*\n?)+)", re.MULTILINE)
_REGION = re.compile(
    r"^ *(?:#|//) region: ([\w-]+)\n(.*?)^ *(?:#|//) endregion$", re.DOTALL | re.MULTILINE
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page, and the comment right before it that says what it is."""

    place: str
    language: str
    text: str
    marker: str
    """What the comment declares: ``example``, ``transcript``, or nothing."""
    source: str
    """What it names: a file under ``docs/examples``, with a region or a path behind it."""


@dataclasses.dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def blocks(self) -> list[Block]:
        """All fenced blocks, in order."""
        return [self._block(fence) for fence in _FENCE.finditer(self.text)]

    @property
    def prose(self) -> str:
        """The text without the fenced blocks."""
        return _FENCE.sub("", self.text)

    def table(self, name: str) -> list[list[str]]:
        """The rows of the table that stands below ``<!-- table: name -->``, without its head."""
        (lines,) = (body for called, body in _TABLE.findall(self.text) if called == name)
        rows = [line.strip("|").split("|") for line in lines.splitlines()]
        return [[cell.strip() for cell in row] for row in rows[2:]]

    def _block(self, fence: re.Match[str]) -> Block:
        before = self.text[: fence.start()]
        marker = _MARKER.search(before)
        place = f"{self.name}:{before.count(chr(10)) + 1}"
        return Block(place, fence[1], fence[2], *(marker.groups() if marker else ("", "")))


def _read_pages() -> dict[str, Page]:
    paths = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    pages = [Page(path, path.read_text("utf-8")) for path in sorted(paths)]
    return {page.name: page for page in pages}


PAGES = _read_pages()
BLOCKS = [block for page in PAGES.values() for block in page.blocks]
NAMES = [
    path.relative_to(EXAMPLES).as_posix()
    for path in sorted([*EXAMPLES.rglob("*.py"), *EXAMPLES.rglob("*.js")])
]
ON_CONNECT = PAGES["docs/reference/lifecycle.md"].table("on_connect")


def pytest_generate_tests(metafunc):
    """Run a test once for each page, block, row or example, if it asks for one."""
    for argument, values, ids in (
        ("page", list(PAGES.values()), list(PAGES)),
        ("block", BLOCKS, [block.place for block in BLOCKS]),
        *(
            (each, found, [block.place for block in found])
            for each in ("example", "signature", "transcript")
            for found in [[block for block in BLOCKS if block.marker == each]]
        ),
        ("example_name", NAMES, NAMES),
        ("on_connect_row", ON_CONNECT, [row[0] for row in ON_CONNECT]),
    ):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, values, ids=ids)


@pytest.fixture(scope="session")
def pages():
    """Give the pages by their names."""
    return PAGES


@pytest.fixture(scope="session")
def examples():
    """Give the folder of the examples."""
    return EXAMPLES


@pytest.fixture(scope="session")
def root():
    """Give the folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def settings():
    """Give what stands in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="session")
def region():
    """Read an example, or the region of it that stands behind a ``#``, without its indent."""

    def read(source: str) -> str:
        path, _, wanted = source.partition("#")
        text = (EXAMPLES / path).read_text("utf-8")
        return dedent(dict(_REGION.findall(text))[wanted]).strip("\n") + "\n" if wanted else text

    return read


@pytest.fixture(scope="session")
def load():
    """Import an example as a new module, whose app nobody else has."""
    numbers = itertools.count()

    def import_anew(path: str):
        spec = importlib.util.spec_from_file_location(
            f"docs_example_{next(numbers)}", EXAMPLES / path
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return import_anew


@pytest.fixture(scope="session")
def serve():
    """Make an app with one resource at the root path."""

    def make(resource, *, limits=None, authenticate=None, **init_kwargs):
        app = falcon.asgi.App()
        install(app, limits=limits, authenticate=authenticate)
        app.add_websocket_route("/", resource, **init_kwargs)
        return app

    return make


@pytest.fixture
def uvicorn(tmp_path):
    """Start ``uvicorn module:app`` in the test's own folder; give the server's address."""
    with contextlib.ExitStack() as stack:

        def start(app):
            process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", app, "--port", "0"],
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            said = ""
            for line in process.stderr:
                if running := re.search(r"running on http://([\w.:]+)", line):
                    return running[1]
                said += line
            raise AssertionError(said)

        yield start
