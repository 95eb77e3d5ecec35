import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.arch import Arch, flatten
from nasdeploy.core.errors import UserError

TREES = st.recursive(st.integers(-(10**6), 10**6), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=12)
NESTED = st.dictionaries(st.text("abcdef_", min_size=1, max_size=8), TREES, max_size=5)
TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=5)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


@given(NESTED)
def test_json_round_trip(nested: dict[str, Any]) -> None:
    arch = Arch(flatten(nested))
    assert arch.to_json() == nested
    assert json.loads(arch.text) == nested
    again = Arch(flatten(json.loads(arch.text)))
    assert (again, hash(again), again.digest) == (arch, hash(arch), arch.digest)


def test_digest_is_that_of_the_sorted_compact_json() -> None:
    # sha256 of {"depth":[1,2],"width":16}, from `printf ... | sha256sum`.
    assert Arch({"width": 16, "depth.0": 1, "depth.1": 2}).digest == "f4574ba1bf82"


def test_equal_whatever_the_order_of_the_values() -> None:
    one, other = Arch({"a": 1, "b": 2}), Arch({"b": 2, "a": 1})
    assert one == other
    assert len({one, other}) == 1
    assert one.digest == other.digest
    assert one != Arch({"a": 1, "b": 3})
    assert one != {"a": 1, "b": 2}


def test_is_a_read_only_mapping() -> None:
    values = {"a": 1}
    arch = Arch(values)
    values["a"] = 2
    assert dict(arch) == {"a": 1}
    with pytest.raises(TypeError):
        arch["a"] = 2  # type: ignore[index]


@given(ANY_JSON)
def test_anything_but_integers_in_lists_is_a_mistake_in_one_line(data: Any) -> None:
    flat: dict[str, int] = {}
    said = ""
    try:
        flat = flatten(data)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert said or isinstance(data, dict)
    assert all(type(value) is int for value in flat.values())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([1], "JSON object"),
        ({"width": [1, "x"]}, 'width.1 is "x"'),
        ({"width": [[1, None]]}, "width.0.1 is null"),
        ({"depth": True}, "depth is true"),
        ({"depth": 1.0}, "depth is 1.0"),
    ],
)
def test_names_the_place_that_is_wrong(data: Any, said: str) -> None:
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        flatten(data)
