"""A PyTorch data set of pictures in any form that one may be given in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

Pixels = npt.NDArray[np.uint8]
PIXELS: Pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
LABELS = (0, 2, 1, 1, 0, 2)
FORMS: dict[str, Callable[[Pixels], Any]] = {
    "Pillow": Image.fromarray,
    "array": lambda pixels: pixels,
    "tensor": lambda pixels: torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
}


class Pictures(Dataset[tuple[Any, Any]]):
    """Pictures `[N, H, W, 3]`, labelled by `LABELS` again and again."""

    def __init__(self, form: str = "Pillow", label: Callable[[int], Any] = int, pixels: Pixels = PIXELS) -> None:
        self.form, self.label, self.pixels = FORMS[form], label, pixels

    @classmethod
    def random(cls, count: int, seed: int) -> "Pictures":
        """`count` pictures of 9 x 8 pixels of noise."""
        return cls(pixels=np.random.default_rng(seed).integers(0, 256, (count, 9, 8, 3), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.form(self.pixels[index]), self.label(LABELS[index % len(LABELS)])
