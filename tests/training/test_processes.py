"""Going on with another number of processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
import yaml

from nasdeploy.core.errors import UserError
from nasdeploy.training.checkpoint import change_of_processes
from nasdeploy.training.settings import TrainSettings
from tests.training.recipes import CONTENT

ROOT = Path(__file__).parents[2]
CHECKPOINT = Path("runs/tiny/checkpoints/epoch-000001.pt")


def command(processes: int, *arguments: str) -> list[str]:
    tools = Path(sys.executable)
    train = [str(tools.with_name("nasdeploy")), "train", "tiny.yaml", *arguments]
    if processes == 1:
        return train
    place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    return [str(tools.with_name("torchrun")), "--nproc-per-node", str(processes), *place, "--no-python", *train]


def started(processes: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(processes, *arguments),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def stopped_after_an_epoch(processes: int) -> None:
    process, deadline = started(processes), monotonic() + 120
    while not CHECKPOINT.exists():
        assert process.poll() is None, process.communicate()
        assert monotonic() < deadline
        sleep(0.01)
    # torchrun hands it on to its processes, which are in sessions of their own.
    process.send_signal(signal.SIGTERM)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_and_says_what_that_changes(
    before: int, now: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**CONTENT["train"], "epochs": 8, "batch_size": 24, "validate_every": 8}
    recipe: dict[str, Any] = {**CONTENT, "train": settings}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    stopped_after_an_epoch(before)
    refused = started(now, "--set", "train.world_size_change=refuse")
    said = refused.communicate()[1]
    assert refused.returncode == (2 if now == 1 else 1), said
    assert f"written by {'1 process' if before == 1 else '2 processes'}, not {now}, and train.world_size_change" in said
    process = started(now)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    wanted = (
        f"train: {'1 process' if now == 1 else '2 processes'} instead of {before} from here on: the batch of 24 images"
    )
    assert said.count(wanted) == 1
    assert f"each process now has {24 // now} images of a batch, not {24 // before}" in said
    assert torch.load("runs/tiny/checkpoints/epoch-000008.pt", weights_only=True)["processes"] == now


def test_what_changes_with_the_processes() -> None:
    settings = TrainSettings(batch_size=256)
    assert change_of_processes(None, 4, settings, CHECKPOINT) is None
    assert change_of_processes(4, 4, settings, CHECKPOINT) is None
    assert change_of_processes(8, 4, settings, CHECKPOINT) == (
        "4 processes instead of 8 from here on: the batch of 256 images, the learning rate, and the order and "
        "augmentation of images stay the same; each process now has 64 images of a batch, not 32, which batch "
        "normalisation takes its statistics of (sync_bn is off), draws other dropout, and sums in another order, so "
        "that the weights will not be bit for bit those of an undisturbed run"
    )
    synchronised = settings.model_copy(update={"sync_bn": True})
    assert "normalisation" not in str(change_of_processes(8, 4, synchronised, CHECKPOINT))


def test_a_recipe_may_forbid_other_processes() -> None:
    settings = TrainSettings(world_size_change="refuse")
    assert change_of_processes(8, 8, settings, CHECKPOINT) is None
    with pytest.raises(UserError) as caught:
        change_of_processes(8, 1, settings, CHECKPOINT)
    assert str(caught.value) == (
        "runs/tiny/checkpoints/epoch-000001.pt: written by 8 processes, not 1, and train.world_size_change is refuse; "
        "start as many again, or set train.world_size_change=allow"
    )
