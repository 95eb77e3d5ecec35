"""The original of a training: kept when the phases of the largest network end, and the teacher of those after it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.network import PartRunner
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.networks import kept_original, networks_directory
from nasdeploy.store.run import Run
from nasdeploy.supernet import importance
from nasdeploy.supernet.networks import load_network
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.training import trainer
from nasdeploy.training.original import sliced, teacher_of
from tests.small_spaces import grown, two_stages
from tests.training.test_phases import QUIET, Outcome, Stopping, phased, train
from tests.training.test_trainer import STEPS_PER_EPOCH, assert_same, outcome

ORIGINAL = "{name: original, epochs: 2, sampling: {kind: largest}, distillation: {kind: none}}"
TAUGHT = "distillation: {kind: kl, temperature: 2.0, teacher: original}"
ELASTIC = f"{{name: elastic, epochs: 1, sort_channels: activation, {TAUGHT}}}"


def recipe(*more: str) -> Recipe:
    return phased(ORIGINAL, ELASTIC, more=("train.kept_checkpoints=9", *more))


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str, Outcome]:
    """A run, what was said, and its outcome."""
    said: list[str] = []

    class Heard(Progress):
        def say(self, text: str) -> None:
            said.append(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        run = train(recipe(), Heard(quiet=True))
        return Run.open(run.path.absolute()), "\n".join(said), outcome(run)


def test_the_largest_network_is_kept_as_its_phase_left_it(finished: tuple[Run, str, Outcome]) -> None:
    run, said, (_, lines) = finished
    kept, space = kept_original(run), space_of(run)
    assert kept is not None
    assert (kept.record.epochs, kept.record.checkpoint.epoch, kept.arch(space)) == (2, 2, space.largest())
    network = load_network(kept, space)
    left = extract(load_supernet(run.checkpoints / "epoch-000002.pt", space), space.largest())
    assert_same(dict(network.named_parameters()), dict(left.named_parameters()))
    # Statistics of training images, which the supernet has none of.
    assert not any(torch.equal(a, b) for a, b in zip(network.buffers(), left.buffers(), strict=True) if a.ndim)
    assert kept.record.after is not None and kept.record.after.samples == 20
    assert f"train: the original is kept: top-1 {100 * kept.record.after.value:.1f} % on 20 held-out" in said
    assert "train: networks merely sliced out of it have top-1 " in said
    assert [line["phase"] for line in lines] == ["original", "original", "elastic"]
    assert run.facts("train")["phases"] == [
        {"name": "original", "epochs": 2, "early": False},
        {"name": "elastic", "epochs": 1, "early": False},
    ]


def test_it_teaches_frozen_and_by_its_own_statistics(finished: tuple[Run, str, Outcome]) -> None:
    run, _, (_, lines) = finished
    kept, space = kept_original(run), space_of(run)
    assert kept is not None
    teacher = teacher_of(run, space, Classification(), torch.device("cpu"), torch.contiguous_format)
    images = torch.randn(4, 3, 8, 8)
    taught = teacher(images)
    assert not taught.requires_grad
    with torch.no_grad():
        assert torch.equal(taught, Classification().outputs(load_network(kept, space), (images,)))
        # Each image by itself: statistics are not those of the batch.
        torch.testing.assert_close(teacher(images[:1]), taught[:1])
    # The largest network learns from it as well: divergences of networks that are alike, not cross-entropies.
    assert lines[1]["loss_largest"] > 2.0
    assert max(lines[2][f"loss_{role}"] for role in ("largest", "random", "smallest")) < 0.5


class Sorting:
    """Counts how often channels are sorted, and after how many batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(
        self,
        supernet: Supernet,
        criterion: str,
        batches: Iterable[Any],
        drive: Callable[[PartRunner, Any], object] | None,
        trained: Mapping[str, Collection[Block]],
    ) -> None:
        assert criterion == "activation"
        found = list(batches)
        self.batches.append(len(found))
        assert {slot: set(blocks) for slot, blocks in trained.items()} == {
            step.name: {step.block} for step in supernet.space.plan(supernet.space.largest())
        }
        importance.sort_channels(supernet, criterion, found, drive, trained)


def test_channels_are_sorted_once_where_a_phase_begins(
    monkeypatch: pytest.MonkeyPatch, finished: tuple[Run, str, Outcome]
) -> None:
    sorting = Sorting()
    monkeypatch.setattr(trainer, "sort_channels", sorting)
    resumed = recipe("train.checkpoint_steps=1")
    for stop in (("original", STEPS_PER_EPOCH + 1), ("elastic", 0), ("elastic", 0), ("elastic", 2)):
        with pytest.raises(KeyboardInterrupt):
            train(resumed, Stopping(*stop))
    assert sorting.batches == [2, 2, 2]
    run = train(resumed)
    assert sorting.batches == [2, 2, 2]
    content, lines = outcome(run)
    assert_same(content, finished[2][0])
    assert lines == finished[2][1]


class StoppingAt(Progress):
    """Stops a run that says something."""

    def __init__(self, words: str) -> None:
        super().__init__(quiet=True)
        self._words = words

    def say(self, text: str) -> None:
        if self._words in text:
            raise KeyboardInterrupt


def stopped(*given: object) -> None:
    raise KeyboardInterrupt


def test_a_phase_without_epochs_does_nothing_but_sort_channels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: tuple[Run, str, Outcome]
) -> None:
    without_steps = phased(ORIGINAL, f"{{name: elastic, epochs: 0, sort_channels: projection, {TAUGHT}}}")
    with pytest.raises(KeyboardInterrupt):
        train(without_steps, StoppingAt("merely sliced"))
    monkeypatch.setattr(Run, "finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(without_steps)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run = train(without_steps)
    space, kept = space_of(run), kept_original(run)
    expected = load_supernet(finished[0].checkpoints / "epoch-000002.pt", space)
    importance.sort_channels(expected, "projection")
    content, lines = outcome(run)
    assert_same(dict(content["weights"]), dict(expected.state_dict()))
    assert (content["epoch"], content["phases_ended"]) == (2, [2, 2])
    assert lines == finished[2][1][:2]
    assert kept is not None and kept.record.epochs == 2
    original = kept_original(finished[0])
    assert original is not None and kept.record.after == original.record.after
    assert run.facts("train")["phases"][1] == {"name": "elastic", "epochs": 0, "early": False}
    handed_on = trained_weights(run)
    assert handed_on.facts.epoch == 2
    assert_same(dict(load_supernet(handed_on.path, space).state_dict()), dict(expected.state_dict()))
    with pytest.raises(UserError, match="training is finished"):
        train(without_steps)


def test_nothing_need_be_trained_or_made_elastic() -> None:
    none = "{name: original, epochs: 0, sampling: {kind: largest}}"
    run = train(phased(none, ELASTIC.replace("epochs: 1", "epochs: 0")))
    facts = run.facts("train")
    assert (facts["epoch"], facts["steps"], facts["skipped"]) == (0, 0, [])
    kept = kept_original(run)
    assert kept is not None and kept.record.epochs == 0
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["epoch-000000.pt"]
    alone = train(phased(ORIGINAL, more=("name=alone",)))
    assert kept_original(alone) is not None


def test_without_the_original_the_phase_does_not_go_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        train(recipe("train.checkpoint_steps=1"), Stopping("elastic", 2))
    run = Run.open(Path("runs/tiny"))
    kept = kept_original(run)
    assert kept is not None
    kept.path.rename("moved")
    with pytest.raises(UserError) as caught:
        train(recipe("train.checkpoint_steps=1"))
    assert typed(caught.value) == (
        f"{networks_directory(run)}: the run's original, which networks learn from in this phase, is gone; restore it, "
        "or start anew with --restart"
    )
    Path("moved").rename(kept.path)
    kept.weights.write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        train(recipe("train.checkpoint_steps=1"))


@pytest.mark.parametrize("space", [two_stages(), grown()])
def test_a_few_smaller_networks_are_looked_at(space: SearchSpace) -> None:
    found = sliced(space, 0)
    largest = space.plan(space.largest()).macs
    assert list(found) == sorted(found, reverse=True)
    assert 0 < len(found) <= 3 and max(found) < 1.0
    for share, arch in found.items():
        assert space.plan(arch).macs / largest == pytest.approx(share)
    assert sliced(space, 0) == found


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        ("{name: a, epochs: 1, sort_channels: magic}", "unknown criterion in train.sort_channels 'magic'"),
        ("{name: a, epochs: 1, sort_channels: activatio}", "did you mean 'activation'?"),
    ],
)
def test_unknown_criteria_are_refused_before_anything_is_begun(phase: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        train(phased(phase, more=("train.warmup_epochs=0",)), QUIET)
    assert not Path("runs").exists()
