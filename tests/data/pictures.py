"""Small image folders for tests."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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
