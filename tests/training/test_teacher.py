"""Teachers give the logits of their model, and what does not fit is refused."""

import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from nasdeploy.convert import quick_onnx
from nasdeploy.core.errors import UserError
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import kl_divergence, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.onnx_teacher import onnx_teacher
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import SandwichStep
from nasdeploy.training.teacher import require_fit, torchvision_teacher, without_gradient
from tests.nn.reference import randomise
from tests.small_spaces import two_stages
from tests.supernet.test_weights import Greedy

NAME = "squeezenet1_1"
SIDE = 33


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small classifier of 3 classes, as torchvision makes it."""
    torch.manual_seed(0)
    made: nn.Module = torchvision.models.get_model(NAME, weights=None, num_classes=3)
    return made.eval()


@pytest.fixture
def weights(network: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "teacher.pth"
    torch.save(network.state_dict(), path)
    return path


def images(count: int = 2, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def refusal(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_model_of_torchvision_with_weights_from_a_file(suffix: str, network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    made = torchvision_teacher(NAME, path, 3)
    assert not made.training
    found = without_gradient(made)(images())
    with torch.no_grad():
        assert torch.equal(found, network(images()))


def test_a_teacher_leaves_the_random_state_alone(weights: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    torchvision_teacher(NAME, weights, 3)
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_may_keep_a_teachers_logits_for_its_gradient(weights: Path) -> None:
    made = torchvision_teacher(NAME, weights, 3)
    logits = without_gradient(made)(images())
    assert not logits.requires_grad
    student = torch.zeros(2, 3, requires_grad=True)
    torch.autograd.backward(kl_divergence(student, logits))
    torch.testing.assert_close(student.grad, (torch.full((2, 3), 1 / 3) - logits.softmax(1)) / 2)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in made.parameters())


def test_an_unknown_model_is_named_with_the_nearest(weights: Path) -> None:
    said = refusal(lambda: torchvision_teacher("squeezenet11", weights, 3))
    assert said.startswith("teacher torchvision:squeezenet11: unknown model; did you mean 'squeezenet1_")


def test_weights_for_another_number_of_classes(weights: Path) -> None:
    said = refusal(lambda: torchvision_teacher(NAME, weights, 10))
    assert said == f"{weights}: a teacher of 3 classes, and the data have 10"


def test_weights_of_another_model(weights: Path) -> None:
    said = refusal(lambda: torchvision_teacher("squeezenet1_0", weights, 3))
    assert said.startswith(f"{weights}: no weights of torchvision's squeezenet1_0 (features.0.weight does not fit)")


def test_weights_of_no_number_teach_nothing(network: nn.Module, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["features.0.bias"][3] = float("inf")
    torch.save(state, tmp_path / "w.pth")
    said = refusal(lambda: torchvision_teacher(NAME, tmp_path / "w.pth", 3))
    found = "features.0.bias holds infinity in 1 of 64 numbers"
    assert said == f"{tmp_path}/w.pth: no weights of a teacher: {found}; name another file"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a state dict", b"PK\x03\x04" + b"\0" * 64])
def test_a_file_that_is_no_state_dict(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    said = refusal(lambda: torchvision_teacher(NAME, path, 3))
    assert said.startswith(f"{path}: damaged, or no state dict")


def test_a_missing_file_and_a_pickled_model(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    assert f"{path}: no such file" in refusal(lambda: torchvision_teacher(NAME, path, 3))
    torch.save(network, path)
    assert "save it with model.state_dict()" in refusal(lambda: torchvision_teacher(NAME, path, 3))


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"features.0.bias": Greedy()}, path)
    tracemalloc.start()
    assert "save it with model.state_dict()" in refusal(lambda: torchvision_teacher(NAME, path, 3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 24


# -- ONNX


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """The largest network of a tiny space, of 3 classes, for batches of 4."""
    torch.manual_seed(2)
    supernet = Supernet(two_stages())
    randomise(supernet)
    made = extract(supernet, two_stages().largest()).eval()
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    path.write_bytes(quick_onnx(made, [made.plan.only.inputs[0][1]], batch=4))
    return path, made


def side_of(network: nn.Module) -> int:
    return network.plan.only.inputs[0][1].shape[-1]


def test_an_onnx_file_gives_its_first_output(onnx: tuple[Path, nn.Module]) -> None:
    path, network = onnx
    given = images(4, side_of(network)).to(memory_format=torch.channels_last)
    found = onnx_teacher(path, 4, threads=1, classes=3)(given)
    with torch.no_grad():
        torch.testing.assert_close(found, network(given), rtol=1e-4, atol=1e-5)
    assert (found.dtype, found.requires_grad) == (torch.float32, False)


def test_an_onnx_file_that_is_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    assert refusal(lambda: onnx_teacher(path, 2, None, 3)).startswith(f"{path}: no such file")
    path.write_bytes(b"not ONNX")
    assert refusal(lambda: onnx_teacher(path, 2, None, 3)).startswith(f"{path}: ONNX Runtime cannot load it")


# -- what fits the data


def test_a_teacher_that_fits(onnx: tuple[Path, nn.Module], weights: Path) -> None:
    path, network = onnx
    for teacher, batch in (
        (onnx_teacher(path, 4, 1, 3), images(4, side_of(network))),
        (without_gradient(torchvision_teacher(NAME, weights, 3)), images()),
    ):
        require_fit(teacher, "x", batch, 3)
        assert teacher(batch).shape == (len(batch), 3)


def test_images_of_another_size(onnx: tuple[Path, nn.Module], weights: Path) -> None:
    path, network = onnx
    side = side_of(network) + 4
    said = refusal(lambda: require_fit(onnx_teacher(path, 4, 1, 3), "onnx:x", images(4, side), 3))
    assert said.startswith(
        f"{path}: a teacher of images of {side - 4}x{side - 4}, and these have {side}x{side} (data.size)"
    )
    small = without_gradient(torchvision_teacher(NAME, weights, 3))
    assert "torchvision:x: refuses" in refusal(lambda: require_fit(small, "torchvision:x", images(2, 4), 3))


def test_another_number_of_classes(onnx: tuple[Path, nn.Module]) -> None:
    path, network = onnx
    said = refusal(lambda: require_fit(onnx_teacher(path, 4, 1, 3), "onnx:x", images(4, side_of(network)), 7))
    assert said == "teacher onnx:x: 3 classes, and the data have 7; choose another teacher"


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3), ()])
def test_what_is_no_row_of_logits_for_each_image(shape: tuple[int, ...]) -> None:
    said = refusal(lambda: require_fit(lambda images: torch.zeros(shape), "onnx:x", images(), 3))
    assert "for 2 images, not a row of logits for each" in said
    assert np.prod(shape) != 6


def test_a_teacher_under_autocast_and_the_step_that_learns_from_it(onnx: tuple[Path, nn.Module]) -> None:
    space, (_, network) = two_stages(), onnx
    supernet = Supernet(space)
    given = images(4, side_of(network))
    teacher = without_gradient(network.requires_grad_(False))
    step = SandwichStep(
        supernet, Classification(), Objective(partial(label_loss, smoothing=0.1), kl_divergence, 0.5), {}, teacher
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher(given).dtype == torch.bfloat16
        losses = step(draw(space, 1, np.random.default_rng(0)), (given,), torch.tensor([0, 1, 2, 0]))
    assert losses.by_role["largest"] > 0
    gradients = [parameter.grad for parameter in supernet.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert all(parameter.grad is None for parameter in network.parameters())
