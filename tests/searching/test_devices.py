"""The whole loop on several devices at once: every budget is met measurably, and who is slow is named."""

from functools import partial

import numpy as np
import pytest

from nasdeploy.cli.searches import describe
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.progress import Progress
from nasdeploy.distributed.jobs import InTurn
from nasdeploy.searching.budget import Budget
from nasdeploy.searching.finalists import SearchFacts, result_of
from nasdeploy.searching.problem import Problem, candidates_of
from nasdeploy.searching.result import Fidelity
from nasdeploy.searching.search import Search
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import StrategyContext
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.evaluations import Evaluations
from nasdeploy.tasks.metrics import TOP1
from tests.latency.tables import SPACE, archs, timing
from tests.searching.accuracy import score
from tests.searching.budgets import budget_of, on_devices
from tests.searching.devices import on

SETTINGS = SearchSettings(rounds=4, parents=20, mutations=6, crossovers=6, buckets=10, finalists=4, reserve=0.0)

NOTHING = StrategyContext()


class Devices:
    """Several devices, each with its table and a factor to what that says."""

    def __init__(self, **factors: float) -> None:
        self.factors = factors
        self.tables = {name: on(name, seed=seed) for seed, name in enumerate(factors)}

    def seconds(self, device: str, arch: Arch) -> float:
        return self.factors[device] * self.tables[device].predict(SPACE.plan(arch)).seconds

    def __call__(self, device, archs):
        return {arch: timing(self.seconds(device, arch)) for arch in archs}

    def budget(self, part: float) -> Budget:
        ranges = {name: known.range(SPACE) for name, known in self.tables.items()}
        return on_devices(**{name: low + part * (high - low) for name, (low, high) in ranges.items()})

    def search(self, tmp_path, budget, context=NOTHING, **settings):
        with Evaluations(tmp_path / "search.sqlite", "supernet", TOP1) as evaluations:
            return Search(
                space=SPACE,
                scoring=InTurn(lambda job: score(job.arch)),
                evaluations=evaluations,
                budget=budget,
                tables=tuple(self.tables.values()),
                measure=self,
                settings=SETTINGS.model_copy(update=settings),
                seed=0,
                progress=Progress(),
                context=context,
            ).run()


def test_the_winner_measurably_meets_the_budget_of_every_device(tmp_path):
    devices = Devices(cpu=1.0, board=1.8)
    budget = devices.budget(0.4)
    outcome = devices.search(tmp_path, budget)
    for name in devices.tables:
        assert outcome.timings[name][outcome.winner.arch].median <= budget[f"latency on {name}"].high
        assert {candidate.arch for candidate in outcome.finalists} <= set(outcome.timings[name])
    assert outcome.rounds > 1


def test_a_limit_on_p95_is_judged_by_the_measured_p95(tmp_path):
    devices = Devices(cpu=1.0)
    limit = devices.budget(0.5)["latency on cpu"]
    outcome = devices.search(tmp_path, budget_of(latency_p95=limit))
    assert outcome.timings["cpu"][outcome.winner.arch].p95 <= limit.high
    assert outcome.winner.costs["latency on cpu"] <= limit.high / devices.tables["cpu"].p95_ratio


def test_only_the_device_that_is_slow_is_named(tmp_path):
    devices = Devices(cpu=1.0, board=50.0)
    with pytest.raises(InfeasibleBudget) as refused:
        devices.search(tmp_path, devices.budget(0.5))
    assert "board took 50.00 to 50.00 times as long" in str(refused.value)
    assert "cpu took" not in str(refused.value)
    assert refused.value.exit_code == 3


def test_networks_that_are_slow_in_different_ways_say_nothing_of_the_machine(tmp_path):
    devices = Devices(cpu=20.0)
    fair = devices.seconds
    devices.seconds = lambda device, arch: fair(device, arch) * (1 + arch["depth"])
    with pytest.raises(InfeasibleBudget, match=r"networks meets .* with a reserve of 0 %; the fastest took .* on cpu"):
        devices.search(tmp_path, devices.budget(0.5))


def test_what_is_only_predicted_keeps_its_margin(tmp_path):
    devices = Devices(cpu=1.0)
    budget = devices.budget(0.5)
    devices.tables["cpu"] = devices.tables["cpu"].model_copy(update={"uncertainty": 0.1})
    search = partial(devices.search, tmp_path, budget)
    careful, certain = search(probability=0.95), search(probability=0.5)
    limit = budget["latency on cpu"].high
    most = limit * (1 - 0.1 * 1.645)
    only_predicted = [c for c in careful.candidates if c.arch not in careful.timings["cpu"]]
    assert max(candidate.costs["latency on cpu"] for candidate in only_predicted) <= most
    assert most < max(candidate.costs["latency on cpu"] for candidate in certain.candidates) <= limit


def test_margins_that_leave_nothing_on_all_devices_together_are_given_up(tmp_path, capsys):
    devices = Devices(cpu=1.0, board=1.0)
    problem = Problem(SPACE, Budget(), *devices.tables.values())
    costs = problem.costs(SPACE.encode(archs()))
    # Limits that one network meets and no other.
    best = costs[np.argmin((costs[:, :2] / costs[:, :2].min(axis=0)).sum(axis=1)), :2]
    assert (costs[:, :2] <= best * (1 + 1e-9)).all(axis=1).sum() == 1
    assert (costs[:, :2].min(axis=0) < 0.95 * best).any()
    for name, known in devices.tables.items():
        devices.tables[name] = known.model_copy(update={"uncertainty": 0.1})
    limits = {name: bound * (1 + 1e-9) for name, bound in zip(devices.tables, best.tolist(), strict=True)}
    outcome = devices.search(tmp_path, on_devices(**limits))
    assert [outcome.winner.costs[f"latency on {name}"] for name in limits] == pytest.approx(best.tolist())
    assert "with the margins of all bounds no network is left" in capsys.readouterr().err


def test_a_strategy_s_predictor_is_kept_and_judged_in_the_result(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    devices, kept = Devices(cpu=1.0), []
    budget = devices.budget(1.0)
    outcome = devices.search(
        tmp_path, budget, context=StrategyContext(keep=kept.append), strategy="predictor-guided", predictor="linear"
    )
    assert outcome.predictor is kept[-1]
    problem = Problem(SPACE, budget, *outcome.tables)
    known = candidates_of(problem, [c.arch for c in outcome.candidates], [c.evaluation for c in outcome.candidates])
    result = result_of(
        outcome,
        problem,
        known,
        tuple(devices.tables.values()),
        SearchFacts(
            id="1",
            supernet="s",
            weights=WeightsFacts(epoch=1, sha256="0" * 64),
            unreadable=0,
            settings=SETTINGS,
            finished="2026-11-24T00:00:00+00:00",
        ),
    )
    quality = kept[-1].quality["linear"]
    assert result.accuracy_fidelity == Fidelity(networks=quality.n, tau=quality.tau, rmse=quality.rmse)
    lines = describe(result).splitlines()
    assert lines[-1].startswith(f"accuracy, predicted against evaluated of {quality.n} networks: Kendall tau ")
    assert lines[-2].startswith("latency on cpu, predicted against measured of 4 networks: Kendall tau 1.000, 0.0 % ")
    assert result.winner.measured_ms == pytest.approx(result.winner.predicted_ms)
