"""Several processes train like one with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from nasdeploy.train.ranks import Ranks
from tests.train.recipes import CONTENT

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TORCHRUN = [
    str(Path(sys.executable).with_name("torchrun")),
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "127.0.0.1:0",
]
NASDEPLOY = str(Path(sys.executable).with_name("nasdeploy"))


def run(*command: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
def test_two_processes_with_synchronised_normalisation_equal_one(tmp_path: Path) -> None:
    script = str(ROOT / "tests/train/ranked.py")
    run(sys.executable, script, "one.pt", cwd=tmp_path)
    run(*TORCHRUN, script, "two.pt", cwd=tmp_path)
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    for exact, tolerance in ((True, 1e-9), (False, 1e-3)):
        for name, value in one[exact].items():
            assert (value - two[exact][name]).abs().max() <= tolerance, name


@pytest.mark.slow
def test_torchrun_trains_and_only_the_first_process_writes(tmp_path: Path) -> None:
    recipe: dict[str, Any] = {**CONTENT, "train": {**CONTENT["train"], "batch_size": 24, "sync_bn": True}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    done = run(*TORCHRUN, "--no-python", NASDEPLOY, "train", "tiny.yaml", cwd=tmp_path)
    assert done.stderr.count("epoch 3: top-1") == 1
    lines = (tmp_path / "runs/tiny/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    refused = run(NASDEPLOY, "train", "tiny.yaml", cwd=tmp_path, code=2)
    assert "training is finished" in refused.stderr


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONTENT))
    done = run(*TORCHRUN, "--no-python", NASDEPLOY, "train", "tiny.yaml", cwd=tmp_path, code=1)
    assert "train.batch_size is 25 and 2 processes share it; choose a multiple of 2" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_one_process_averages_nothing() -> None:
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    extras = torch.tensor([1.0, 2.0])
    assert torch.equal(Ranks(torch.device("cpu")).average(layer.parameters(), extras), extras)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, layer.parameters(), strict=True) if p.grad is not None)
