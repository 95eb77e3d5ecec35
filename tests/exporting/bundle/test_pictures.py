"""What travels in a bundle does to images exactly what nasdeploy does, and runs without it."""

import inspect
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nasdeploy.data import decode
from nasdeploy.data import walk as files
from nasdeploy.data.settings import MOST_PIXELS, Decoding, Preprocessing
from nasdeploy.data.transforms import prepare
from nasdeploy.data.walk import read_part
from nasdeploy.exporting.bundle import pictures
from nasdeploy.exporting.bundle.predict import probabilities
from nasdeploy.nn.functional import rescale
from tests.data.pictures import write_odd_part, write_png

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AS_WRITTEN = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
"""Processors that round as pictures.py does; others round a few sums differently."""


def largest_difference(found: np.ndarray, expected: torch.Tensor) -> float:
    assert found.dtype == np.float32
    assert found.shape == tuple(expected.shape)
    return float(np.abs(found - expected.numpy()).max())


ALLOWED = 0.0 if AS_WRITTEN else 3e-5


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(4, 40),
    st.integers(0, 12),
    st.integers(4, 60),
    st.integers(0, 9),
)
def test_inputs_are_those_of_evaluation_bit_for_bit(
    size: tuple[int, int], crop: int, margin: int, side: int, seed: int
) -> None:
    steps = Preprocessing(resize=crop + margin, crop=crop, mean=MEAN, std=STD, resolution=side)
    image = picture(*size, seed)
    assert (
        largest_difference(pictures.prepare(image, steps.model_dump(mode="json")), prepare(steps, [image])) <= ALLOWED
    )


@pytest.mark.parametrize(("crop", "side"), [(224, 224), (224, 192), (224, 288), (32, 20)])
def test_inputs_of_usual_sizes_are_those_of_evaluation_bit_for_bit(crop: int, side: int) -> None:
    steps = Preprocessing(resize=crop * 8 // 7, crop=crop, mean=MEAN, std=STD, resolution=side)
    image = picture(400, 301)
    assert largest_difference(pictures.prepare(image, steps.model_dump()), prepare(steps, [image])) <= ALLOWED


def test_a_batch_is_rescaled_as_pytorch_does() -> None:
    x = torch.randn(3, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    assert largest_difference(pictures.rescale(x.numpy(), 29), rescale(x, 29)) <= ALLOWED


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.fixture
def kinds(tmp_path: Path) -> dict[str, Path]:
    """Image files of every kind that is decoded in its own way."""
    colour = picture(20, 14)
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = colour.convert("RGBA")
    alpha.putalpha(colour.convert("L"))
    deep = Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20) * 234)
    return {
        "colour": saved(colour, tmp_path / "colour.png"),
        "turned": saved(colour, tmp_path / "turned.jpg", exif=turned),
        "grey": saved(colour.convert("L"), tmp_path / "grey.jpg"),
        "sixteen bits": saved(deep, tmp_path / "deep.png"),
        "alpha": saved(alpha, tmp_path / "alpha.png"),
        "palette": saved(colour.convert("P"), tmp_path / "palette.gif", transparency=3),
        "inks": saved(colour.convert("CMYK"), tmp_path / "inks.tif"),
        "one bit": saved(colour.convert("1"), tmp_path / "bits.png"),
        "one colour transparent": saved(colour, tmp_path / "hole.png", transparency=colour.getpixel((2, 2))),
    }


def test_files_of_any_kind_are_read_as_nasdeploy_reads_them(kinds: dict[str, Path]) -> None:
    for kind, path in kinds.items():
        found, expected = pictures.read_rgb(path, {}), decode.read_rgb(path)
        assert (found.mode, found.size) == ("RGB", expected.size), kind
        assert found.tobytes() == expected.tobytes(), kind


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i4", "f4"])
@pytest.mark.parametrize("bounds", [(0.0, 4095.0), (-50.5, 1000.25), (3000.0, 3001.0)])
def test_pictures_of_many_bits_are_read_as_nasdeploy_reads_them(
    dtype: str, bounds: tuple[float, float], tmp_path: Path
) -> None:
    values = np.arange(-300 if dtype in ("i4", "f4") else 0, 3700).reshape(-1, 20).astype(dtype)
    path = saved(Image.fromarray(values), tmp_path / "deep.tif")
    steps = Preprocessing(range=bounds, resize=9, crop=8, mean=MEAN, std=STD, resolution=8)
    found, expected = pictures.read_rgb(path, steps.model_dump()), decode.read_rgb(path, decoding=steps.decoding)
    assert found.tobytes() == expected.tobytes()
    assert len(set(np.asarray(found).flat)) > 1


def test_pictures_are_refused_for_the_reasons_that_nasdeploy_gives(tmp_path: Path) -> None:
    floats = saved(Image.fromarray(np.zeros((3, 3), np.float32)), tmp_path / "floats.tif")
    colours = write_png(tmp_path / "colours.png", 3, 3, bits=16, row=bytes(18))
    huge = write_png(tmp_path / "huge.png", 20_000, 10_000)
    for path, steps, reason in (
        (floats, {}, "floating-point pixels"),
        (colours, {"range": (0, 4095)}, "16-bit colours, of which Pillow decodes the upper 8 bits alone"),
        (huge, {}, "20000 x 10000 pixels, 200000000 in all"),
        (huge, {"max_pixels": 199_999_999}, "20000 x 10000 pixels, 200000000 in all"),
    ):
        with pytest.raises(pictures.Refused, match=reason):
            pictures.read_rgb(path, steps)
        with pytest.raises(decode.UnreadableImage, match=reason):
            decode.read_rgb(path, decoding=Decoding(**steps))
    assert pictures.MOST_PIXELS == MOST_PIXELS


def test_what_counts_as_data_is_what_does_for_nasdeploy() -> None:
    assert pictures.SUFFIXES == files.SUFFIXES
    assert pictures.OF_TOOLS == files.OF_TOOLS
    for function in ("is_hidden", "suffix_of"):
        assert inspect.getsource(getattr(pictures, function)) == inspect.getsource(getattr(files, function))


def test_files_of_a_tree_are_those_of_nasdeploy(tmp_path: Path) -> None:
    write_odd_part(tmp_path / "part")
    part = read_part(tmp_path / "part")
    found, (note,) = pictures.image_files([tmp_path / "part"])
    assert found == sorted(path for images in part.images.values() for path in images)
    assert note == (
        f"{tmp_path / 'part'}: passed over: 7 hidden folders or of tools, 3 hidden files or of tools, "
        "2 .heic, 2 links that lead nowhere, or no files, 1 without a suffix"
    )


def test_a_file_that_was_named_is_read_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "@eaDir").mkdir()
    hidden = tmp_path / "@eaDir/.x.heic"
    hidden.write_bytes(b"")
    assert pictures.image_files([hidden]) == ([hidden], [])


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.heic", "b.heic", ".c.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(pictures.Refused) as caught:
        pictures.image_files([tmp_path])
    assert str(caught.value) == f"{tmp_path}: holds no images (2 .heic, 1 hidden files or of tools)"


def damaged_images() -> dict[str, bytes]:
    file = io.BytesIO()
    picture(40, 40).save(file, "JPEG")
    whole = file.getvalue()
    return {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no image", "headless": whole[20:]}


@pytest.mark.parametrize("kind", sorted(damaged_images()))
def test_a_damaged_image_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(damaged_images()[kind])
    with pytest.raises(pictures.Refused) as caught:
        pictures.read_rgb(path, {})
    assert str(caught.value).startswith(f"{path}: cannot be read as an image (")
    assert "\n" not in str(caught.value)


def test_probabilities_add_up_to_one_and_keep_the_order() -> None:
    logits = np.array([[1000.0, 999.0, -1000.0]], np.float32)
    (shares,) = probabilities(logits)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] / shares[1] == pytest.approx(np.e)
    assert shares[2] == 0
