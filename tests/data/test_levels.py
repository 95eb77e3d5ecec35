from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from nasdeploy.core.errors import UserError
from nasdeploy.data.images import ArrayImages, FileImages
from nasdeploy.data.inspect import MEASURED, measured_range, note_on_levels, used_range
from nasdeploy.data.settings import ValueBounds
from tests.data.pictures import noise, write_png

Values = npt.NDArray[np.float64]


def images_of(root: Path, *values: Values, dtype: str = "u2") -> FileImages:
    paths = [root / f"{number}.tif" for number in range(len(values))]
    for path, each in zip(paths, values, strict=True):
        Image.fromarray(each.astype(dtype)).save(path)
    return FileImages(paths, [0] * len(paths))


def spread_over(low: float, high: float, seed: int = 0) -> Values:
    values = np.random.default_rng(seed).uniform(low, high, (40, 30))
    values[0, :2] = low, high
    return values


def note(images: FileImages, bounds: ValueBounds | None = None) -> str | None:
    return note_on_levels(used_range(images, 10), bounds)


@pytest.mark.parametrize(
    ("low", "high", "levels"), [(0, 4095, 16), (29_000, 31_000, 9), (30_000, 30_200, 1), (1000, 17_000, 64)]
)
def test_a_narrow_range_is_told_with_what_to_set(low: float, high: float, levels: int, tmp_path: Path) -> None:
    images = images_of(tmp_path, spread_over(low, high, 0), spread_over(low, high, 1))
    said = note(images)
    assert said is not None
    used = used_range(images, 10)
    assert used is not None and used.pictures == 2
    # All but a thousandth of the pixels at either end.
    assert used.bounds == pytest.approx((low, high), abs=0.005 * (high - low) + 1)
    assert f"{levels} of 256 levels are left in their upper 8 bits" in said
    assert f"set data.range to measured, or to [{used.bounds[0]:g}, {used.bounds[1]:g}] (black and white)" in said
    assert note(images, used.bounds) is None


def test_the_whole_range_is_no_matter(tmp_path: Path) -> None:
    assert note(images_of(tmp_path, spread_over(0, 65_535))) is None
    assert note(images_of(tmp_path, spread_over(2000, 40_000))) is None


def test_eight_bits_have_no_range(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(tmp_path / "b.png")
    assert used_range(FileImages([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "none.png"], [0] * 3), 9) is None
    assert used_range(ArrayImages(np.zeros((2, 8, 8), np.uint8), [0, 1]), 9) is None


def test_dead_pixels_are_no_part_of_the_range(tmp_path: Path) -> None:
    values = spread_over(1000, 2000)
    values[0, 0], values[5, 5] = 65_535, 0
    used = used_range(images_of(tmp_path, values), 10)
    assert used is not None
    assert 990 < used.bounds[0] < 1010 and 1990 < used.bounds[1] < 2010


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((0.0, 255.0), "1 of 256 levels are left by data.range [0.0, 255.0], and 100% of the range are cut off"),
        (
            (1000.0, 1200.0),
            "256 of 256 levels are left by data.range [1000.0, 1200.0], and 80% of the range are cut off",
        ),
        ((0.0, 65_535.0), "5 of 256 levels are left by data.range [0.0, 65535.0]; set data.range to measured"),
    ],
)
def test_a_range_that_is_not_that_of_the_pictures_is_told(bounds: ValueBounds, said: str, tmp_path: Path) -> None:
    assert said in str(note(images_of(tmp_path, spread_over(1000, 2000)), bounds))


def test_floating_point_pictures_need_a_range(tmp_path: Path) -> None:
    values = spread_over(20.5, 36.5)
    values[3, 3] = np.nan
    images = images_of(tmp_path, values, dtype="f4")
    assert "floating-point pixels, from 20.5" in str(note(images))
    assert note(images, (20.0, 37.0)) is None


def test_colours_of_which_eight_bits_are_read_are_told(tmp_path: Path) -> None:
    path = write_png(tmp_path / "x.png", 8, 8, bits=16, row=b"\x00\x05\x0f\xff" * 12)
    assert note(FileImages([path], [0])) == (
        "pictures of 16-bit colours: of their values, 0 to 3840, 16 of 256 levels are left, since Pillow decodes their "
        "upper 8 bits alone; save them with 8 bits, spread over 0 to 255"
    )


def test_a_range_is_measured_on_images_from_all_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.data.inspect.MEASURED", 3)
    images = images_of(tmp_path, *(np.full((3, 3), value) for value in (100, 7, 200, 7, 300)))
    assert measured_range(images).bounds == (100.0, 300.0)
    assert MEASURED == 1000


def test_one_value_is_a_range_all_the_same(tmp_path: Path) -> None:
    assert measured_range(images_of(tmp_path, np.full((3, 3), 5))).bounds == (5.0, 6.0)


def test_nothing_to_measure_is_said(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"data\.range is measured, and no training image that was looked at has more"):
        measured_range(FileImages([tmp_path / "a.png"], [0]))
