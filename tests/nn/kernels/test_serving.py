"""Where kernels are used: on a GPU, in channels-last layout, if a trial of them passes."""

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from nasdeploy.nn import kernels
from nasdeploy.nn.functional import BATCH, NormTensors, batch_norm

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    kernels._work.cache_clear()
    yield
    kernels._work.cache_clear()


def test_processors_have_none() -> None:
    images = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    assert not kernels.serve(images)
    with kernels.everywhere():
        assert not kernels.pay(images)


def test_small_images_pay_in_recorded_graphs_only() -> None:
    images = torch.randn(2, 8, 4, 4)
    with patch.object(kernels, "serve", lambda x: True), patch.object(kernels, "_computed_on_gpu", lambda x: True):
        assert not kernels.pay(images)
        assert kernels.pay(torch.empty(1).expand(1, 1, kernels.FEWEST))
        with kernels.everywhere():
            assert kernels.pay(images)
        assert not kernels.pay(images)


def test_a_network_without_a_size_is_not_asked_for_it() -> None:
    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            scale = torch.ones(8)
            return batch_norm(x, NormTensors(scale, scale, scale, scale), BATCH)

    images = torch.randn(2, 8, 4, 4)
    exported = torch.export.export(Normalised(), (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert exported.module()(torch.randn(5, 8, 4, 4)).shape == (5, 8, 4, 4)


def test_without_triton_nothing_is_said() -> None:
    with patch.object(kernels, "find_spec", lambda name: None), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not kernels._work(GPU, torch.float32)


def test_what_cannot_be_compiled_is_said_once() -> None:
    def fail(dtype: torch.dtype, device: torch.device) -> None:
        raise RuntimeError("no C compiler\nwas found")

    broken = SimpleNamespace(launch_all=fail)
    with (
        patch("nasdeploy.nn.kernels.depthwise", broken, create=True),
        patch("torch.cuda.device"),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        assert not kernels._work(GPU, torch.bfloat16)
        assert not kernels._work(GPU, torch.bfloat16)
    (one,) = said
    assert "not used" in str(one.message)
    assert "no C compiler was found" in str(one.message)
