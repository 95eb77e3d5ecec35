"""Going on with another number of processes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch
import yaml

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress, Work
from nasdeploy.recipe import Recipe, load_recipe
from nasdeploy.training.checkpoint import change_of_processes
from nasdeploy.training.settings import TrainSettings
from nasdeploy.workflows import train as step
from tests.forked import ForkedProcess, nasdeploy, of_two
from tests.training.recipes import CONTENT

SAID = Path("said")
CHECKPOINT = Path("runs/tiny/checkpoints/epoch-000001.pt")


def two() -> list[ForkedProcess]:
    """Two processes that train as tiny.yaml says; what they say is in the file said."""
    return [nasdeploy("train", "tiny.yaml", environment=each, said=SAID) for each in of_two()]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe tiny.yaml in the current directory."""
    monkeypatch.chdir(tmp_path)
    settings = {**CONTENT["train"], "epochs": 8, "batch_size": 24, "validate_every": 8}
    Path("tiny.yaml").write_text(yaml.safe_dump({**CONTENT, "train": settings}))
    return load_recipe("tiny.yaml")


def changed(said: str, before: int, now: int) -> None:
    """Assert that it was said once what the change of processes means, and that the run was ended by `now`."""
    one_or_two = {1: "1 process", 2: "2 processes"}
    assert said.count(f"train: {one_or_two[now]} instead of {before} from here on: the batch of 24 images") == 1
    assert f"each process now has {24 // now} images of a batch, not {24 // before}" in said
    assert torch.load("runs/tiny/checkpoints/epoch-000008.pt", weights_only=True)["processes"] == now


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_began(recipe: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    processes, deadline = two(), monotonic() + 120
    while not CHECKPOINT.exists():
        assert processes[0].poll() is None, SAID.read_text()
        assert monotonic() < deadline
        sleep(0.01)
    # As torchrun hands it on to its processes.
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    assert [process.wait(300) for process in processes] == [75, 75], SAID.read_text()
    refusing = load_recipe("tiny.yaml", ["train.world_size_change=refuse"])
    with pytest.raises(UserError, match=r"written by 2 processes, not 1, and train\.world_size_change is refuse"):
        step.train(refusing, Path("runs/tiny"), Progress(quiet=True))
    step.train(recipe, Path("runs/tiny"), Progress())
    changed(capfd.readouterr().err, 2, 1)


class Stopping(Progress):
    """Stops a training after its first epoch."""

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Work]:
        def show(done: int, note: str) -> None:
            if CHECKPOINT.exists():
                raise KeyboardInterrupt

        yield Work(done, show)


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_began(recipe: Recipe) -> None:
    with pytest.raises(KeyboardInterrupt):
        step.train(recipe, Path("runs/tiny"), Stopping(quiet=True))
    assert [process.wait(300) for process in two()] == [0, 0], SAID.read_text()
    changed(SAID.read_text(), 1, 2)


@pytest.mark.slow
def test_two_processes_go_through_phases_together(recipe: Recipe) -> None:
    """The first one validates, keeps the original and sorts channels; the second one ends phases when it does."""
    content = {name: value for name, value in CONTENT["train"].items() if name != "epochs"}
    taught = {"kind": "kl", "teacher": "original"}
    phases = [
        {"name": "original", "epochs": 5, "patience": 1, "sampling": {"kind": "largest"}, "learning_rate": 1e-9},
        {"name": "elastic", "epochs": 1, "sort_channels": "activation", "distillation": taught},
    ]
    Path("tiny.yaml").write_text(yaml.safe_dump({**CONTENT, "train": {**content, "batch_size": 24, "phases": phases}}))
    assert [process.wait(300) for process in two()] == [0, 0], SAID.read_text()
    said = SAID.read_text()
    # Weights that hardly move have no better score in the second epoch.
    assert said.count("train: phase original ends after epoch 2, no better since epoch 1") == 1
    assert said.count("train: the original is kept: top-1 ") == 1
    saved = torch.load("runs/tiny/checkpoints/epoch-000003.pt", weights_only=True)
    assert (saved["phases_ended"], saved["processes"]) == ([2, 3], 2)


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
    with pytest.raises(UserError, match="written by 1 process, not 2, and"):
        change_of_processes(1, 2, settings, CHECKPOINT)
    with pytest.raises(UserError) as caught:
        change_of_processes(8, 1, settings, CHECKPOINT)
    assert str(caught.value) == (
        "runs/tiny/checkpoints/epoch-000001.pt: written by 8 processes, not 1, and train.world_size_change is refuse; "
        "start as many again, or set train.world_size_change=allow"
    )
