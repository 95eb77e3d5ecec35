"""One-hot choices."""

from nasdeploy.searching.predictors.models import OneHot, PresentOneHot
from tests.small_spaces import ToySpace, ofa

SPACE = ToySpace()


def test_one_column_for_each_value_of_each_choice():
    arch = SPACE.arch({"width.0": 3, "width.1": 5, "depth": 3, "kind.0": 1, "kind.1": 5, "twist": 1, "skip": 0})
    one_hot = OneHot(SPACE)
    expected = [[0, 1], [0, 1, 0], [0, 0, 1], [1, 0], [0, 0, 1], [0, 1], [1, 0]]
    assert one_hot(SPACE.encode([arch])).tolist() == [[value for choice in expected for value in choice]]
    assert one_hot.width == 17


def test_no_architectures_give_no_rows():
    assert OneHot(SPACE)(SPACE.encode([])).shape == (0, 17)


def test_choices_of_a_block_that_is_left_out_have_no_column():
    space = ofa()
    whole = space.arch({**space.largest(), "expand_ratio.0": 2})
    shallow = space.encode([space.arch({**whole, "depth.0": 1})])
    one_hot = PresentOneHot(space)
    expected = {
        "resolution": [0, 1],
        # No block reads it: that there are no more says how many there are.
        "depth.0": [0, 0],
        "depth.1": [1],
        "kernel_size.0": [0, 0, 1],
        "kernel_size.1": [0, 0, 0],
        "kernel_size.2": [1],
        "expand_ratio.0": [1, 0, 0],
        "expand_ratio.1": [0, 0, 0],
        "expand_ratio.2": [0, 0, 1],
    }
    assert list(expected) == [choice.name for choice in space.choices]
    assert one_hot(shallow).tolist() == [[value for choice in expected.values() for value in choice]]
    # Whatever the codes say of it.
    shallow[:, [4, 7]] = 2
    assert one_hot(shallow).tolist() == [[value for choice in expected.values() for value in choice]]
    assert (one_hot(space.encode([whole])) == OneHot(space)(space.encode([whole]))).all()
