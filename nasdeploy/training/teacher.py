"""Teachers from outside the supernet, which learn nothing (AlphaNet, appendix C): classifiers of images, and others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError, one_line, suggestion
from nasdeploy.core.space import RESOLUTION, SearchSpace
from nasdeploy.nn import eager
from nasdeploy.nn.functional import BATCH, Context
from nasdeploy.runtimes.onnxruntime import onnxruntime_errors
from nasdeploy.supernet.archives import UnreadableArchive, open_archive
from nasdeploy.supernet.supernet import SubNetwork
from nasdeploy.supernet.tensor_files import read_tensors
from nasdeploy.supernet.weights import uncomputable
from nasdeploy.tasks.task import Outputs, Task
from nasdeploy.training.trial import Classifier, Normalisation, Reading

Teacher = Callable[..., Outputs]
"""A function from a task's inputs, prepared as the recipe says, to its outputs without a gradient.

That of a classifier takes images `[N, 3, S, S]` and gives logits `[N, classes]`."""


def without_gradient(network: Callable[..., Outputs]) -> Teacher:
    """Return the network as a teacher, in the mode that it is in."""

    def teach(*inputs: Tensor) -> Outputs:
        with torch.inference_mode():
            outputs = network(*inputs)
        # A loss must not keep a tensor of inference mode for its backward pass.
        return _cloned(outputs)

    return teach


def _cloned(outputs: Outputs) -> Outputs:
    return outputs.clone() if isinstance(outputs, Tensor) else tuple(map(_cloned, outputs))


@dataclass(frozen=True)
class SizedTeacher:
    """A `Teacher`: the largest network of a space, by batch statistics, at the resolution of those that it teaches."""

    weights: nn.ModuleDict
    """The network's weights by slot."""
    space: SearchSpace
    task: Task

    def beside(self, archs: Sequence[Arch]) -> Teacher:
        """Return the teacher of some networks: at their resolution if they share one, else at its own."""
        largest, shared = self.space.largest(), {arch.get(RESOLUTION) for arch in archs}
        if len(shared) == 1 and RESOLUTION in largest:
            largest = self.space.arch({**largest, RESOLUTION: shared.pop()})
        network = SubNetwork(self.weights, self.space.plan(largest), {}, Context(BATCH), eager)
        return without_gradient(lambda *inputs: self.task.outputs(network, inputs))

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Return the outputs at its own resolution."""
        return self.beside(())(*inputs)


@dataclass(frozen=True)
class ReadTeacher:
    """A `Teacher`: a classifier that may expect its images otherwise, or give its answers so, than training does."""

    classifier: Classifier
    given: Normalisation
    """The normalisation of the images that it is called with."""
    reading: Reading
    columns: Sequence[int]
    """The place among its outputs of each class."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits `[N, classes]` of images `[N, 3, S, S]`."""
        if self.reading.normalisation != self.given:
            images = _renormalised(images, self.given, self.reading.normalisation)
        logits = self.classifier(images)
        if self.reading.probabilities:
            # float32 holds no logarithm of less; a probability of 0 is one that was rounded.
            logits = logits.float().clamp_min(_LEAST_PROBABILITY).log()
        if list(self.columns) == list(range(logits.shape[-1])):
            return logits
        return logits[:, list(self.columns)]


_LEAST_PROBABILITY = 1e-12
_MOST_NAMED = 3


def _renormalised(images: Tensor, given: Normalisation, wanted: Normalisation) -> Tensor:
    of_given, of_given_std, mean, std = (
        torch.tensor(values, dtype=torch.float32, device=images.device).view(3, 1, 1)
        for values in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return (images.float() * of_given_std + of_given - mean) / std


def torchvision_teacher(name: str, weights: Path, classes: int) -> nn.Module:
    """Return a classifier of torchvision in evaluation mode, with the state dict in a file (PyTorch's or safetensors).

    Raises `UserError` for an unknown name, a file that cannot be read, or weights of another network or number of
    classes.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UserError(f"teacher torchvision:{name}: unknown model{suggestion(name, known)}")
    state = _read_state(weights)
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    own = network.state_dict()
    differing = [key for key in own if key not in state or state[key].shape != own[key].shape]
    differing += [key for key in state if key not in own]
    if differing and all(_is_classifier(own.get(key), state.get(key), classes) for key in differing):
        raise UserError(f"{weights}: a teacher of {len(state[differing[0]])} classes, and the data have {classes}")
    if differing:
        raise UserError(
            f"{weights}: no weights of torchvision's {name} ({differing[0]} does not fit); name its own file"
        )
    if (defect := uncomputable(state)) is not None:
        raise UserError(f"{weights}: no weights of a teacher: {defect}; name another file")
    network.load_state_dict(state)
    return network.requires_grad_(False).eval()


def _is_classifier(own: Tensor | None, given: Tensor | None, classes: int) -> bool:
    """Return whether two tensors differ in the number of classes alone."""
    if own is None or given is None or own.ndim == 0 or own.ndim != given.ndim:
        return False
    return len(own) == classes and own.shape[1:] == given.shape[1:]


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the teacher's state dict in train.distillation.teacher_weights")
    try:
        state: Any = read_tensors(path).tensors if path.suffix == ".safetensors" else open_archive(path).everything()
    except UnreadableArchive:
        state = None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: damaged, or no state dict (names and tensors alone); save it with model.state_dict()")
    return state


def require_fit(teacher: Teacher, name: str, images: Tensor, classes: int) -> None:
    """Try a teacher on images of a step's shape; raises `UserError` if it refuses them or has other classes."""
    refusals: tuple[type[Exception], ...] = (
        RuntimeError,
        ValueError,
        AssertionError,
        IndexError,
        *onnxruntime_errors(),
    )
    try:
        logits = teacher(images)
    except refusals as error:
        raise UserError(
            f"teacher {name}: refuses batches of shape {_shape(images)} ({one_line(error)}); choose data.size and "
            "train.batch_size for it, or another teacher"
        ) from None
    if logits.ndim != 2 or len(logits) != len(images):
        raise UserError(
            f"teacher {name}: gives {_shape(logits)} for {len(images)} images, not a row of logits for each"
        )
    if logits.shape[1] != classes:
        raise UserError(
            f"teacher {name}: {logits.shape[1]} classes, and the data have {classes}; choose another teacher"
        )


def not_finite(teacher: str, names: Sequence[str], among: str, autocast: str) -> UserError:
    """Return the refusal of a teacher that gives NaN or infinity for some samples, by name, `among` others."""
    more = len(names) - _MOST_NAMED
    named = ", ".join(names[:_MOST_NAMED]) + (f", and {more} more" if more > 0 else "")
    wider = "" if autocast == "none" else f", set train.autocast=none in place of {autocast}"
    return UserError(
        f"teacher {teacher}: gives numbers that are not finite for {named} (of {among}); remove what is wrong with "
        f"{'it' if len(names) == 1 else 'them'}{wider}, or choose another teacher"
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a single number"
