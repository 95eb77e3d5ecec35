"""Samples hold all classes as evenly as they can, and are what evaluation would see."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nasdeploy.data.batches import evaluation_batches
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.images import ArrayImages, FileImages
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import draw_sample, normalise
from tests.data.pictures import noise

CLASSES = ("a", "b", "c")
SETTINGS = DataSettings(kind="digits", size=8, resize=10, workers=0)


def array_images(sizes: tuple[int, ...]) -> ArrayImages:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 12, 12, 3), dtype=np.uint8)
    return ArrayImages(pixels, labels)


def test_a_first_part_has_as_many_of_each_class_as_there_are() -> None:
    sample = draw_sample(array_images((500, 20, 3)), CLASSES, SETTINGS, seed=0)
    assert sample.labels[:9].bincount().tolist() == [3, 3, 3]
    assert sample.first(40).labels.bincount().tolist() == [19, 18, 3]
    assert len(sample) == len(sample.names) == 512
    assert len(set(sample.names)) == 512


def test_pixels_are_those_of_evaluation() -> None:
    images = array_images((4, 4, 4))
    sample = draw_sample(images, CLASSES, SETTINGS, seed=1)
    numbers = [int(name.split()[1]) for name in sample.names]
    assert sorted(numbers) == list(range(12))
    assert sample.names[0] == f"image {numbers[0]} ({CLASSES[int(sample.labels[0])]})"
    expected = torch.cat([batch for batch, _ in evaluation_batches(images.subset(numbers), SETTINGS, 5)])
    assert torch.equal(normalise(sample.pixels, SETTINGS.mean, SETTINGS.std), expected)
    assert sample.labels.tolist() == images.labels[numbers].tolist()


def test_what_cannot_be_read_is_left_out_unless_nothing_is_left(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        noise(9, 9, number).save(path)
    paths[1].write_bytes(b"no picture")
    sample = draw_sample(FileImages(paths, [0, 1, 2]), CLASSES, SETTINGS, seed=0)
    assert sorted(sample.names) == [str(paths[0]), str(paths[2])]
    with pytest.raises(UnreadableImage, match=str(paths[1])):
        draw_sample(FileImages(paths[1:2], [1]), CLASSES, SETTINGS, seed=0)
