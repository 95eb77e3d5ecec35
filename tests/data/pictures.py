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
