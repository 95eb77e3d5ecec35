"""ONNX teachers get what their file asks for, and give a row of logits for each image."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.data.settings import IMAGENET_MEAN, IMAGENET_STD
from nasdeploy.data.transforms import normalise
from nasdeploy.training.onnx_teacher import onnx_teacher
from tests.training.colours import SIDE, colour, write_teacher

CLASSES = 4
ORDER = tuple(range(CLASSES))
BYTES = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}


def pixels(count: int) -> tuple[Tensor, list[int]]:
    """Plain pictures uint8 `[N, 3, S, S]`, and their classes."""
    labels = [number % CLASSES for number in range(count)]
    colours = np.array([255 * colour(label, CLASSES) for label in labels])
    return torch.from_numpy(colours.astype(np.uint8))[:, :, None, None].expand(-1, -1, SIDE, SIDE), labels


def images(count: int) -> tuple[Tensor, list[int]]:
    found, labels = pixels(count)
    return normalise(found, IMAGENET_MEAN, IMAGENET_STD), labels


@pytest.mark.parametrize("fixed", [4, 16])
@pytest.mark.parametrize("count", [1, 3, 4, 12, 16, 21])
def test_a_fixed_batch_serves_any_number_of_images(fixed: int, count: int, tmp_path: Path) -> None:
    given, labels = images(count)
    free = onnx_teacher(write_teacher(tmp_path / "free.onnx", ORDER), count, 1, CLASSES)
    teacher = onnx_teacher(write_teacher(tmp_path / "fixed.onnx", ORDER, batch=fixed), 8, 1, CLASSES)
    assert teacher(given).argmax(1).tolist() == labels
    torch.testing.assert_close(teacher(given), free(given))


def test_a_file_that_says_nothing_of_the_batch_it_was_written_for(tmp_path: Path) -> None:
    """A Reshape to 8 rows inside, and an input of any batch: a last batch of 3 would fail."""
    shape = numpy_helper.from_array(np.array([8, CLASSES]), "shape")
    path = write_teacher(
        tmp_path / "t.onnx", ORDER, ending=[("Reshape", ("y", "shape"), "z")], outputs=("z",), values=(shape,)
    )
    given, labels = images(11)
    assert onnx_teacher(path, 8, 1, CLASSES)(given).argmax(1).tolist() == labels


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("channels_last", [False, True])
def test_number_formats_and_layouts(dtype: int, channels_last: bool, tmp_path: Path) -> None:
    given, labels = images(6)
    path = write_teacher(tmp_path / "t.onnx", ORDER, dtype=dtype, channels_last=channels_last)
    found = onnx_teacher(path, 6, 1, CLASSES)(given.to(memory_format=torch.channels_last))
    assert found.argmax(1).tolist() == labels
    assert found.dtype == torch.float32


def test_bytes_are_rounded(tmp_path: Path) -> None:
    given, labels = pixels(6)
    path = write_teacher(tmp_path / "t.onnx", ORDER, dtype=TensorProto.UINT8, channels_last=True, **BYTES)  # type: ignore[arg-type]
    exact = write_teacher(tmp_path / "e.onnx", ORDER, **BYTES)  # type: ignore[arg-type]
    # Normalised and back they are no whole numbers any more.
    found = onnx_teacher(path, 6, 1, CLASSES)(given.float() - 0.01)
    assert found.argmax(1).tolist() == labels
    torch.testing.assert_close(found, onnx_teacher(exact, 6, 1, CLASSES)(given.float()))


def test_of_several_outputs_the_first_that_is_a_row_for_each_image(tmp_path: Path) -> None:
    given, _ = images(5)
    (logits,) = (onnx_teacher(write_teacher(tmp_path / "y.onnx", ORDER), 5, 1, CLASSES)(given),)
    features = write_teacher(tmp_path / "f.onnx", ORDER, outputs=("p", "y"))
    torch.testing.assert_close(onnx_teacher(features, 5, 1, CLASSES)(given), logits)


def test_ones_that_pooling_left_are_dropped(tmp_path: Path) -> None:
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    path = write_teacher(
        tmp_path / "t.onnx", ORDER, ending=[("Unsqueeze", ("y", "axes"), "z")], outputs=("z",), values=(axes,)
    )
    given, labels = images(5)
    assert onnx_teacher(path, 5, 1, CLASSES)(given).argmax(1).tolist() == labels


def test_weights_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_teacher(tmp_path / "elsewhere/t.onnx", ORDER, beside=True)
    assert (tmp_path / "elsewhere/t.onnx.data").exists()
    monkeypatch.chdir(tmp_path)
    given, labels = images(5)
    assert onnx_teacher(path, 5, 1, CLASSES)(given).argmax(1).tolist() == labels
    (tmp_path / "elsewhere/t.onnx.data").unlink()
    assert "its weights in other files cannot be read" in refusal(path)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        onnx_teacher(path, 4, 1, CLASSES)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("place", ["../secret.bin", "absolute"])
def test_weights_outside_the_files_folder_are_not_read(place: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    path = write_teacher(tmp_path / "inner/t.onnx", ORDER, beside=True)
    (tmp_path / "inner/t.onnx.data").rename(secret)
    model: Any = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(secret) if place == "absolute" else place
    path.write_bytes(model.SerializeToString())
    assert "its weights in other files cannot be read" in refusal(path)


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_of_another_size_are_refused_with_the_one_that_fits(channels_last: bool, tmp_path: Path) -> None:
    path = write_teacher(tmp_path / "t.onnx", ORDER, channels_last=channels_last)
    teacher = onnx_teacher(path, 4, 1, CLASSES)
    with pytest.raises(UserError) as caught:
        teacher(torch.zeros(4, 3, 12, 12))
    assert str(caught.value) == (
        f"{path}: a teacher of images of 8x8, and these have 12x12 (data.size); set data.size to that, or choose "
        "another teacher"
    )


def test_an_input_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    model: Any = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> flat (float[N, 192] x) => (float[N, 192] y) { y = Identity(x) }'
    )
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    assert "a teacher takes images [N, 3, S, S], and this an input of 2 dimensions" in refusal(tmp_path / "t.onnx")
