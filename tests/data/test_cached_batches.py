"""Kept images are the streamed ones, whatever the memory."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nasdeploy.data import batches as module
from nasdeploy.data.batches import HeldOutImages, Memory, PreparedBatches, evaluation_batches
from nasdeploy.data.images import ArrayImages
from nasdeploy.data.settings import DataSettings
from nasdeploy.nn.functional import rescale

SETTINGS = DataSettings(kind="digits", size=8, workers=0)
CPU = torch.device("cpu")
BYTES = 10 * 3 * 8 * 8


def images() -> ArrayImages:
    rng = np.random.default_rng(0)
    return ArrayImages(rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8), rng.integers(0, 5, 10))


def joined(batches: list[tuple[Tensor, Tensor]], side: int) -> tuple[Tensor, Tensor]:
    return torch.cat([rescale(x, side) for x, _ in batches]), torch.cat([y for _, y in batches])


@pytest.mark.parametrize("memory", [0, BYTES, 5 * BYTES, 1 << 20], ids=["streamed", "bytes", "one side", "all"])
@pytest.mark.parametrize(("first", "end"), [(0, None), (0, 3), (3, 4), (3, 9), (7, None)])
def test_held_out_images_are_the_same_however_much_memory_there_is(memory: int, first: int, end: int | None) -> None:
    held_out = HeldOutImages(images(), SETTINGS, 4, CPU, Memory(memory))
    assert len(held_out) == 10
    whole = list(evaluation_batches(images(), SETTINGS, 4))
    for side in (8, 6, 8, 6):
        pixels, labels = joined(whole, side)
        found, found_labels = joined(list(held_out.at(side, first, end)), side)
        assert torch.equal(found_labels, labels[first:end])
        torch.testing.assert_close(found, pixels[first:end], rtol=0, atol=1e-6)


def test_what_fits_is_decoded_and_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"normalise": 0, "evaluation_pixels": 0}
    for name in calls:
        original = getattr(module, name)

        def counted(*given: object, name: str = name, original: object = original) -> object:
            calls[name] += 1
            return original(*given)

        monkeypatch.setattr(module, name, counted)
    held_out = HeldOutImages(images(), SETTINGS, 10, CPU, Memory(5 * BYTES))
    for _ in range(3):
        list(held_out.at(8))
    assert calls == {"normalise": 1, "evaluation_pixels": 1}
    for _ in range(3):
        list(held_out.at(6))
    assert calls == {"normalise": 4, "evaluation_pixels": 1}


def test_batches_are_channels_last_and_shared_memory_is_taken_once() -> None:
    memory = Memory(4 * BYTES)
    pixels = torch.from_numpy(images().pixels).permute(0, 3, 1, 2)
    first, second = (PreparedBatches([pixels], SETTINGS, memory) for _ in range(2))
    (kept,) = first.at(8)
    assert kept.is_contiguous(memory_format=torch.channels_last)
    assert next(iter(first.at(8))) is kept
    assert next(iter(second.at(8))) is not next(iter(second.at(8)))
