"""Weights that a user gives for a network of another library: read without running anything, and fitted into it."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.supernet.archives import UnreadableArchive, open_archive, stored_tensor
from nasdeploy.supernet.tensor_files import read_tensors
from nasdeploy.supernet.weights import uncomputable

PREFIXES = ("module.", "model.", "_orig_mod.")
"""What wrappers put before the name of every tensor: of several GPUs, of a training module, of a compiled network."""
KEYS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "weights", "net", "network", "params"),
)
"""The keys under which training scripts keep a network, best first: averaged weights are those that such a training is
judged by."""
_AVERAGED = "n_averaged"
"""What torch's own averaging counts beside the weights."""
_DEEPEST = 3
_MOST_NAMED = 5
_OTHER = "name a file with the network's state dict"


@dataclass(frozen=True)
class GivenWeights:
    """A state dict from a file, and how it was found there."""

    path: Path
    tensors: Mapping[str, Tensor]
    """The tensors by the network's own names, without the prefixes of wrappers."""
    taken: str = ""
    """The keys under which it was found, with dots between them; empty where the file holds nothing else."""
    passed_over: tuple[str, ...] = ()
    """The other keys under which there were weights."""

    @property
    def told(self) -> str | None:
        """A line on which of several weights were taken, None if there was one."""
        if not self.passed_over:
            return None
        return f"{self.path}: took the weights under '{self.taken}', not {', '.join(map(repr, self.passed_over))}"


def read_state_dict(path: Path) -> GivenWeights:
    """Return the weights in a file of `torch.save` or safetensors; nothing in it is run.

    It is a state dict, or a training script's dictionary that holds one under one of `KEYS`. Raises `UserError` for
    anything else, in one line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_OTHER}")
    try:
        if _is_safetensors(path):
            return GivenWeights(path, _stripped(read_tensors(path).tensors))
        archive = open_archive(path)
        found = list(_state_dicts(archive.content))
        if not found:
            raise UnreadableArchive("it holds no state dict, by itself or under one of the usual keys")
        keys, state = min(found, key=lambda each: _rank(each[0]))
        others = tuple(".".join(other) for other, _ in found if other != keys)
        tensors = archive.tensors({name: value for name, value in state.items() if isinstance(name, str)})
        return GivenWeights(path, _stripped(tensors), ".".join(keys), others)
    except UnreadableArchive as error:
        raise UserError(f"{path}: no weights, {error}; {_OTHER}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except MemoryError:
        raise UserError(f"{path}: too large for the memory of this machine; {_OTHER} alone") from None


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        begins = file.read(9)
    return path.suffix == ".safetensors" or begins[8:] == b"{"


def _state_dicts(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield the state dicts in a training script's dictionary, and the keys that lead there."""
    if not isinstance(content, Mapping):
        return
    inner = [
        found
        for key in KEYS
        if len(keys) < _DEEPEST and key in content
        for found in _state_dicts(content[key], (*keys, key))
    ]
    if inner:
        yield from inner
    elif any(stored_tensor(value) is not None for value in content.values()):
        yield keys, content


def _rank(keys: Sequence[str]) -> tuple[int, ...]:
    return tuple(KEYS.index(key) for key in keys)


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without what wrappers put before all of its names."""
    found = {name: tensor for name, tensor in tensors.items() if name != _AVERAGED}
    while found and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None)):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


# -- into a network


def load_into(model: nn.Module, given: GivenWeights, name: str) -> None:
    """Load weights into a network of another library, called `name`, which has as many classes as `classes_of` says.

    Raises `UserError`, and leaves the network as it is, for names that are missing or surplus, for other shapes, and
    for weights that nothing can be computed with.
    """
    own, weights = (_without_counters(tensors) for tensors in (model.state_dict(), _renamed(model, given.tensors)))
    found = differences({key: tuple(tensor.shape) for key, tensor in own.items()}, weights)
    if found:
        raise UserError(f"{given.path}: no weights of {name}: {', '.join(found)}; name the file of that network")
    if (defect := uncomputable(weights)) is not None:
        raise UserError(f"{given.path}: no weights to start from: {one_line(defect)}; {_OTHER}")
    model.load_state_dict(weights, strict=False)


def classes_of(model: nn.Module, given: GivenWeights) -> int:
    """Return the number of classes that weights for a network, whose own may be others, have a classifier for.

    Raises `UserError` for a network without a classifier.
    """
    weight = f"{_classifier(model)}.weight"
    found, own = _renamed(model, given.tensors).get(weight), model.state_dict()[weight]
    # Of what differs in more than classes the network's own are kept: it is refused when it is loaded.
    if found is None or not found.numel() or found.shape[1:] != own.shape[1:]:
        return len(own)
    return len(found)


def _renamed(model: nn.Module, given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return weights by the network's names where another library has other names for all of them.

    That is so if no name is the same, and the tensors have, in their order, the same last part of the name (`weight`,
    `running_mean`) and the same shape, but for the classifier's number of classes.
    """
    own, head = model.state_dict(), _classifier(model)
    if own.keys() & given.keys() or len(own) != len(given):
        return given

    def described(names: Iterable[str], tensors: Iterable[Tensor], classifier: Collection[str]) -> list[object]:
        return [
            (name.rpartition(".")[2], tensor.shape[1:] if at in classifier else tensor.shape)
            for at, name, tensor in zip(own, names, tensors, strict=True)
        ]

    last = (f"{head}.weight", f"{head}.bias")
    alike = described(own, own.values(), last) == described(given, given.values(), last)
    return dict(zip(own, given.values(), strict=True)) if alike else given


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a network computes with: old files lack the counters of batch normalisation."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _classifier(model: nn.Module) -> str:
    """Return the name of the classifier, the last matrix of a network; raises `UserError` if it has none."""
    matrices: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not matrices:
        raise UserError(
            f"weights for a model of class {type(model).__name__}: it has no linear layer that would be its "
            "classifier; name a model that ends in one"
        )
    return matrices[-1]


def differences(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor]) -> list[str]:
    """Return what is missing, what is surplus and what has another shape or kind of numbers, counted, some of it named.

    `expected` are shapes by name.
    """
    shared = [name for name in expected if name in given]
    kinds = {
        "missing": [name for name in expected if name not in given],
        "surplus": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} is {list(given[name].shape)}, not {list(expected[name])}"
            for name in shared
            if tuple(given[name].shape) != expected[name]
        ],
        "of whole numbers": [name for name in shared if not given[name].is_floating_point()],
    }
    return [f"{len(names)} {kind} ({_named(names)})" for kind, names in kinds.items() if names]


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:_MOST_NAMED])) + (", ..." if len(names) > _MOST_NAMED else "")
