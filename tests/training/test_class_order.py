"""Orders of classes: by name, or written out."""

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.training.trial import columns

NUMBERS = tuple(sorted(str(number) for number in range(1, 13)))


def test_numbers_by_their_size() -> None:
    assert NUMBERS[:4] == ("1", "10", "11", "12")
    assert columns("natural", NUMBERS) == [int(name) - 1 for name in NUMBERS]
    assert columns("natural", ("a10b2", "a10b10", "a9", "10", "9")) == [3, 4, 2, 1, 0]


def test_letters_without_their_case_and_the_reverse() -> None:
    assert columns("ignore-case", ("Bee", "Cat", "ant")) == [1, 2, 0]
    assert columns("reversed", ("a", "b", "c")) == [2, 1, 0]
    assert columns(None, NUMBERS) == list(range(12))


def test_names_written_out() -> None:
    assert columns(("c", "a", "b"), ("a", "b", "c")) == [1, 2, 0]


@pytest.mark.parametrize(
    ("names", "what"),
    [(("a", "b"), "'c' is missing"), (("a", "b", "c", "d"), "'d' is none"), (("a", "b", "c", "a"), "a name is twice")],
)
def test_other_names_are_refused(names: tuple[str, ...], what: str) -> None:
    with pytest.raises(UserError, match=rf"teacher_classes: not the 3 classes of the data in some order \({what}\); "):
        columns(names, ("a", "b", "c"))
