"""Networks that are recorded and replayed compute what they compute otherwise, bit for bit.

A recording on a GPU is stood in for on processors by one that computes anew and writes its results where a GPU would.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nasdeploy.core.progress import Progress
from nasdeploy.nn import kernels
from nasdeploy.nn.functional import tensors_in
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.graphs import Capture, Graphs, Learned, cuda_capture
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import Losses, Sandwich, SandwichStep, StepComputation
from nasdeploy.training.step_settings import DistillationSettings
from nasdeploy.workflows import train as workflow
from tests.nn.reference import randomise
from tests.small_spaces import two_stages
from tests.training.recipes import tiny_recipe

Label = Callable[[Tensor, Tensor], Tensor]
LABEL: Label = partial(label_loss, smoothing=0.1)


class Steps:
    """Training steps of a small supernet, with what they said."""

    def __init__(self, capture: Capture | None, device: str = "cpu", label: Label = LABEL) -> None:
        torch.manual_seed(0)
        self.supernet = Supernet(two_stages())
        randomise(self.supernet)
        self.supernet.to(device)
        self.said: list[str] = []
        parameters = tuple(self.supernet.parameters())
        graphs = None if capture is None else Graphs(parameters, capture, self.said.append)
        objective = Objective(label, distillation_loss(DistillationSettings()))
        rates = dict.fromkeys((slot.name for slot in self.supernet.space.slots), 0.3)
        execution = StepComputation(graphs=graphs)
        self.step = SandwichStep(self.supernet, Classification(), objective, rates, execution=execution)
        self.optimizer = torch.optim.SGD(parameters, lr=0.05)

    def __call__(self, number: int, sandwich: Sandwich, images: int = 6) -> Losses:
        """Do a step with the images and the random numbers of its number."""
        device = next(self.supernet.parameters()).device
        torch.manual_seed(number)
        self.optimizer.zero_grad(set_to_none=True)
        inputs = torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(number)).to(device)
        losses = self.step(sandwich, (inputs,), (torch.arange(images) % 3).to(device))
        self.optimizer.step()
        return losses

    def equals(self, other: "Steps") -> bool:
        """Whether the weights are the same, bit for bit."""
        ours, theirs = self.supernet.state_dict(), other.supernet.state_dict()
        return all(torch.equal(ours[name], theirs[name]) for name in theirs)


class StandIn:
    """A `Capture` that computes anew in each replay."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.refusal: Exception | None = None

    def of(self, steps: Callable[[], Steps]) -> Capture:
        """Return what records the networks of some steps: without an effect on gradients and random numbers."""

        def capture(compute: Callable[[], Learned]) -> tuple[Callable[[], None], Learned]:
            grads = [each.grad for each in steps().supernet.parameters() if each.grad is not None]
            kept, random = [grad.clone() for grad in grads], torch.get_rng_state()
            held = compute()
            for grad, numbers in zip(grads, kept, strict=True):
                grad.copy_(numbers)
            torch.set_rng_state(random)
            if self.refusal is not None:
                raise self.refusal
            self.recorded += 1

            def replay() -> None:
                self.replayed += 1
                again = compute()
                for to, given in zip(_results(held), _results(again), strict=True):
                    to.copy_(given)

            return replay, held

        return capture


def _results(learned: Learned) -> Iterator[Tensor]:
    return tensors_in((learned.outputs, learned.loss))


def both(stand_in: StandIn) -> tuple[Steps, Steps]:
    """Steps without recordings, and with those of a stand-in."""
    recorded: list[Steps] = []
    recorded.append(Steps(stand_in.of(lambda: recorded[0])))
    return Steps(None), recorded[0]


def drawn(steps: Steps, number: int) -> Sandwich:
    """The largest network, two others in each step, and the smallest."""
    return draw(steps.supernet.space, 2, np.random.default_rng(number))


def test_networks_of_every_step_are_replayed_with_the_results_of_computing_them() -> None:
    stand_in = StandIn()
    plain, recorded = both(stand_in)
    for number in range(8):
        assert plain(number, drawn(plain, number)) == recorded(number, drawn(recorded, number))
        assert plain.equals(recorded)
    assert stand_in.recorded >= 2
    assert stand_in.replayed >= 8
    assert not recorded.said


def test_batches_of_another_shape_are_not_taken_for_those_that_were_recorded() -> None:
    stand_in = StandIn()
    plain, recorded = both(stand_in)
    for number in range(12):
        size = (6, 4)[number % 2]
        assert plain(number, drawn(plain, 0), size) == recorded(number, drawn(recorded, 0), size)
    assert plain.equals(recorded)
    assert stand_in.recorded >= 4


def test_a_network_that_comes_at_another_place_of_the_step_is_computed() -> None:
    stand_in = StandIn()
    plain, recorded = both(stand_in)
    space = plain.supernet.space
    ends = {"largest": (space.largest(),), "smallest": (space.smallest(),)}
    for number in range(6):
        plain(number, Sandwich(ends)), recorded(number, Sandwich(ends))
    before = stand_in.replayed
    # The smallest network finds no gradients to add to any more.
    turned = Sandwich(dict(reversed(ends.items())), leader=None)
    assert plain(6, turned) == recorded(6, turned)
    assert plain.equals(recorded)
    assert stand_in.replayed == before


def test_where_nothing_can_be_recorded_it_is_said_once_and_all_goes_on() -> None:
    stand_in = StandIn()
    stand_in.refusal = RuntimeError("operation not permitted when stream is capturing\nand more")
    plain, recorded = both(stand_in)
    for number in range(8):
        assert plain(number, drawn(plain, number)) == recorded(number, drawn(recorded, number))
    assert plain.equals(recorded)
    assert stand_in.replayed == 0
    (said,) = recorded.said
    assert "CUDA graphs" in said
    assert "not permitted" in said
    assert "\n" not in said


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    # Or else networks that are recorded are computed by other kernels than those that are not.
    monkeypatch.setattr(kernels, "FEWEST", 0)


def on_gpu(label: Label = LABEL) -> tuple[Steps, Steps]:
    """Steps on a GPU, without recordings and with them."""
    return Steps(None, "cuda", label), Steps(cuda_capture(torch.device("cuda")), "cuda", label)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.usefixtures("deterministic")
def test_on_a_gpu_replays_are_bit_equal() -> None:
    plain, recorded = on_gpu()
    for number in range(10):
        assert plain(number, drawn(plain, number)) == recorded(number, drawn(recorded, number))
        assert plain.equals(recorded)
    assert not recorded.said


def asking(logits: Tensor, labels: Tensor) -> Tensor:
    """Return a loss that asks the GPU for a number, which a recording cannot hold."""
    return LABEL(logits, labels) * (1.0 if logits.sum().item() > -1e9 else 2.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.usefixtures("deterministic")
def test_on_a_gpu_what_cannot_be_recorded_is_computed() -> None:
    plain, recorded = on_gpu(asking)
    for number in range(8):
        assert plain(number, drawn(plain, number)) == recorded(number, drawn(recorded, number))
        assert plain.equals(recorded)
    assert len(recorded.said) == 1


def trained(directory: Path, *assignments: str) -> tuple[Run, dict[str, Tensor]]:
    recipe = tiny_recipe("train.validate_random=0", *assignments)
    run = workflow.train(recipe, directory, Progress(quiet=True))
    assert run is not None
    weights = torch.load(Checkpoints(run.checkpoints).latest(), weights_only=True)["weights"]
    return run, weights


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("autocast", ["none", "bf16", "fp16"])
def test_trainings_on_a_gpu_end_in_the_same_weights(autocast: str, tmp_path: Path) -> None:
    of = f"train.autocast={autocast}"
    _, plain = trained(tmp_path / "plain", of, "train.cuda_graphs=false")
    _, recorded = trained(tmp_path / "recorded", of)
    assert all(torch.equal(plain[name], recorded[name]) for name in plain)
