"""Small image folders for tests."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_png(path: Path, width: int, height: int, bits: int = 8, row: bytes = b"") -> Path:
    """Write a PNG file of colours as Pillow cannot: of 16 bits, or with a header alone that claims a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + row) * height if row else b"")
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)
    return path


def write_folder(root: Path, parts: Mapping[str, Mapping[str, int]], side: int = 10, suffix: str = ".png") -> Path:
    """Write e.g. `{"train": {"cat": 5, "dog": 5}}`: as many images of noise, all different."""
    seed = 0
    for part, classes in parts.items():
        for label, count in classes.items():
            folder = root / part / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise(side, side, seed).save(folder / f"{number}{suffix}")
                seed += 1
    return root


def write_odd_part(part: Path) -> None:
    """Two classes, cat and dog, of two images each, among everything that is passed over or comes by a link."""
    elsewhere = part.parent / "elsewhere"
    for name in (
        *("cat/a.jpg", "cat/deep/b.JFIF", "dog/a.png"),
        *("cat/.ipynb_checkpoints/a.jpg", "cat/@eaDir/a.jpg", "cat/deep/.AppleDouble/a.jpg", "dog/#snapshot/x/a.jpg"),
        *("@eaDir/a.jpg", "__MACOSX/dog/._a.png", "cat/._a.jpg", "dog/Thumbs.db", ".DS_Store"),
        *("cat/c.heic", "dog/deep/d.HEIC", "dog/README"),
    ):
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_bytes(b"")
    (elsewhere / "more").mkdir(parents=True)
    (elsewhere / "more/b.jpg").write_bytes(b"")
    for link, target in (
        *(("dog/linked", elsewhere), ("dog/again", elsewhere / "more"), ("dog/up", part)),
        *(("dog/gone.jpg", part / "nowhere"), ("cat/round", part / "cat/round")),
        ("cat/.hidden", elsewhere),
    ):
        (part / link).symlink_to(target)
