"""What is seen of a training run: scalars as TensorBoard reads them, and a forecast of time and memory."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.store.run import Run
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.training import monitor
from nasdeploy.training.monitor import PhaseSteps, TrainingForecast, monitored, peak_memory
from nasdeploy.training.sandwich import Losses, Totals
from nasdeploy.workflows import train as step
from nasdeploy.workflows.resume import begun
from tests.training.recipes import tiny_recipe

CPU = torch.device("cpu")
QUIET = Progress(quiet=True)
Curves = dict[str, list[tuple[int, float]]]


def curves(directory: Path) -> Curves:
    """Scalars by tag as (step, value), read with TensorBoard's own reader."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def texts(directory: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Texts by tag as (step, text), read with TensorBoard's own reader."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(directory))
    read.Reload()
    return {
        tag: [(event.step, event.tensor_proto.string_val[0]) for event in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
    }


# -- scalars


def test_a_run_writes_what_its_metrics_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(monitor, "_EVERY", 1)
    run = step.train(tiny_recipe("train.epochs=2", "train.tensorboard=true"), Path("runs/tiny"), QUIET)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    found = curves(run.scalars)
    assert [number for number, _ in found["loss/largest"]] == list(range(1, 9))
    for epoch, line in enumerate(lines):
        for tag, key in (("loss/largest", "loss_largest"), ("loss/random", "loss_random"), ("gradient_norm",) * 2):
            values = [value for _, value in found[tag][4 * epoch : 4 * epoch + 4]]
            assert sum(values) / 4 == pytest.approx(line[key], rel=1e-5)
        assert found["top1/smallest"][epoch] == (4 * (epoch + 1), pytest.approx(line["validation"]["smallest"]["top1"]))
        assert found["images_per_s"][epoch][1] == pytest.approx(line["images_per_s"])
    assert found["learning_rate"][-1][1] == pytest.approx(lines[-1]["learning_rate"])


def test_the_phase_stands_beside_the_curves(tmp_path: Path) -> None:
    for steps in (PhaseSteps(3, 10, phase="original"), PhaseSteps(0, 10, before=10, phase="elastic")):
        with monitored(steps, CPU, QUIET, tmp_path, TOP1):
            pass
    assert texts(tmp_path) == {"phase/text_summary": [(3, b"original"), (10, b"elastic")]}


def test_scalars_are_off_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = step.train(tiny_recipe("train.epochs=1"), Path("runs/tiny"), QUIET)
    assert not run.scalars.exists()


def write(directory: Path, done: int, steps: int, loss: float) -> None:
    with monitored(PhaseSteps(done, 100), CPU, QUIET, directory, TOP1) as monitor:
        for _ in range(steps):
            monitor.step(Losses({"largest": loss, "smallest": loss}), 0.1, 1.0, "")


def test_one_step_in_ten_is_written_and_roles_without_networks_are_not(tmp_path: Path) -> None:
    write(tmp_path, 0, 35, 1.0)
    assert curves(tmp_path)["loss/largest"] == [(10, 1.0), (20, 1.0), (30, 1.0)]
    assert curves(tmp_path).keys() == {"loss/largest", "loss/smallest", "learning_rate", "gradient_norm"}


def test_after_a_restart_the_lost_steps_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, 0, 40, 1.0)
    write(tmp_path, 20, 30, 2.0)
    assert curves(tmp_path)["loss/largest"] == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]


def test_without_the_package_the_extra_is_named_and_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(monitor, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'nasdeploy\[tensorboard\]', or set train\.tensorboard=false"):
        step.train(tiny_recipe("train.tensorboard=true"), Path("runs/tiny"), QUIET)
    assert not Path("runs").exists()
    assert step.train(tiny_recipe("train.epochs=1"), Path("runs/tiny"), QUIET).is_finished("train")


def test_scalars_may_be_switched_on_for_a_run_that_was_begun_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = step.train(tiny_recipe("train.epochs=1"), Path("runs/tiny"), QUIET)
    assert begun(tiny_recipe("train.epochs=1", "train.tensorboard=true"), run.path) is not None
    assert Run.open(run.path).scalars == run.path / "tensorboard"


# -- forecast


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    def said(left: int, steps: int, each: float) -> list[str]:
        now = [0.0]
        monkeypatch.setattr(monitor, "perf_counter", lambda: now[0])
        one = TrainingForecast(left, CPU, Progress())
        for number in range(steps):
            now[0] += 100 * each if number == 0 else each
            one.step()
        return capsys.readouterr().err.splitlines()

    return said


def test_a_training_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    step.train(tiny_recipe("train.epochs=6", "train.validate_every=6"), Path("runs/tiny"), Progress())
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "a step, about" in line]
    assert "for the 3 steps that are left" in line


def test_the_time_left_follows_from_the_steps_after_the_first(lines: Callable[..., list[str]]) -> None:
    (line,) = lines(1021, 21, 1.8)
    assert re.fullmatch(
        r"train: 1\.8 seconds a step, about 30\.0 minutes for the 1000 steps that are left; [0-9.]+ GiB of memory", line
    )


def test_it_is_said_once_and_not_for_a_run_that_is_over_by_then(lines: Callable[..., list[str]]) -> None:
    assert len(lines(1000, 500, 0.5)) == 1
    assert lines(12, 12, 0.5) == []


def test_slow_steps_are_not_waited_for(lines: Callable[..., list[str]]) -> None:
    assert len(lines(1000, 3, 40.0)) == 1


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory(CPU)
    held = bytearray(before // 2 + (64 << 20))
    for place in range(0, len(held), 4096):
        held[place] = 1
    assert before > 50 << 20
    assert peak_memory(CPU) > before


# -- totals


def test_a_step_with_a_gradient_that_is_not_finite_does_not_count() -> None:
    totals = Totals()
    assert totals.add(Losses({"largest": 1.0, "smallest": 2.0}), 3.0)
    assert totals.add(Losses({"largest": 2.0, "smallest": 4.0}), 5.0)
    for norm in (float("inf"), float("nan")):
        assert not totals.add(Losses({"largest": 1.0, "smallest": 2.0}), norm)
    expected = {"loss_largest": 1.5, "loss_random": None, "loss_smallest": 3.0, "gradient_norm": 4.0}
    assert totals.metrics() == {**expected, "skipped_steps": 2}
    assert Totals.from_plain(totals.to_plain()) == totals
