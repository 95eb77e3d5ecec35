"""The moving average of the weights: its rule, and its way through checkpoints into the rest of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.recipe import Recipe
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.training.checkpoint import Checkpoints, TrainingState
from nasdeploy.training.monitor import Validation
from nasdeploy.training.optimizer import MovingAverage
from nasdeploy.training.settings import TrainSettings
from nasdeploy.workflows import train as step
from tests.small_spaces import two_stages
from tests.training.recipes import tiny_recipe
from tests.training.test_trainer import Interrupting, assert_same

QUIET = Progress(quiet=True)


def train(recipe: Recipe, progress: Progress = QUIET) -> Run:
    return step.train(recipe, step.default_directory(recipe), progress)


def newest(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(Checkpoints(run.checkpoints).latest(), weights_only=True)
    return content


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_first_weights_are_taken_and_later_ones_averaged() -> None:
    supernet = Supernet(two_stages())
    average = MovingAverage(supernet, 0.75)
    expected: dict[str, torch.Tensor] = {}
    for number in range(4):
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter += torch.randn_like(parameter)
        average.update(supernet)
        for name, parameter in supernet.named_parameters():
            now = parameter.detach().double()
            expected[name] = now if number == 0 else 0.75 * expected[name] + 0.25 * now
    found = dict(average.supernet.named_parameters())
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)
    assert average.supernet is not supernet


def test_without_a_decay_there_is_no_average() -> None:
    state = TrainingState.fresh(Supernet(two_stages()), TrainSettings())
    assert state.average is None
    assert state.averaged is state.supernet
    averaging = TrainingState.fresh(Supernet(two_stages()), TrainSettings(ema=0.9))
    assert averaging.average is not None and averaging.averaged is averaging.average.supernet


def test_an_interrupted_run_ends_with_the_average_of_an_undisturbed_one() -> None:
    undisturbed = newest(train(tiny_recipe("train.ema=0.9", "name=whole")))
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe("train.ema=0.9"), Interrupting(6))
    resumed = newest(train(tiny_recipe("train.ema=0.9")))
    assert resumed["averaged_steps"] == 12
    assert_same(resumed, undisturbed)


def test_training_is_the_same_and_only_its_result_is_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = newest(train(tiny_recipe("name=plain")))
    validated: list[dict[str, torch.Tensor]] = []
    call = Validation.__call__

    def recorded(self: Validation, supernet: Supernet, asked_to_stop: Callable[[], bool]) -> dict[str, dict[str, Any]]:
        validated.append({name: tensor.clone() for name, tensor in supernet.state_dict().items()})
        return call(self, supernet, asked_to_stop)

    monkeypatch.setattr(Validation, "__call__", recorded)
    content = newest(train(tiny_recipe("train.ema=0.9")))
    assert_same(dict(content["trained"]), dict(plain["weights"]))
    assert any(not torch.equal(content["weights"][name], tensor) for name, tensor in plain["weights"].items())
    assert_same(validated[-1], dict(content["weights"]))


@pytest.mark.parametrize("change", [{"trained": {}}, {"averaged_steps": "many"}, {"trained": None}])
def test_a_checkpoint_with_a_damaged_average_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe("train.ema=0.9"), Interrupting(6))
    path = Checkpoints(Path("runs/tiny/checkpoints")).latest()
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(UserError, match="damaged; delete it to go on from the one before"):
        train(tiny_recipe("train.ema=0.9"))
