"""Losses that candidates are chosen by: against plain cross-entropy, and in several processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.forked import ForkedProcess, of_two
from tests.small_spaces import two_stages
from tests.training.choosing import STEPS, batch, main, training_step

SPACE = two_stages()


def test_losses_are_label_smoothed_and_leave_no_gradient() -> None:
    step, (images, labels) = training_step(), batch(0)
    archs = [SPACE.sample(np.random.default_rng(seed)) for seed in range(4)]
    state = torch.random.get_rng_state()
    found = step.losses_of(archs, (images,), labels)
    expected = [F.cross_entropy(step.supernet(images, arch), labels, label_smoothing=0.1).item() for arch in archs]
    assert found == pytest.approx(expected)
    assert len(set(found)) == 4
    assert all(parameter.grad is None for parameter in step.supernet.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_processes_choose_alike_by_the_average_over_their_parts_of_the_batch(tmp_path: Path) -> None:
    said, words = tmp_path / "said", ["choosing", str(tmp_path)]
    for process in [ForkedProcess(main, words, environment=each, said=said) for each in of_two()]:
        assert process.wait(300) == 0, said.read_text()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    step, differing = training_step(), 0
    for number in range(STEPS):
        archs = [SPACE.arch(data) for data in first[number]["archs"]]
        parts = np.array([step.losses_of(archs, (batch(rank)[0],), batch(rank)[1]) for rank in (0, 1)])
        assert first[number]["losses"] == pytest.approx(parts.mean(0))
        for at, chosen in zip((0, 3), first[number]["chosen"], strict=True):
            assert SPACE.arch(chosen) == archs[at + int(parts.mean(0)[at : at + 3].argmin())]
            differing += parts[0][at : at + 3].argmin() != parts[1][at : at + 3].argmin()
    assert differing  # By their own parts alone, the processes would have chosen differently.
