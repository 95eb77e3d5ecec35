"""What files of published supernets are held against, and images of as many classes as ImageNet has."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from tests.data.pictures import write_folder


def thousand_classes(folder: Path) -> Path:
    """Write a folder of 1000 classes of two tiny images, and two to test with."""
    classes = {f"n{number:04}": 2 for number in range(1000)}
    return write_folder(folder, {"train": classes, "test": dict.fromkeys([*classes][:2], 1)}, side=8)


def difference(model: Path, forward: Callable[[Tensor], Tensor]) -> float:
    """Return the largest difference between the logits of an ONNX file and of an independent computation."""
    session = onnxruntime.InferenceSession(model)
    side = session.get_inputs()[0].shape[-1]
    images = np.random.default_rng(0).standard_normal((2, 3, side, side), dtype=np.float32)
    (logits,) = session.run(None, {"input": images})
    with torch.no_grad():
        expected = forward(torch.from_numpy(images)).numpy()
    assert expected.std() > 0.1
    return float(np.abs(logits - expected).max())
