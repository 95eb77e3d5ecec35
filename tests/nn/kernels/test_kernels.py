"""Kernels for GPUs: what Triton interprets on a processor, and what a GPU computes, is what PyTorch computes.

Triton decides when it is imported whether it interprets, so that each file of checks has a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKS = sorted(Path(__file__).parent.glob("check_*.py"))


def checked(file: Path, interpreted: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    process = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": interpreted}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert " passed" in process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("file", CHECKS, ids=lambda file: file.stem)
def test_interpreted(file: Path) -> None:
    checked(file, "1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("file", CHECKS, ids=lambda file: file.stem)
def test_on_a_gpu(file: Path) -> None:
    checked(file, "0")
