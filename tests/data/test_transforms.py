import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.data.settings import AugmentSettings, DataSettings, Preprocessing
from nasdeploy.data.transforms import fetch, normalise, prepare, training_transform
from nasdeploy.nn.functional import rescale
from tests.data.pictures import noise

DATA = DataSettings(kind="folder", path="photos", size=24, resize=28)


def by_the_book(step: Preprocessing, image: Image.Image) -> np.ndarray:
    """Steps 2 to 4 of `Preprocessing` as its text says, with Pillow and NumPy only."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    other = int(step.resize * long / short)
    size = (step.resize, other) if width <= height else (other, step.resize)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - step.crop) / 2) for side in size)
    cropped = np.asarray(resized.crop((left, top, left + step.crop, top + step.crop)), dtype=np.float64)
    scaled = (cropped * step.scale - np.array(step.mean)) / np.array(step.std)
    return scaled.transpose(2, 0, 1)


def cubic(t: float, a: float = -0.75) -> float:
    """The convolution kernel of bicubic interpolation (Keys, 1981, equation 4) with `a` = -0.75."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def bicubic_matrix(size: int, resolution: int) -> np.ndarray:
    """Weights `[resolution, size]` of one direction of step 5, edges repeated."""
    matrix = np.zeros((resolution, size))
    for row in range(resolution):
        centre = (row + 0.5) * size / resolution - 0.5
        for column in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[row, min(max(column, 0), size - 1)] += cubic(centre - column)
    return matrix


@given(
    height=st.integers(20, 60),
    width=st.integers(20, 60),
    crop=st.integers(8, 24),
    more=st.integers(0, 8),
    resolution=st.integers(8, 32),
)
def test_prepare_does_what_its_description_says(height: int, width: int, crop: int, more: int, resolution: int) -> None:
    settings = DATA.model_copy(update={"size": crop, "resize": crop + more})
    step = Preprocessing.from_settings(settings, resolution)
    image = noise(height, width)
    matrix = bicubic_matrix(crop, resolution)
    expected = matrix @ by_the_book(step, image) @ matrix.T
    found = prepare(step, [image])
    assert found.dtype == torch.float32
    assert found.shape == (1, 3, resolution, resolution)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-4)


def test_prepare_is_evaluation_followed_by_the_models_rescaling() -> None:
    images = [noise(40, 31, 0), noise(28, 50, 1)]
    fetched = torch.stack([pil_to_tensor(fetch(image, DATA.shorter_side, DATA.size)) for image in images])
    evaluated = normalise(fetched, DATA.mean, DATA.std)
    assert torch.equal(prepare(Preprocessing.from_settings(DATA, 20), images), rescale(evaluated, 20))


def test_preprocessing_survives_json() -> None:
    step = Preprocessing.from_settings(DATA, 20)
    assert (step.resize, step.crop, step.resolution) == (28, 24, 20)
    data = step.model_dump(mode="json")
    assert parse(Preprocessing, data, "manifest") == step
    with pytest.raises(UserError, match="rescale"):
        parse(Preprocessing, {**data, "rescale": "lanczos"}, "manifest")


def seeded(transform: Callable[[Image.Image], torch.Tensor], image: Image.Image, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    return transform(image)


POLICIES = ["none", "imagenet", "trivial", "v0-mstd0.5", "v0r", "originalr-mstd1", "3a", "rand-m10-mstd2", "augmix-m9"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("crop", ["random-resized", "pad", "none"])
def test_training_transforms(crop: str, policy: str) -> None:
    augment = AugmentSettings.model_validate({"crop": crop, "policy": policy})
    settings = DATA.model_copy(update={"augment": augment})
    transform = training_transform(settings)
    image = noise(40, 30) if crop == "random-resized" else fetch(noise(40, 30), 28, 24)
    results = [seeded(transform, image, seed) for seed in range(60)]
    assert all(result.shape == (3, 24, 24) and result.dtype == torch.uint8 for result in results)
    assert len({result.numpy().tobytes() for result in results}) > 1
    again = [seeded(transform, image, seed) for seed in range(60)]
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


def test_pad_and_flip_shift_by_at_most_the_padding() -> None:
    settings = DataSettings(kind="digits", size=8, augment=AugmentSettings(crop="pad", pad=1))
    image = noise(8, 8)
    pixels = np.pad(np.asarray(image).transpose(2, 0, 1), ((0, 0), (1, 1), (1, 1)))
    crops = [pixels[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    possible = {np.ascontiguousarray(c).tobytes() for crop in crops for c in (crop, crop[:, :, ::-1])}
    found = {seeded(training_transform(settings), image, seed).numpy().tobytes() for seed in range(300)}
    assert found == possible


def test_no_augmentation_leaves_the_picture() -> None:
    plain = AugmentSettings(crop="none", flip=False)
    transform = training_transform(DATA.model_copy(update={"augment": plain}))
    image = noise(24, 24)
    assert np.array_equal(transform(image).numpy().transpose(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize("policy", ["v0-q7", "rand-z9", "augmix-y1"])
def test_a_notation_that_timm_refuses_is_named(policy: str) -> None:
    settings = DATA.model_copy(update={"augment": AugmentSettings(policy=policy)})
    with pytest.raises(UserError, match=f"data.augment.policy is '{policy}'"):
        training_transform(settings)


def test_settings_and_preprocessing_do_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, nasdeploy.data.settings, nasdeploy.data.settings; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == "False"
