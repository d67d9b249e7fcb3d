"""Code as users write it passes a strict type checker, and their mistakes do not."""

from pathlib import Path

import mypy.api
import pytest

HERE = Path(__file__).parent


@pytest.fixture
def check(tmp_path_factory, monkeypatch):
    """Run mypy as a user would: strict, and outside of this project's configuration."""
    monkeypatch.chdir(tmp_path_factory.mktemp("user"))
    cache = tmp_path_factory.getbasetemp().parent / "mypy-cache"

    def run(path):
        options = ["--strict", "--config-file=", f"--cache-dir={cache}", "--no-error-summary"]
        report, trouble, _ = mypy.api.run([*options, str(path)])
        return report + trouble

    return run


def test_an_application_passes_mypy_strict(check):
    """Not one cast, and each ``type: ignore`` stands where a mistake is."""
    assert check(HERE / "user_code.py") == ""


def test_the_check_finds_mistakes(check, tmp_path):
    """Without the ignores each line of theirs is reported: the check above can fail."""
    code = (HERE / "user_code.py").read_text()
    lines = code.splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if "# type: ignore" in line}
    careless = tmp_path / "careless.py"
    careless.write_text("\n".join(line.partition("  # type: ignore")[0] for line in lines))

    reported = {
        int(line.split(":")[1]) for line in check(careless).splitlines() if ": error:" in line
    }

    assert reported == wrong
    assert len(wrong) == 15
