"""Files of `torch.save` read whole: what was saved is there, and what is no plain value is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.supernet.archives import UnreadableArchive, open_archive
from tests.training.test_trainer import assert_same

TENSORS = st.sampled_from(
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(24.0).reshape(1, 4, 2, 3).to(memory_format=torch.channels_last),
        torch.tensor(3),
        torch.empty(0, 4),
        torch.tensor([True, False]),
        torch.arange(5).bfloat16()[1:4],
    ]
)
PLAIN = st.one_of(TENSORS, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
CONTENT = st.recursive(
    PLAIN,
    lambda inside: st.one_of(
        st.lists(inside, max_size=3),
        st.dictionaries(st.one_of(st.text(), st.integers()), inside, max_size=3),
        st.lists(inside, max_size=3).map(tuple),
    ),
    max_leaves=12,
)


def everything(content: Any, file: Path) -> Any:
    torch.save(content, file)
    return open_archive(file).everything()


@given(content=CONTENT)
def test_what_was_saved_is_read(content: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.pt"
    found = everything(content, file)
    assert_same(found, content)
    assert_same(found, torch.load(file, weights_only=True))


def test_a_tensor_that_is_there_twice_is_one_and_keeps_its_strides(tmp_path: Path) -> None:
    one = torch.arange(24.0).reshape(1, 4, 2, 3).to(memory_format=torch.channels_last)
    found = everything({"a": one, "b": {"c": [one]}}, tmp_path / "w.pt")
    assert found["a"].stride() == one.stride()
    found["a"].zero_()
    assert not found["b"]["c"][0].any()


def holding_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def doubling(levels: int) -> list[Any]:
    found: list[Any] = [1]
    for _ in range(levels):
        found = [found, found]
    return found


@pytest.mark.parametrize("content", [holding_itself(), nested(40), torch.float32, torch.Size([2]), torch.device("cpu")])
def test_what_is_not_plain_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(UnreadableArchive):
        everything({"a": content}, tmp_path / "w.pt")


def test_what_is_there_many_times_is_made_once(tmp_path: Path) -> None:
    found = everything(doubling(30), tmp_path / "w.pt")
    assert found[0] is found[1]
