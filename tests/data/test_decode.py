import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from nasdeploy.data.decode import (
    COLOUR,
    EIGHT_BITS,
    FLOATING,
    GREY,
    UnreadableImage,
    examined,
    looks_whole,
    opened,
    read_header,
    read_rgb,
    read_values,
)
from nasdeploy.data.settings import Decoding
from tests.data.pictures import noise, write_png


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def defect(path: Path) -> UnreadableImage | None:
    with path.open("rb") as file:
        is_whole = looks_whole(file)
    try:
        examined(path, is_whole)
    except UnreadableImage as error:
        return error
    return None


def pixel(path: Path) -> tuple[int, int, int]:
    image = read_rgb(path)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("RGB", (10, 20, 30), "png", (10, 20, 30)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), "webp", (204, 204, 204)),
        ("LA", (100, 0), "png", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, mode: str, colour: object, suffix: str, expected: tuple[int, int, int]
) -> None:
    lossless = {"lossless": True, "exact": True} if suffix == "webp" else {}
    assert pixel(saved(tmp_path / f"x.{suffix}", Image.new(mode, (4, 4), colour), **lossless)) == expected


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    levels = np.array([[0, 255, 256, 40000, 65535]], dtype=np.uint16)
    image = read_rgb(saved(tmp_path / "x.png", Image.fromarray(levels)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 156, 255]


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    assert pixel(saved(tmp_path / "opaque.png", image)) == (9, 8, 7)
    assert pixel(saved(tmp_path / "clear.png", image, transparency=1)) == (255, 255, 255)


def test_a_transparent_colour_of_an_rgb_image_is_white(tmp_path: Path) -> None:
    assert pixel(saved(tmp_path / "x.png", Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))) == (255,) * 3


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = saved(tmp_path / "x.png", noise(4, 8), exif=exif)
    assert read_rgb(path).size == (4, 8)
    assert np.array_equal(np.asarray(read_rgb(path)), np.rot90(np.asarray(noise(4, 8)), k=-1))


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"bad\.jpg: cannot be read as an image"):
        read_rgb(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file"):
        read_rgb(tmp_path / "none.png")


DEEP = {
    "I;16": np.array([[0, 1000, 2000, 3000, 4000]], dtype=np.uint16),
    "I;16B": np.array([[0, 1000, 2000, 3000, 4000]], dtype=">u2"),
    "I": np.array([[-70_000, 1000, 2000, 3000, 70_000]], dtype=np.int32),
    "F": np.array([[np.nan, 1000, 2000, 3000, np.inf]], dtype=np.float32),
}


@pytest.mark.parametrize("mode", DEEP)
def test_a_range_is_spread_over_the_levels(mode: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.tif", Image.fromarray(DEEP[mode]))
    assert defect(path) is None
    assert read_header(path) == (5, 1, FLOATING if mode == "F" else GREY)
    image = read_rgb(path, decoding=Decoding(range=(1000, 3000)))
    # 2000 lies at 127.5, which is rounded to an even number.
    assert np.asarray(image)[0].tolist() == [[level] * 3 for level in (0, 0, 128, 255, 255)]
    depth, values = read_values(path)
    assert depth == (FLOATING if mode == "F" else GREY)
    assert values is not None and np.array_equal(values, DEEP[mode], equal_nan=True)


def test_floating_point_needs_a_range(tmp_path: Path) -> None:
    with pytest.raises(
        UnreadableImage, match=r"floating-point pixels: set data\.range to the values of black and white"
    ):
        read_rgb(saved(tmp_path / "x.tif", Image.fromarray(DEEP["F"])))


def test_a_range_says_nothing_of_colours(tmp_path: Path) -> None:
    path = write_png(tmp_path / "x.png", 4, 4, bits=16, row=b"\x12\x34" * 12)
    assert read_header(path).depth == COLOUR
    assert pixel(path) == (0x12, 0x12, 0x12)
    with pytest.raises(UnreadableImage, match="16-bit colours, of which Pillow decodes the upper 8 bits alone"):
        read_rgb(path, decoding=Decoding(range=(0, 4095)))
    eight = saved(tmp_path / "y.png", noise(4, 4))
    assert read_header(eight) == (4, 4, EIGHT_BITS)
    assert read_rgb(eight, decoding=Decoding(range=(0, 4095))).tobytes() == noise(4, 4).tobytes()
    assert read_values(eight) == (EIGHT_BITS, None)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "gif", "bmp"])
def test_too_many_pixels_are_told_by_the_header(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"x.{suffix}", noise(30, 40))
    with pytest.raises(UnreadableImage, match=r"40 x 30 pixels, 1200 in all, and data\.max_pixels allows 1199"):
        read_rgb(path, decoding=Decoding(max_pixels=1199))
    assert read_rgb(path, decoding=Decoding(max_pixels=1200)).size == (40, 30)


def test_pillows_limit_is_neither_in_the_way_nor_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png", noise(30, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(path).size == (40, 30)
        with opened(path), opened(path) as image:
            assert image.size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)


def odd_exif(path: Path) -> Path:
    """A JPEG file whose EXIF data end in the middle."""
    return saved(path, noise(8, 8), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12")


def test_nothing_of_pillow_is_warned_of(tmp_path: Path) -> None:
    palette = noise(8, 8).convert("P")
    paths = [
        odd_exif(tmp_path / "x.jpg"),
        saved(tmp_path / "y.png", palette, transparency=bytes(range(200))),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path in paths:
            assert read_rgb(path).size == (8, 8)
            assert defect(path) is None
    assert caught == []
    with pytest.warns(UserWarning, match="EXIF"), Image.open(paths[0]) as image:
        image.getexif()


def encoded(format_name: str) -> bytes:
    buffer = io.BytesIO()
    noise(16, 16).save(buffer, format_name)
    return buffer.getvalue()


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "BMP"])
@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cut_file_has_a_defect_unless_it_still_decodes(tmp_path: Path, format_name: str, data: st.DataObject) -> None:
    whole = encoded(format_name)
    path = tmp_path / "cut"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    found = defect(path)
    if found is None:  # some formats end in bytes that nobody needs
        assert np.array_equal(np.asarray(read_rgb(path)), np.asarray(Image.open(io.BytesIO(whole))))
    else:
        assert str(path) in str(found)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("padding", [b"", b"\0" * 100])
def test_whole_files_have_no_defect(tmp_path: Path, format_name: str, padding: bytes) -> None:
    path = tmp_path / "whole"
    path.write_bytes(encoded(format_name) + padding)
    assert defect(path) is None
