"""The changelog has one line for each change that a user notices, so that it can be read before an update."""

from pathlib import Path

CHANGELOG = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
LONGEST = 120


def test_each_change_is_one_line() -> None:
    lines = [line for line in CHANGELOG.partition("\n## [Unreleased]\n")[2].splitlines() if line]
    assert any(line.startswith("- ") for line in lines)
    assert [line for line in lines if not line.startswith(("- ", "## ", "### ", "#### ")) or len(line) > LONGEST] == []


def test_no_change_is_told_twice() -> None:
    changes = [line for line in CHANGELOG.splitlines() if line.startswith("- ")]
    assert len(changes) == len(set(changes))
