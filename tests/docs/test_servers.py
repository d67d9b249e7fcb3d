"""The page on servers promises nothing that no test looks at."""

import re
from pathlib import Path

from asgi_servers import ALL

PAGE = "docs/reference/servers.md"
TESTS = Path(__file__).parents[1] / "live" / "test_servers.py"


def test_every_row_of_the_table_is_read_by_a_test(pages):
    """The tests of the live ring take what they expect from the cells of the table."""
    titles = [row[0] for row in pages[PAGE].table("servers")]
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", each).replace("`", "") for each in titles]
    source = TESTS.read_text("utf-8")

    assert [each for each in plain if each not in source] == []
    assert len(set(plain)) >= 20


def test_every_column_of_the_table_is_a_server_of_the_tests(pages):
    """Neither has more than the other, and they stand in one order."""
    head = next(line for line in pages[PAGE].text.splitlines() if line.startswith("| |"))
    columns = [cell.strip() for cell in head.split("|")[2:-1]]
    kinds = [re.sub(r"^uvicorn, |`", "", each).lower() for each in columns]

    assert kinds == [each.values[0] for each in ALL]
