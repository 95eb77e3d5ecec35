"""Supernet weights in files: written whole, read without pickle, and only into the space that they belong to.

Checkpoints, which hold an optimizer's state beside the weights, are files of PyTorch, and what is handed on is one of
safetensors. Weights that nothing can be learned from or computed with are told before anything starts from them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.store.checkpoints import is_whole, supernet_facts, supernet_file
from nasdeploy.store.files import replacing
from nasdeploy.store.run import Facts, Run
from nasdeploy.supernet.archives import UnreadableArchive, open_archive
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.tensor_files import TensorFile, digest_of, read_tensors, write_tensors

_SCHEMA = 1
_HEAD = "weights.head.classifier."
_OTHER_WEIGHTS = "give `init` another run or file"
_OTHER_CHECKPOINT = "delete it to go on from the one before"
_ANOTHER_TRAINING = "restore it, or train anew with `restart=True`"
_ARCHIVES = (".pt", ".pth")
_SAFE = ".safetensors"
_STATED = "nasdeploy"
"""The key of the header's metadata under which JSON says what the weights are of."""
FORMATS = (*_ARCHIVES, _SAFE)
"""Suffixes of files that a supernet can start from."""
_MOST_NAMED = 3


def save(path: Path, supernet: Supernet, **more: Any) -> None:
    """Write the weights, with what else belongs to them (tensors and plain values), whole or not at all."""
    content = {"schema": _SCHEMA, "space": supernet.space.digest, "weights": supernet.state_dict(), **more}
    # A file of Python's says why it cannot be written (a quota, say); torch's own does not.
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(content, file)


def keep_trained(run: Run, space: str, weights: Mapping[str, Tensor], epoch: int) -> Facts:
    """Write the weights that training ended with into a run of a space (its digest), after so many epochs.

    The result is what the manifest says of them: facts that `Run.finish` takes, which make them the run's. They appear
    whole or not at all; raises `UserError` if they cannot be written, and if the run was deleted meanwhile.
    """
    with run.lock():
        run.require_there()
        with replacing(supernet_file(run)) as partial:
            write_alone(partial, space, weights, epoch)
    return supernet_facts(supernet_file(run), epoch)


def write_alone(path: Path, space: str, weights: Mapping[str, Tensor], epoch: int) -> None:
    """Write the weights of a supernet of a space (its digest), after so many epochs, as a file of safetensors."""
    stated = {"schema": _SCHEMA, "space": space, "epoch": epoch, "sha256": digest_of(weights)}
    write_tensors(path, weights, {_STATED: json.dumps(stated)})


def read(path: Path, remedy: str = _OTHER_CHECKPOINT) -> dict[str, Any]:
    """Return the content of a weights file: a checkpoint, or one of safetensors.

    Raises `UserError` if it is missing, damaged (with a `remedy`) or none of ours.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; train first, or name the run that holds it")
    if (content := _content(path)) is None:
        raise UserError(f"{path}: damaged, or no weights of nasdeploy; {remedy}")
    if not _is_ours(content):
        raise UserError(f"{path}: no weights of this version of nasdeploy; train again with `restart=True`")
    found: dict[str, Any] = content
    return found


def _content(path: Path) -> Any:
    """Return what a file holds, {} if that is more than tensors and plain values, and None if it is damaged."""
    if path.suffix == _SAFE:
        return _safe(path)
    if not is_whole(path):
        return None
    try:
        return open_archive(path).everything()
    except UnreadableArchive:
        return {}


def _safe(path: Path) -> dict[str, Any] | None:
    """Return what a file of safetensors says of its weights beside them, the weights alone where it is not ours, and
    None if it is damaged."""
    try:
        file = read_tensors(path)
        stated = _stated(file)
    except (UnreadableArchive, OSError):
        return None
    if stated is None:
        return dict(file.tensors)
    return {**stated, "weights": file.tensors} if stated.get("sha256") == digest_of(file.tensors) else None


def _stated(file: TensorFile) -> dict[str, Any] | None:
    """Return what we wrote beside weights; None if we did not."""
    if _STATED not in file.metadata:
        return None
    try:
        stated = json.loads(file.metadata[_STATED])
    except (ValueError, RecursionError):
        stated = None
    if not isinstance(stated, dict):
        raise UnreadableArchive("its metadata is damaged")
    return stated


def _is_ours(content: Any) -> bool:
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        return False
    return _are_tensors(content.get("weights")) and isinstance(content.get("space"), str)


def _are_tensors(weights: Any) -> bool:
    """Return whether it is a state dict."""
    return isinstance(weights, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )


def load_supernet(path: Path, space: SearchSpace) -> Supernet:
    """Return the supernet of `space` with the weights in a file.

    Raises `UserError` if they are of another space, or nothing that a network can compute with.
    """
    supernet = Supernet(space)
    restore(supernet, read(path), path)
    return supernet


def restore(supernet: Supernet, content: Mapping[str, Any], path: Path, remedy: str = _ANOTHER_TRAINING) -> None:
    """Load the content of `path` into a supernet of the same space; `remedy` says what to do with weights of NaN."""
    if content["space"] != supernet.space.digest:
        raise UserError(
            f"{path}: weights of another search space ({content['space']}, not {supernet.space.digest} as "
            f"{supernet.space.name} is now); use the recipe that it was trained with"
        )
    try:
        supernet.load_state_dict(content["weights"])
    except RuntimeError:
        raise UserError(f"{path}: damaged, its tensors do not fit the space; restore it or train again") from None
    if (defect := unsound(content["weights"])) is not None:
        raise UserError(f"{path}: no weights to compute with: {defect}; {remedy}")


def initialise(supernet: Supernet, path: Path, *, classifier: bool = False) -> None:
    """Start from the weights in a file: everything but the classifier, which stays as it is unless it is asked for.

    The file is a checkpoint, or a supernet's state dict (names and tensors alone) of PyTorch or safetensors. Raises
    `UserError` if it cannot be read, if its space differs in more than the number of classes, or if it holds NaN or
    whatever else nothing can be learned from.
    """
    supernet.load_state_dict(_fitting(supernet, path, classifier), strict=False)


def require_initialises(space: SearchSpace, path: Path, *, classifier: bool = False) -> None:
    """Raise the `UserError` that `initialise` would, without the memory and the time of a supernet."""
    with torch.device("meta"):
        supernet = Supernet(space)
    _fitting(supernet, path, classifier)


def _fitting(supernet: Supernet, path: Path, classifier: bool) -> dict[str, Tensor]:
    """Return the weights in a file, with or without the classifier's."""
    own, weights = (
        {name: value for name, value in state.items() if classifier or not name.startswith(_HEAD)}
        for state in (supernet.state_dict(), _initial(path))
    )
    differing = [
        f"{name} {difference}"
        for name in sorted(own.keys() | weights.keys())
        if (difference := _difference(own.get(name), weights.get(name)))
    ]
    if differing:
        more = len(differing) - _MOST_NAMED
        named = ", ".join(differing[:_MOST_NAMED]) + (f", and {more} more" if more > 0 else "")
        raise UserError(
            f"`init` {path}: weights of another search space ({named}); it must be the same but for the number of "
            "classes"
        )
    if (defect := unsound(weights)) is not None:
        raise UserError(f"`init` {path}: no weights to start from: {defect}; {_OTHER_WEIGHTS}")
    return weights


def _difference(own: Tensor | None, given: Tensor | None) -> str | None:
    """Return how a tensor differs from that of the space, None if it does not."""
    if given is None:
        return "is missing"
    if own is None:
        return "is not of this space"
    return None if own.shape == given.shape else f"is {list(given.shape)}, not {list(own.shape)}"


def _initial(path: Path) -> Mapping[str, Tensor]:
    """Return a supernet's state dict, by itself or in a checkpoint."""
    if path.suffix not in FORMATS:
        raise UserError(f"`init` {path}: not a file of weights ({', '.join(FORMATS)}); {_OTHER_WEIGHTS}")
    if not path.is_file():
        raise UserError(f"`init` {path}: no such file; {_OTHER_WEIGHTS}")
    if (content := _content(path)) is None:
        kind = "safetensors" if path.suffix == _SAFE else "weights of nasdeploy"
        raise UserError(f"`init` {path}: damaged, or no {kind}; {_OTHER_WEIGHTS}")
    state = content["weights"] if _is_ours(content) else content
    if not state or not _are_tensors(state):
        raise UserError(f"`init` {path}: no weights of a supernet of this version; {_OTHER_WEIGHTS}")
    found: Mapping[str, Tensor] = state
    return found


def unsound(weights: Mapping[str, Tensor]) -> str | None:
    """Return what is wrong with a state dict, naming the first tensors; None if nothing is.

    Wrong are numbers that are not finite in float32, variances of batch normalisation that are negative, or zero in
    every channel, and convolutions and matrices of which all numbers are the same: training makes none of them. A
    single channel of variance zero is one that is always the same, which happens.
    """
    return _named([*_broken(weights), *_uniform(weights)])


def uncomputable(weights: Mapping[str, Tensor]) -> str | None:
    """Say what is wrong with weights of any network, in which a uniform matrix may have its sense."""
    return _named([*_broken(weights)])


def _broken(weights: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # As it is computed with: 1e300 in a file of float64 is infinite.
        values = tensor.float()
        if count := int((~values.isfinite()).sum()):
            kind = "NaN" if bool(values.isnan().any()) else "infinity"
            yield f"{name} holds {kind} in {count} of {values.numel()} numbers"
        elif name.endswith("running_var") and bool((values < 0).any()):
            yield f"{name} is negative, and it is a variance"
        elif name.endswith("running_var") and not bool(values.any()):
            yield f"{name} is zero everywhere, and it is a variance"


def _uniform(weights: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() > 1:
            values = tensor.float()
            first = values.flatten()[0]
            if bool(first.isfinite()) and bool(torch.all(values == first)):
                yield f"{name} is {float(first):g} everywhere"


def _named(found: Sequence[str]) -> str | None:
    """Return the first of what was found, and how many more there are."""
    if not found:
        return None
    more = len(found) - _MOST_NAMED
    return ", ".join(found[:_MOST_NAMED]) + (f", and {more} more tensors" if more > 0 else "")
