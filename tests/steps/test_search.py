"""What a search leaves behind."""

import math

import pytest

from nasdeploy.search.budget import Budget
from nasdeploy.search.front import Candidate
from nasdeploy.search.problem import Problem
from nasdeploy.search.reporting import found_of
from nasdeploy.store.evaluations import Evaluation
from nasdeploy.store.files import read_json, write_json
from tests.toy import ToySpace


@pytest.mark.parametrize(("cross_entropy", "written"), [(0.5, 0.5), (math.nan, None), (math.inf, None)])
def test_a_network_without_finite_logits_can_be_written(cross_entropy, written, tmp_path):
    space = ToySpace()
    arch = space.smallest()
    evaluation = Evaluation(arch.digest, arch.text, 0.1, 0.01, cross_entropy, images=10, seconds=1.0)
    found = found_of(Candidate(arch, evaluation, (1.0, 2.0, 3.0, 4.0)), Problem(space, Budget()), {})
    write_json(tmp_path / "found.json", found.model_dump(mode="json"))
    assert read_json(tmp_path / "found.json")["cross_entropy"] == written
