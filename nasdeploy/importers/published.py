"""Published supernets that were trained with other code: read from a file without running anything in it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from nasdeploy.core.errors import UserError, lookup, one_line
from nasdeploy.core.space import SearchSpace
from nasdeploy.importers.layouts import COUNTER, PUBLISHED, Layout
from nasdeploy.importers.weights import GivenWeights, differences, read_state_dict
from nasdeploy.spaces import IMAGENET_CLASSES, load_space
from nasdeploy.supernet.settings import StartSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import unsound

_STATISTICS = ("running_mean", "running_var")
_CLASSIFIER = "weights.head.classifier."


@dataclass(frozen=True)
class PublishedSupernet:
    """A supernet from a file of another code."""

    kind: str
    path: Path
    space: str
    """The name of the registered space that it is of."""
    recipe: str
    """The name of the shipped recipe that says how it was trained, and on which images."""
    classes: int
    weights: Mapping[str, Tensor]
    """The weights by the names of our state dict, all but its counters of batches."""
    tensors: int
    """The number of tensors of parameters in the file."""
    parameters: int
    """The number of parameters in these."""
    notes: tuple[str, ...]
    """What a user should know of the file, a line each."""

    def weights_of(self, classifier: bool) -> Mapping[str, Tensor]:
        """Return the weights with or without the classifier's."""
        return {key: tensor for key, tensor in self.weights.items() if classifier or not key.startswith(_CLASSIFIER)}


@dataclass(frozen=True)
class _Fitted:
    """What the tensors of a file are as a supernet of a space."""

    space: str
    classes: int
    """The number of classes of the classifier; that of ImageNet where it has none."""
    weights: Mapping[str, Tensor]
    """The tensors by the names of our state dict, with what a new supernet has in place of what the file may lack."""
    parameters: Mapping[str, Tensor]
    """The tensors of the file that are parameters, by their names in it, with those that no network computes with."""
    problems: tuple[str, ...]
    """What is missing, surplus or of another shape, counted and named as in the file; empty where the file fits."""
    notes: tuple[str, ...]
    """What the file lacks that it may lack."""


def read_published(kind: str, path: Path) -> PublishedSupernet:
    """Return the supernet in a file of `torch.save` or safetensors, which is of the layout of that kind.

    Raises `UserError`, in one line, for an unknown kind, for a file that holds no weights or those of another network,
    saying of which one it is if that is known, and for weights that nothing can be computed with.
    """
    layout = lookup("kind of published supernets", PUBLISHED, kind)
    given = read_state_dict(path)
    found = _fitted(layout, given.tensors)
    if found.problems:
        raise UserError(f"{path}: no weights of {kind}: {_problems(kind, found, given)}")
    if (defect := unsound(found.weights)) is not None:
        raise UserError(f"{path}: no weights to compute with: {one_line(defect)}; name another file")
    return PublishedSupernet(
        kind,
        path,
        found.space,
        layout.recipes[found.space],
        found.classes,
        found.weights,
        len(found.parameters),
        sum(tensor.numel() for tensor in found.parameters.values()),
        (*found.notes, *([] if given.told is None else [given.told])),
    )


def _problems(kind: str, found: _Fitted, given: GivenWeights) -> str:
    """Return what a file is of, if that is known, else how it differs from the space that it is most alike."""
    for other, layout in PUBLISHED.items():
        another = _fitted(layout, given.tensors)
        if other != kind and not another.problems:
            return f"it holds those of space {another.space}; read it as {other}"
    return f"as space {found.space} it has {', '.join(found.problems)}; name a file of {kind}"


def published_weights(start: StartSettings, space: SearchSpace) -> Mapping[str, Tensor]:
    """Return the weights of the published supernet that a recipe starts from, for a supernet of `space`.

    They lack the classifier where the classes are others in number, or a new one is asked for. Raises `UserError` as
    `read_published`, and for weights of another space.
    """
    found = read_published(start.kind, Path(start.name))
    weights = found.weights_of(classifier=found.classes == space.output_size and start.classifier == "keep")
    with torch.device("meta"):
        own = {key: tensor.shape for key, tensor in Supernet(space).state_dict().items()}
    differing = [key for key, tensor in weights.items() if own.get(key) != tensor.shape]
    missing = [key for key in own if key not in found.weights and not key.endswith(COUNTER)]
    if differing or missing:
        raise UserError(
            f"start.model {start.model}: weights of space {found.space}, and that of the recipe is {space.name}, which "
            f"differs in {(differing or missing)[0]}; write the recipe anew with `nd.init(start={start.kind}:FILE)`"
        )
    return weights


# -- as a supernet of ours


def _fitted(layout: Layout, tensors: Mapping[str, Tensor]) -> _Fitted:
    """Return the tensors of a file as the supernet of that space of the layout which they fit best."""
    given = {layout.plain(name): tensor for name, tensor in tensors.items()}
    # Two names of one entry would hide one of its tensors.
    if len(given) < len(tensors):
        given = dict(tensors)
    found = [_fitted_to(layout, space, given) for space in layout.recipes]
    return min(found, key=lambda each: (len(each.problems) > 0, -len(each.weights)))


def _fitted_to(layout: Layout, space: str, given: Mapping[str, Tensor]) -> _Fitted:
    own, classes = _state_of(space, layout, given)
    names = layout.names(own)
    lacking, notes = _lacking(layout, names, given)
    expected = {names[key]: tuple(tensor.shape) for key, tensor in own.items() if key in names and key not in lacking}
    used = {name: tensor for name, tensor in given.items() if not _is_unused(name, layout, expected)}
    weights = {
        key: given[name]
        for key, name in names.items()
        if name in given and tuple(given[name].shape) == tuple(own[key].shape)
    } | {key: _initial(key, own[key]) for key in lacking}
    parameters = {name: tensor for name, tensor in given.items() if _is_parameter(name)}
    return _Fitted(space, classes, weights, parameters, tuple(differences(expected, used)), notes)


def _state_of(space: str, layout: Layout, given: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], int]:
    """Return the state dict of the space's supernet, without memory, for as many classes as the file has."""
    own = _state(space, IMAGENET_CLASSES)
    head = given.get(layout.names(own)[f"{_CLASSIFIER}weight"])
    if head is None or not head.numel() or head.shape[1:] != own[f"{_CLASSIFIER}weight"].shape[1:]:
        return own, IMAGENET_CLASSES
    return _state(space, len(head)), len(head)


@lru_cache(maxsize=4)
def _state(space: str, classes: int) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        return Supernet(load_space(space, classes)).state_dict()


def _lacking(layout: Layout, names: Mapping[str, str], given: Collection[str]) -> tuple[set[str], tuple[str, ...]]:
    """Return the entries that the file may lack and does: all of a kind, and what to know of that."""
    kinds = {
        "no running statistics are in it: recalibrate, as exports and searches do": [
            key for key in names if key.endswith(_STATISTICS)
        ],
        "no kernel transforms are in it: smaller kernels are the centres of the largest": [
            key for key in names if layout.transforms is not None and key.split(".")[2] == layout.transforms
        ],
    }
    found = {note: keys for note, keys in kinds.items() if keys and not any(names[key] in given for key in keys)}
    return {key for keys in found.values() for key in keys}, tuple(found)


def _initial(key: str, like: Tensor) -> Tensor:
    """Return the value in a new supernet of what a file may lack: a statistic, or the matrix of a kernel transform."""
    if key.endswith(_STATISTICS):
        return torch.full(like.shape, float(key.endswith("var")))
    return torch.eye(len(like))


def _is_unused(name: str, layout: Layout, expected: Collection[str]) -> bool:
    return name not in expected and (name.endswith(f".{COUNTER}") or layout.unused.fullmatch(name) is not None)


def _is_parameter(name: str) -> bool:
    return not name.endswith((*_STATISTICS, COUNTER)) and "bn_tracking" not in name
