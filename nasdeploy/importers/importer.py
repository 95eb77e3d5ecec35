"""The result of importing a network: the table of its blocks, and its weights by the slots of its grown space."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from nasdeploy.core.errors import UserError, one_line


@dataclass(frozen=True)
class ExpectedImages:
    """The images that a network expects."""

    size: int
    """The side of the crop in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Mean and deviation of the channels, of values from 0 to 1."""
    crop_pct: float = 0.875
    """The crop's side over the shorter side that images are resized to before it, in evaluation."""
    interpolation: str = "bicubic"
    """The way in which images are resized: `bilinear`, `bicubic`, ..."""


@dataclass
class Imported:
    """A network as rows of blocks (`nasdeploy.spaces.grown`), and its weights by slot."""

    name: str
    """The model's name in its library."""
    expected: ExpectedImages
    stem: dict[str, Any] = field(default_factory=dict)
    stages: list[list[dict[str, Any]]] = field(default_factory=list)
    """The rows of the blocks of each stage, one for each block, as plain values."""
    head: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    """The tensors of the supernet's state dict, `weights.SLOT.NAME`: those of the largest network."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of how its weights were found, a line each."""

    @property
    def classes(self) -> int:
        """The number of classes of its classifier."""
        return int(self.head["classes"])

    @property
    def elastic(self) -> bool:
        """Whether smaller networks were trained in its weights: of a library's model none were."""
        return False

    def add_stem(self, row: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Set the stem, with its weights by their names in the family's module."""
        self.stem = dict(row)
        self._keep("stem", weights)

    def add_stage(self) -> None:
        """Begin a stage."""
        self.stages.append([])

    def add_block(self, row: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Add a block to the last stage."""
        self.stages[-1].append(dict(row))
        self._keep(f"stage{len(self.stages)}_block{len(self.stages[-1])}", weights)

    def add_head(self, row: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Set the head."""
        self.head = dict(row)
        self._keep("head", weights)

    def _keep(self, slot: str, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in weights.items():
            self.weights[f"weights.{slot}.{name}"] = tensor.detach()


class Importer(Protocol):
    """A library of models. A new one is one file and a line in `nasdeploy.importers.IMPORTERS`."""

    def names(self) -> list[str]:
        """Return the names of the models whose class can be read; some of them may hold what no block expresses."""

    def model(self, name: str, *, pretrained: bool = False, classes: int | None = None) -> nn.Module:
        """Return the library's own model, in evaluation mode.

        Raises `UserError` for an unknown name, naming the nearest, and for weights that cannot be fetched.
        """

    def read(self, model: nn.Module, name: str) -> Imported:
        """Return a model as rows and weights; raises `UserError` that names what no block can express."""


Read = Callable[[str, Any, Imported], None]
"""Reads a model of one class: under which name errors speak of it, the model, and what is read of it."""


def reader_of(model: nn.Module, name: str, readers: Mapping[type[nn.Module], Read]) -> Read:
    """Return what reads models of a model's class; raises `UserError` if that is none of the library's `readers`."""
    if type(model) in readers:
        return readers[type(model)]
    known = ", ".join(each.__name__ for each in readers)
    raise UserError(f"{name}: models of class {type(model).__name__} cannot be read; those of classes {known} can")


def no_weights(name: str) -> UserError:
    """Return the error of a model that its library has no trained weights of."""
    return UserError(f"{name}: its library has no trained weights of it; give a file as `weights=FILE`")


@contextmanager
def fetching(name: str, url: str | None) -> Iterator[None]:
    """Raise `UserError` where weights cannot be fetched inside, with the file that can be fetched elsewhere.

    `url` is where they are, None if nothing is to be fetched. It is asked first, once: libraries ask for a minute.
    """
    if url is None:
        yield
        return
    try:
        with suppress(HTTPError):  # Then it is reachable, and the library may know better what to ask for.
            urlopen(Request(url, method="HEAD"), timeout=_PATIENCE).close()
        yield
    except (OSError, RuntimeError) as error:
        reason = one_line(getattr(error, "reason", error))
        raise UserError(
            f"{name}: its weights cannot be fetched from here ({reason}); fetch {url} elsewhere and give the file as "
            "`weights=FILE`"
        ) from None


_PATIENCE = 10.0
"""The seconds that an answer may take."""


def norm_weights(prefix: str, norm: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a batch normalisation by their names in a family's module, e.g. `project_norm.weight`."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    found: dict[str, Tensor] = {
        "weight": norm.weight,
        "bias": norm.bias,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "num_batches_tracked": torch.tensor(0),
    }
    return {f"{prefix}.{name}": tensor for name, tensor in found.items()}
