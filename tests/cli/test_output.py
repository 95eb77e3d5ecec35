"""Tables and lists of facts fit the width that there is, and lose nothing."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from nasdeploy.cli.output import aligned, facts, listing, wrapped

CELLS = st.text(st.sampled_from("abcdefgh 0123.-日本"), max_size=40).map(str.strip)
TABLES = st.integers(1, 7).flatmap(
    lambda columns: st.lists(st.lists(CELLS, min_size=columns, max_size=columns), min_size=1, max_size=5)
)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def letters(*texts: str) -> Counter[str]:
    return Counter("".join("".join(texts).split()))


@given(TABLES, st.integers(0, 7))
def test_a_table_fits_and_loses_nothing(rows: Sequence[Sequence[str]], texts: int) -> None:
    text = listing(rows[0], rows[1:], texts=texts)
    assert max((cell_len(line) for line in text.splitlines()), default=0) <= 80
    assert letters(text) == letters(*(cell for row in rows for cell in row))


@given(st.lists(st.tuples(st.sampled_from(("", "name", "a longer name")), CELLS), max_size=5))
def test_facts_fit_and_lose_nothing_but_names_without_a_text(rows: list[tuple[str, str]]) -> None:
    lines = facts(rows)
    assert letters(*lines) == letters(*(cell for name, text in rows if text for cell in (name, text)))


def test_figures_are_to_the_right_and_texts_to_the_left_without_blanks_at_the_end() -> None:
    assert aligned([["name", "ms"], ["a", "1"], ["bcdef", "10.5"]]) == [
        "name     ms",
        "a         1",
        "bcdef  10.5",
    ]


def test_words_stay_whole_and_figures_on_a_line_while_there_is_room() -> None:
    row = ["one two " * 10, "0.125 +- 0.0625", "123456789012"]
    lines = listing(["what", "a heading of several words", "digest"], [row, row], texts=1).splitlines()
    assert sum("0.125 +- 0.0625" in line and "123456789012" in line for line in lines) == 2


def test_what_is_least_wanted_is_left_out_first_and_named() -> None:
    headings, row = ["network", "first", "second", "third"], ["a" * 30, "1" * 20, "2" * 20, "3" * 20]
    lines = listing(headings, [row], texts=1, optional=("third", "second")).splitlines()
    assert lines[0].split() == ["network", "first", "second"]
    assert lines[2].startswith("(not shown for want of room: third; ")
    assert "third" in listing(headings, [["a", "1", "2", "3"]], texts=1, optional=("third",))


def test_sentences_stand_below_a_table_that_is_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("a", "nothing"), ("b", "one word after the other " * 5)]
    below = listing(("device", "lacks"), rows, below="nothing").splitlines()
    assert [line.strip() for line in below[:5]] == ["device", "a", "b", "", "lacks"]
    assert below[5].startswith("  b  one word after") and max(map(len, below)) <= 80
    monkeypatch.setenv("COLUMNS", "300")
    assert [line.split()[0] for line in listing(("device", "lacks"), rows, below="nothing").splitlines()] == [
        "device",
        "a",
        "b",
    ]


def test_paths_and_commands_are_not_broken() -> None:
    path = "runs/" + "x" * 90
    assert wrapped(f"wrote {path} and continue") == ["wrote", f"  {path}", "  and continue"]


@pytest.mark.parametrize(("terminal", "environment"), [(False, {}), (True, {"NO_COLOR": "1"}), (True, {})])
def test_colours_are_for_terminals_alone(
    terminal: bool, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("nasdeploy.cli.output._is_terminal", lambda: terminal)
    text = listing(("verdict", "what"), [("problem", "x")])
    assert ("\x1b[1;31mproblem" in text) == (terminal and not environment)
    assert ("\x1b" in text) == terminal
