"""Losses of cuts as they are measured: against networks compared by hand, stopped and gone on with."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.searching import measured_losses
from nasdeploy.searching.loss_table import LossTable, read_loss_table
from nasdeploy.searching.measured_losses import measure_losses
from nasdeploy.supernet.evaluate import Evaluator, calibrate
from nasdeploy.supernet.supernet import Supernet, extract, input_side
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.task import Batch, Task
from tests.families.task import Writing
from tests.nn.reference import randomise
from tests.small_spaces import grown

QUIET = Progress(quiet=True)
SPACE = grown()
CALIBRATION = [torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(number)) for number in range(2)]
IMAGES = torch.randn(20, 3, 12, 12, generator=torch.Generator().manual_seed(9))
SIZES = (12, 8)
"""Batches of several sizes do not count alike."""


class Counting(Evaluator):
    """An evaluator of the small grown space that counts the networks it makes."""

    def __init__(self, supernet: Supernet, own: dict[Arch, Network] | None = None) -> None:
        self.made: list[Arch] = []

        def batches(plan: Plan, first: int, end: int | None) -> list[Batch]:
            return [((part,), torch.zeros(len(part), dtype=torch.long)) for part in IMAGES.split(SIZES)]

        super().__init__(
            supernet, Classification(), lambda plan: [(x,) for x in CALIBRATION], batches, len(IMAGES), own=own or {}
        )

    def network(self, arch: Arch, inherited: bool = False) -> Network:
        self.made.append(arch)
        return super().network(arch, inherited)


def supernet_of(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    supernet = Supernet(SPACE)
    randomise(supernet, seed)
    return supernet


def logits(network: Network) -> Tensor:
    calibrate(network, CALIBRATION)
    with torch.no_grad():
        found = network(rescale(IMAGES, input_side(network.plan)))
    assert isinstance(found, Tensor)
    return found.double()


def divergence(network: Network, reference: Network) -> float:
    log_q, log_p = F.log_softmax(logits(network), 1), F.log_softmax(logits(reference), 1)
    return float((log_p.exp() * (log_p - log_q)).sum(1).mean())


def test_a_loss_is_the_divergence_from_the_largest_network(tmp_path: Path) -> None:
    supernet = supernet_of()
    evaluator, path = Counting(supernet), tmp_path / "losses.json"
    table = measure_losses(evaluator, path, "s", QUIET)
    assert (table.space, table.supernet, table.samples, table.whole) == (SPACE.digest, "s", 20, 0.0)
    assert table.missing(SPACE) == []
    assert read_loss_table(path) == table
    largest = extract(supernet, SPACE.largest())
    for cut in LossTable(space=SPACE.digest, supernet="s", samples=0).missing(SPACE):
        expected = divergence(extract(supernet, cut.arch), largest)
        assert expected > 1e-4
        assert table.losses[cut.arch.digest] == pytest.approx(expected, rel=1e-3)


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    table = measure_losses(Counting(supernet_of()), path, "s", QUIET)
    again = Counting(supernet_of())
    assert measure_losses(again, path, "s", QUIET) == table
    assert again.made == []
    other = Counting(supernet_of(1))
    assert measure_losses(other, path, "another", QUIET).losses != table.losses
    assert len(other.made) == 1 + len(table.entries)


def test_what_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_losses(Counting(supernet_of()), tmp_path / "whole.json", "s", QUIET)
    path, write = tmp_path / "losses.json", measured_losses.write_loss_table

    def stopped(path: Path, table: LossTable) -> None:
        write(path, table)
        if len(table.entries) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(measured_losses, "write_loss_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        measure_losses(Counting(supernet_of()), path, "s", QUIET)
    monkeypatch.setattr(measured_losses, "write_loss_table", write)
    rest = Counting(supernet_of())
    assert measure_losses(rest, path, "s", QUIET) == whole
    assert len(rest.made) == 1 + len(whole.entries) - 3


def test_an_original_with_weights_of_its_own_is_what_outputs_are_compared_with(tmp_path: Path) -> None:
    supernet, largest = supernet_of(), SPACE.largest()
    original = deepcopy(extract(supernet_of(1), largest))
    evaluator = Counting(supernet, {largest: deepcopy(original)})
    table = measure_losses(evaluator, tmp_path / "losses.json", "s", QUIET)
    assert table.whole == pytest.approx(divergence(extract(supernet, largest), original), rel=1e-3)
    for cut in LossTable(space=SPACE.digest, supernet="s", samples=0).missing(SPACE):
        expected = divergence(extract(supernet, cut.arch), original) - table.whole
        assert table.losses[cut.arch.digest] == pytest.approx(max(expected, 0.0), rel=1e-2, abs=1e-4)


def test_a_network_whose_outputs_are_no_numbers_has_no_loss(tmp_path: Path) -> None:
    supernet = supernet_of()
    with torch.no_grad():
        supernet.weights["stage2_block1"].project_norm.weight.fill_(float("nan"))
    table = measure_losses(Counting(supernet), tmp_path / "losses.json", "s", QUIET)
    assert {entry.loss for entry in table.entries} == {None}
    assert read_loss_table(tmp_path / "losses.json") == table


def test_a_task_without_a_divergence_says_so() -> None:
    class Silent(Writing):
        def divergence(self, outputs: Tensor, reference: Tensor) -> Tensor:
            return Task.divergence(self, outputs, reference)

    with pytest.raises(UserError, match="task writing does not say how far outputs are from others"):
        Silent().divergence(torch.zeros(1), torch.zeros(1))
