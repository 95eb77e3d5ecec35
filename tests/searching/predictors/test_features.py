"""One-hot choices."""

from nasdeploy.searching.predictors.models import OneHot
from tests.small_spaces import ToySpace

SPACE = ToySpace()


def test_one_column_for_each_value_of_each_choice():
    arch = SPACE.arch({"width.0": 3, "width.1": 5, "depth": 3, "kind.0": 1, "kind.1": 5, "twist": 1, "skip": 0})
    one_hot = OneHot(SPACE)
    expected = [[0, 1], [0, 1, 0], [0, 0, 1], [1, 0], [0, 0, 1], [0, 1], [1, 0]]
    assert one_hot(SPACE.encode([arch])).tolist() == [[value for choice in expected for value in choice]]
    assert one_hot.width == 17


def test_no_architectures_give_no_rows():
    assert OneHot(SPACE)(SPACE.encode([])).shape == (0, 17)
