"""The trial of all kernels passes where they are right, and only there: on a GPU, or interpreted."""

import os
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from nasdeploy.nn.kernels import trial
from nasdeploy.nn.kernels.depthwise import depthwise

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_right_kernels_pass(dtype: torch.dtype) -> None:
    assert trial.agree(DEVICE, dtype)


def test_a_wrong_kernel_does_not_pass() -> None:
    def wrong(x: Tensor, weight: Tensor, stride: int, margins: tuple[int, int]) -> Tensor:
        return depthwise(x, weight, stride, margins) * 1.01

    with patch.object(trial, "depthwise", wrong):
        assert not trial.agree(DEVICE, torch.float32)
