"""Pictures of plain colours, and ONNX teachers that know them: what is wrong with a teacher is wrong on purpose."""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from nasdeploy.data.settings import IMAGENET_MEAN, IMAGENET_STD

SIDE = 8
Floats = npt.NDArray[np.float64]
DARKNESS = (
    ("Log", ("p",), "l"),
    ("ReduceSum", ("l", "axes"), "s"),
    ("Div", ("s", "s"), "one"),
    ("Mul", ("y", "one"), "z"),
)
"""An ending that makes NaN of the logits of a black picture, if `axes` is [1], and leaves others."""


def colour(label: int, classes: int) -> Floats:
    """`[3]`, 0..1."""
    return np.array(colorsys.hsv_to_rgb(label / classes, 1, 0.9))


def write_colours(root: Path, names: Sequence[str], count: int = 8) -> Path:
    """`root/train/NAME/00.png` and on: each class has its colour, in the order of `names`, with noise."""
    for label, name in enumerate(names):
        (root / "train" / name).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(label)
        for number in range(count):
            levels = 255 * colour(label, len(names)) + rng.normal(0, 12, (SIDE, SIDE, 3))
            pixels = np.clip(levels, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "train" / name / f"{number:02d}.png")
    return root


def write_teacher(
    path: Path,
    order: Sequence[int],
    *,
    batch: int | str = "n",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: int = TensorProto.FLOAT,
    channels_last: bool = False,
    ending: Sequence[tuple[str, Sequence[str], str]] = (),
    outputs: Sequence[str] = ("y",),
    values: Sequence[onnx.TensorProto] = (),
    beside: bool = False,
) -> Path:
    """A teacher whose output j is high for the colour of class `order[j]`, of images normalised by mean and std.

    `ending`: nodes (operator, inputs, output) after the logits `y`; `outputs`: names among those, `p` (mean colours),
    and theirs. `beside`: with the weights in a file of their own.
    """
    normed = np.array([(colour(label, len(order)) - mean) / std for label in order])
    # Nearest colour where pixels are 0..1: |x - c|^2 of all classes, but for what they share.
    scale = np.array(std, np.float64) ** 2
    weight, bias = normed * scale, -(normed**2 * scale).sum(1) / 2
    nodes = [
        helper.make_node("Cast", ["x"], ["x32"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["x32"], ["t"], perm=[0, 3, 1, 2] if channels_last else [0, 1, 2, 3]),
        helper.make_node("GlobalAveragePool", ["t"], ["a"]),
        helper.make_node("Flatten", ["a"], ["p"]),
        helper.make_node("Gemm", ["p", "w", "b"], ["y"], transB=1, alpha=40.0, beta=40.0),
        *(helper.make_node(operator, list(inputs), [output]) for operator, inputs, output in ending),
    ]
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for array, name in ((weight, "w"), (bias, "b"))]
    shape = [batch, SIDE, SIDE, 3] if channels_last else [batch, 3, SIDE, SIDE]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [*stored, *values],
    )
    model: Any = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path), save_as_external_data=beside, location=f"{path.name}.data", size_threshold=0)
    return path
