"""A sample input with its expected outputs, by which a bundle is tried on any machine. Torch-free."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.exporting.bundle.pictures import prepare
from nasdeploy.exporting.bundle.predict import SAMPLE
from nasdeploy.runtimes.runtime import Array

_GRAIN = 6
_OF = "logits of "


@dataclass(frozen=True)
class Sample:
    """A picture, what preprocessing makes of it, and what the network and its models make of that.

    The picture is computed, not one of the user's: those may not be for everybody to see.
    """

    pixels: Array
    """uint8 `[height, width, 3]`."""
    input: Array
    """float32 `[1, 3, resolution, resolution]`."""
    logits: Array
    """PyTorch's, float32 `[1, classes]`."""
    outputs: Mapping[str, Array] = field(default_factory=dict)
    """The same of each model that was run when it was exported, by the name of its file."""

    def save(self, folder: Path) -> None:
        """Write `sample.npz`; equal samples give equal bytes."""
        outputs = {_OF + name: output for name, output in self.outputs.items()}
        arrays = {"pixels": self.pixels, "input": self.input, "logits": self.logits, **outputs}
        np.savez_compressed(folder / SAMPLE, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "Sample":
        """What `save` wrote; raises `UserError` if it is missing or damaged."""
        path = folder / SAMPLE
        try:
            with np.load(path, allow_pickle=False) as found:
                arrays = dict(found)
            outputs = {name.removeprefix(_OF): arrays[name] for name in arrays if name.startswith(_OF)}
            sample = cls(arrays["pixels"], arrays["input"], arrays["logits"], outputs)
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zipfile.error) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); export again") from None
        shapes = (sample.pixels.ndim, sample.input.ndim, sample.logits.ndim)
        if sample.pixels.dtype != np.uint8 or shapes != (3, 4, 2):
            raise UserError(f"{path}: no sample of an exported model; export again")
        return sample


def make_sample(preprocessing: Preprocessing, network: Callable[[Array], Array]) -> Sample:
    """The sample of a `network` from inputs to logits, with something to do for each step of `preprocessing`."""
    pixels = np.asarray(sample_picture(preprocessing.resize))
    inputs = prepare(Image.fromarray(pixels), preprocessing.model_dump())
    return Sample(pixels, inputs, network(inputs))


def sample_picture(shorter_side: int) -> Image.Image:
    """A smooth RGB picture of random colours, always the same, a little larger than what is cut out of it."""
    grain = np.random.default_rng(0).integers(0, 256, (_GRAIN, _GRAIN, 3), dtype=np.uint8)
    size = (shorter_side + shorter_side // 3 + 1, shorter_side + shorter_side // 8 + 1)
    return Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC)
