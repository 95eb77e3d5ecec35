"""Asked to stop (SIGTERM) at an awkward moment, and what else must not lose a checkpoint."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
import yaml

from nasdeploy.core.errors import Terminated, UserError
from nasdeploy.core.progress import Progress, Work
from nasdeploy.recipe import Recipe
from nasdeploy.store.run import Run
from nasdeploy.tasks.image_data import ImageData
from nasdeploy.training import loop, monitor
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.sandwich import Losses, SandwichStep
from nasdeploy.training.trainer import termination
from nasdeploy.workflows import train as step
from tests.benchmarks.bench_kill import same
from tests.data.pictures import write_folder
from tests.forked import nasdeploy
from tests.training.recipes import CONTENT, tiny_recipe

QUIET = Progress(quiet=True)
RUN = Path("runs/tiny")
STEPS_PER_EPOCH = 4


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        return outcome(train(tiny_recipe()))


def train(recipe: Recipe, progress: Progress = QUIET) -> Run:
    run = step.train(recipe, step.default_directory(recipe), progress)
    assert run is not None
    return run


def names() -> list[str]:
    return [path.name for path in Checkpoints(RUN / "checkpoints").all()]


def outcome(run: Run) -> tuple[Any, ...]:
    """Last and best checkpoint, and metrics but speed and memory."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for line in lines:
        del line["images_per_s"], line["peak_memory_gib"]
    best = run.checkpoints / "best.pt"
    return *(torch.load(file, weights_only=True) for file in (Checkpoints(run.checkpoints).latest(), best)), lines


class After(Progress):
    """Does something after a number of steps."""

    def __init__(self, steps: int, act: Callable[[], object]) -> None:
        super().__init__(quiet=True)
        self._steps, self._act = steps, act

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Work]:
        yield Work(done, lambda done, note: self._act() if done == self._steps else None)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# -- SIGTERM


def test_asked_twice_is_asked_once() -> None:
    with termination() as asked:
        assert not asked()
        terminate()
        terminate()
        assert asked()


def test_asked_to_stop_at_the_last_step_of_an_epoch_does_not_wait_for_validation(
    undisturbed: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_now(*given: Any) -> None:
        pytest.fail("validated")

    with monkeypatch.context() as patch:
        patch.setattr(monitor.Validation, "__call__", not_now)
        # The step after this one notices.
        with pytest.raises(Terminated, match=r"saved after epoch 0 and 4 steps more"):
            train(tiny_recipe(), After(STEPS_PER_EPOCH - 1, terminate))
    assert names() == ["epoch-000000-step-000004.pt"]
    run = train(tiny_recipe())
    assert same(outcome(run), undisturbed)
    assert json.loads(run.metrics.read_text().splitlines()[0])["images_per_s"] is None


def test_asked_to_stop_while_validating_stops_validating(
    undisturbed: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, batches = [], ImageData.validation

    def then_terminate(*arguments: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(*arguments)):
            if number == 1:
                terminate()
            given.append(number)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(ImageData, "validation", then_terminate)
        with pytest.raises(Terminated, match=r"saved after epoch 0 and 4 steps more"):
            train(tiny_recipe())
    assert given == [0, 1]
    assert names() == ["epoch-000000-step-000004.pt"]
    assert not (RUN / "metrics.jsonl").read_text()
    assert same(outcome(train(tiny_recipe())), undisturbed)


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_leaves_its_readers_alive(tmp_path: Path) -> None:
    """As Slurm and systemd send it: also to the processes that read images, which the last step still needs."""
    write_folder(tmp_path / "pictures", {"train": {"ant": 40, "bee": 40}}, side=8)
    data = {"kind": "folder", "path": str(tmp_path / "pictures"), "size": 8, "workers": 2}
    recipe = {**CONTENT, "data": data, "train": {**CONTENT["train"], "epochs": 1000, "batch_size": 4}}
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    process, said = nasdeploy("train", "tiny.yaml", said=Path("said")), Path("said").read_text
    deadline = monotonic() + 120
    while not names():
        assert process.poll() is None, said()
        assert monotonic() < deadline
        sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75, said()
    assert said().splitlines()[-1].startswith("nasdeploy: asked to stop; saved after epoch ")


# -- checkpoints that are not written, or push out others


def test_an_old_checkpoint_is_followed_by_one_before_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes half a minute at every look, and checkpoints once a minute."""
    began: list[float] = []
    looks = count(1)

    def clock() -> float:
        if not began:
            began.append(monotonic())
        return began[0] + 30.0 * next(looks)

    monkeypatch.setattr(loop, "monotonic", clock)
    saved, save = [], Checkpoints.save

    def noted(self: Checkpoints, *given: Any) -> None:
        save(self, *given)
        saved.append(names()[-1])

    monkeypatch.setattr(Checkpoints, "save", noted)
    train(tiny_recipe("train.epochs=1", "train.checkpoint_minutes=1"))
    assert saved == ["epoch-000000-step-000002.pt", "epoch-000000-step-000004.pt", "epoch-000001.pt"]


def test_no_checkpoint_is_old_before_its_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    almost = monotonic() + 59
    monkeypatch.setattr(loop, "monotonic", lambda: almost)
    train(tiny_recipe("train.epochs=1", "train.checkpoint_minutes=1", "train.kept_checkpoints=9"))
    assert names() == ["epoch-000001.pt"]


def test_weights_that_are_lost_do_not_push_out_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the machine ruins the weights in step 3; the steps after it are skipped until training ends."""
    call, calls = SandwichStep.__call__, []

    def ruined(self: SandwichStep, *given: Any) -> Any:
        calls.append(given)
        losses = call(self, *given)
        return Losses({**losses.by_role, "largest": float("nan")}) if len(calls) > 3 else losses

    with monkeypatch.context() as patch:
        patch.setattr(SandwichStep, "__call__", ruined)
        with pytest.raises(UserError, match="training diverged"):
            train(tiny_recipe("train.checkpoint_steps=1", "train.most_skipped=2"))
    # One at the end of the first epoch, which comes whatever happens.
    assert names() == ["epoch-000000-step-000003.pt", "epoch-000001.pt"]
