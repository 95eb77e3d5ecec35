"""Any PyTorch data set of pictures and labels can be opened, and is known again by its pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from nasdeploy.core.errors import UserError
from nasdeploy.data.datasets import open_datasets
from tests.data.own import FORMS, PIXELS, Pictures


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("label", [int, np.int64, torch.tensor])
def test_pictures_and_labels_are_those_of_the_data_set(form: str, label: Any) -> None:
    data = open_datasets({"train": Pictures(form, label)})
    assert data.classes == ("0", "1", "2")
    images = data.parts["train"].subset([4, 1])
    assert images.labels.tolist() == [0, 2]
    assert np.array_equal(np.asarray(images.image(1)), PIXELS[1])


def test_the_same_pixels_are_the_same_data_in_any_form() -> None:
    inventories = [open_datasets({"train": Pictures(form)}).inventory for form in FORMS]
    assert all(inventories[0].places_in(other) is not None for other in inventories)
    changed = PIXELS.copy()
    changed[3, 0, 0, 0] ^= 1
    assert inventories[0].places_in(open_datasets({"train": Pictures(pixels=changed)}).inventory) is None


def test_classes_have_the_names_that_the_data_set_gives_them() -> None:
    dataset = Pictures()
    dataset.classes = ["cat", "dog", "cow", "ant"]  # type: ignore[attr-defined]
    assert open_datasets({"train": dataset, "test": Pictures()}).classes == ("cat", "dog", "cow", "ant")
    dataset.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="label 2, and the data set names 2 classes"):
        open_datasets({"train": dataset})


class Single(Dataset[Any]):
    def __init__(self, sample: Any) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.sample


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ((torch.zeros(3, 4, 4), 0), r"train\[0\] is of float32 \[4, 4, 3\]; give pictures as they are"),
        ((np.zeros((4, 4, 4), np.uint8), 0), r"train\[0\] is of uint8 \[4, 4, 4\]"),
        ((PIXELS[0], -1), r"the label of train\[0\] is -1"),
        ((PIXELS[0], "cat"), r"the label of train\[0\] is 'cat'"),
        (7, r"train\[0\] is int; a picture and its label"),
    ],
)
def test_what_is_no_picture_or_label_is_named(sample: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_datasets({"train": Single(sample)})


@pytest.mark.parametrize("parts", [{}, {"test": Pictures()}, {"train": Pictures(), "valid": Pictures()}])
def test_parts_have_names(parts: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="given by part"):
        open_datasets(parts)
