"""Teachers in ONNX files, whatever their batch, layout and number format: what a session is fed fits its input."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError, EncodeError
from onnx.checker import ValidationError
from onnx.external_data_helper import uses_external_data
from torch import Tensor

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.onnxruntime import OnnxRuntime
from nasdeploy.runtimes.runtime import Array, Model

_CHANNELS = 3


@dataclass(frozen=True)
class _Images:
    """The input of the model in a file."""

    path: Path
    name: str
    batch: int | None
    """Images in a call; None if the model leaves it open."""
    sides: tuple[int | None, ...]
    """Height and width, where the model does not leave them open."""
    channels_last: bool
    dtype: np.dtype[Any]

    def fed(self, images: Array) -> Array:
        """Return images `[N, 3, S, S]` in the model's layout and format; whole numbers are rounded.

        Raises `UserError` for images of another size than the model's.
        """
        if any(side not in (None, images.shape[-1]) for side in self.sides):
            wanted, given = "x".join(str(side or "any") for side in self.sides), images.shape[-1]
            raise UserError(
                f"{self.path}: a teacher of images of {wanted}, and these have {given}x{given} (data.size); set "
                "data.size to that, or choose another teacher"
            )
        laid = np.moveaxis(images, 1, -1) if self.channels_last else images
        if np.issubdtype(self.dtype, np.integer):
            bounds = np.iinfo(self.dtype)
            laid = np.clip(np.rint(laid), bounds.min, bounds.max)
        return np.ascontiguousarray(laid, dtype=self.dtype)


def onnx_teacher(path: Path, batch: int, threads: int | None, classes: int) -> "OnnxTeacher":
    """Return a teacher of `classes` classes in an ONNX file with one input, on ONNX Runtime's CPU.

    It computes `batch` images in a call, or as many as its file says. `threads` is as many as PyTorch uses if None.

    Raises `UserError` for a file that is missing or cannot be loaded.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the teacher's in train.distillation.teacher")
    proto, model = _read(path)
    device = Device(name="teacher", runtime="onnxruntime", batch=batch, threads=threads or torch.get_num_threads())
    try:
        session = OnnxRuntime().open(model, device)
    except UserError as error:
        raise UserError(str(error).replace("the model:", f"{path}:", 1)) from None
    if len(session.inputs) != 1:
        raise UserError(f"{path}: a teacher has one input, the images; this has {', '.join(session.inputs) or 'none'}")
    return OnnxTeacher(session, _input_of(path, proto, next(iter(session.inputs))), batch, classes)


class OnnxTeacher:
    """A `Teacher`: from images `[N, 3, S, S]`, any N, to the first output that is a row of numbers for each class."""

    def __init__(self, session: Any, images: _Images, batch: int, classes: int) -> None:
        self._session, self._images, self._classes = session, images, classes
        # Always as many: a file that leaves its batch open may have been written for one size all the same.
        self._batch = images.batch or batch

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `[N, classes]` where the images are, float32."""
        given = images.detach().float().cpu().numpy()
        parts = [self._part(given[at : at + self._batch]) for at in range(0, len(given), self._batch)]
        return torch.from_numpy(np.concatenate(parts)).to(images.device)

    def _part(self, given: Array) -> Array:
        """Compute the logits of at most as many images as a call has.

        The last one stands for those that are missing.
        """
        missing = self._batch - len(given)
        whole = np.concatenate([given, np.repeat(given[-1:], missing, axis=0)]) if missing else given
        outputs = self._session.run({self._images.name: self._images.fed(whole)})
        # Some exporters keep the 1x1 that pooling leaves.
        flat = [_without_ones(output) for output in outputs if isinstance(output, np.ndarray)]
        fitting = [output for output in flat if output.shape == (self._batch, self._classes)]
        chosen = (fitting or flat or [np.zeros(0)])[0]
        return np.asarray(chosen[: len(given)] if chosen.ndim else chosen[None], dtype=np.float32)


def _without_ones(output: Array) -> Array:
    """`[N, classes]` of `[N, classes, 1, 1]`; others as they are."""
    if output.ndim > 2 and set(output.shape[2:]) == {1}:
        return output.reshape(output.shape[:2])
    return output


def _read(path: Path) -> tuple[Any, Model]:
    """What a file says of its model (None if it is no ONNX), and what a runtime opens: bytes if tensors lie beside it.

    The names of these files are checked by ONNX, and lead nowhere but to the model's own folder.
    """
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError):
        return None, path
    if not any(uses_external_data(tensor) for tensor in proto.graph.initializer):
        return proto, path
    try:
        whole = onnx.load(str(path))
        return proto, whole.SerializeToString()
    except (ValidationError, EncodeError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: its weights in other files cannot be read ({one_line(error)}); put those beside it, as they were "
            "exported, or export one file"
        ) from None


def _input_of(path: Path, proto: Any, name: str) -> _Images:
    """Return the input of that name; what is not a picture in channels-last layout is taken for one in the other."""
    (value,) = [value for value in proto.graph.input if value.name == name]
    tensor = value.type.tensor_type
    shape: list[int | None] = [dim.dim_value or None for dim in tensor.shape.dim]
    if not tensor.HasField("shape"):
        shape = [None] * 4
    if len(shape) != 4:
        raise UserError(f"{path}: a teacher takes images [N, 3, S, S], and this an input of {len(shape)} dimensions")
    last = shape[3] == _CHANNELS and shape[1] != _CHANNELS
    sides = (shape[1], shape[2]) if last else (shape[2], shape[3])
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return _Images(path, name, shape[0], sides, last, dtype)
