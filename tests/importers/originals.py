"""Imported networks against the library's own model, and models that are made without drawing weights."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nasdeploy.core.arch import Arch
from nasdeploy.core.settings import parse
from nasdeploy.importers.importer import Imported, Importer
from nasdeploy.spaces.grown import GrownSettings, GrownSpace, cuts_of
from nasdeploy.supernet.supernet import Supernet, extract
from tests.nn.reference import randomise
from tests.supernet.test_extract import check_bit_equal

_DRAWING = ("kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "uniform_", "zeros_")


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Models that are made inside have no numbers, and take a third of the time."""

    def leave(tensor: Tensor, *_: object, **__: object) -> Tensor:
        return tensor

    left: Any = dict.fromkeys(_DRAWING, leave)
    with torch.device("meta"), patch.multiple(torch.nn.init, **left):
        yield


def grown(found: Imported, resolution: int) -> GrownSpace:
    """The space in which nothing can be smaller."""
    rows = {"stem": found.stem, "stages": [{"blocks": stage} for stage in found.stages], "head": found.head}
    content = {"kind": "grown", "name": "imported", "resolution": [resolution], **rows}
    return parse(GrownSettings, content, "imported").build(found.classes)


def counted(model: nn.Module, side: int) -> tuple[int, int]:
    """Twice the MACs of one image, and the parameters, as PyTorch counts them, on any device, `meta` included."""
    images = torch.zeros(1, 3, side, side, device=next(model.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops(), sum(each.numel() for each in model.parameters())


def difference(importer: Importer, model: nn.Module, name: str, side: int) -> float:
    """The largest difference between the logits of a model and of what is imported, relative to the largest logit.

    The model gets random normalisations; the costs of what is imported are asserted to be the model's.
    """
    torch.manual_seed(0)
    randomise(model)
    found = importer.read(model.eval(), name)
    space = grown(found, side)
    supernet, largest = Supernet(space), space.largest()
    supernet.load_state_dict(found.weights)
    plan = space.plan(largest)
    assert (2 * plan.macs, plan.params) == counted(model, side)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, logits = model(images), extract(supernet, largest).eval()(images)
    return float((logits - expected).abs().max() / expected.abs().max())


def with_cuts(found: Imported, resolutions: Sequence[int]) -> GrownSpace:
    """The space of everything that may be cut by default."""
    content = {"kind": "grown", "name": "imported", **cuts_of(found.stem, found.stages, found.head, resolutions)}
    return parse(GrownSettings, content, "imported").build(found.classes)


def assert_bit_equal(supernet: Supernet, archs: Iterable[Arch], side: int) -> None:
    """Logits and gradients of sub-networks in the supernet and of the same extracted are bit-equal."""
    holder, images = deepcopy(supernet), torch.randn(2, 3, side, side)
    for arch in archs:
        check_bit_equal(supernet, holder, arch, images)
