import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from nasdeploy.data.decode import UnreadableImage, defect, read_rgb
from tests.data.pictures import noise


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


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


def test_missing_file_and_floating_point(tmp_path: Path) -> None:
    assert "No such file" in str(defect(tmp_path / "none.png"))
    assert "8 or 16 bits" in str(defect(saved(tmp_path / "x.tif", Image.new("F", (4, 4), 0.5))))


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
