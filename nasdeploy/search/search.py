"""The search as a whole: evolve under the table's latencies, measure the finalists, correct the table, repeat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from nasdeploy.arch import Arch
from nasdeploy.errors import InfeasibleBudget
from nasdeploy.evaluate import Score
from nasdeploy.latency.measure import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.progress import Progress
from nasdeploy.randomness import generator
from nasdeploy.search.budget import Budget, Problem
from nasdeploy.search.evaluation import evaluated
from nasdeploy.search.front import Candidate, candidates_of
from nasdeploy.search.settings import SearchSettings
from nasdeploy.search.strategies import STRATEGIES
from nasdeploy.space import SearchSpace
from nasdeploy.store.evaluations import Evaluation, Evaluations, Measurement

Measure = Callable[[Sequence[Arch]], Mapping[Arch, Timing]]
"""Latencies of whole networks on the device."""


@dataclass(frozen=True)
class Outcome:
    """What a search found: all candidates by rank, the finalists by rank, and the winner among them."""

    candidates: list[Candidate]
    finalists: list[Candidate]
    winner: Candidate
    timings: Mapping[Arch, Timing]
    """Of all finalists that were ever measured; empty without a latency budget."""
    table: LatencyTable | None
    """As corrected by what was measured."""
    rounds: int


@dataclass
class Search:
    """Looks for the most accurate network of a space within a budget."""

    space: SearchSpace
    score: Callable[[Arch], Score]
    evaluations: Evaluations
    budget: Budget
    table: LatencyTable | None
    measure: Measure
    settings: SearchSettings
    seed: int
    progress: Progress
    _timings: dict[Arch, Timing] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Search, measure, and repeat with a corrected table until a finalist meets the budget.

        Raises `InfeasibleBudget` if none does after the settings' number of rounds.
        """
        table = self.table
        for number in range(1, self.settings.measured_rounds + 1):
            candidates = self._evolve(table, number)
            finalists = self._finalists(candidates)
            if table is None:
                return Outcome(candidates, finalists, finalists[0], {}, None, number)
            self._measure(finalists)
            table = table.with_measured(self.space, self._timings)
            fitting = [candidate for candidate in finalists if self.meets(candidate.arch)]
            if fitting:
                return Outcome(candidates, finalists, fitting[0], self._timings, table, number)
            self.progress.say(f"search: none of {len(finalists)} finalists meets {self.budget}; the table is corrected")
            if self.budget.latency is not None and table.range(self.space)[0] > self.budget.latency:
                break
        raise self._never_met()

    def meets(self, arch: Arch) -> bool:
        """Whether a measured network leaves the reserve of the latency budget free; True where there is no budget."""
        return self.budget.latency is None or self._timings[arch].median <= self._limit(self.budget.latency)

    def _limit(self, latency: float) -> float:
        return latency * (1 - self.settings.reserve)

    def _problem(self, table: LatencyTable | None) -> Problem:
        """The space under the budget less its reserve, unless that leaves nothing.

        Where the networks measured so far were slower than even the corrected table says, as much less is allowed.
        """
        latency = self.budget.latency
        if latency is not None and table is not None:
            limit = self._limit(latency) / max(1.0, self._slowness(table))
            # The budget is not below the fastest network, but sums over slots are rounded differently there and here.
            latency = max(limit, table.range(self.space)[0] * (1 + 1e-9))
        return Problem(self.space, replace(self.budget, latency=latency), table)

    def _slowness(self, table: LatencyTable) -> float:
        """Median of measured over predicted latency; 1 before anything is measured."""
        ratios = [t.median / table.predict(self.space.plan(arch)).seconds for arch, t in self._timings.items()]
        return median(ratios) if ratios else 1.0

    def _evolve(self, table: LatencyTable | None, number: int) -> list[Candidate]:
        """Everything known that is within the budget after a round of evolution, best first."""
        problem = self._problem(table)
        strategy = STRATEGIES[self.settings.strategy]
        with self.progress.task("search", strategy.planned(self.settings)) as task:

            def evaluate(archs: Sequence[Arch]) -> list[Evaluation]:
                found = []
                for arch in archs:
                    found.append(evaluated(arch, self.score, self.evaluations))
                    task.advance(note=f"top-1 {100 * found[-1].top1:.1f} %")
                return found

            strategy.run(problem, evaluate, self.settings, generator(self.seed, "search", number))
        return self._known(problem)

    def _known(self, problem: Problem) -> list[Candidate]:
        """All evaluations within the budget, those of earlier searches too, best first."""
        evaluations = self.evaluations.all()
        archs = [self.evaluations.arch(evaluation, self.space) for evaluation in evaluations]
        found = [c for c in candidates_of(problem, archs, evaluations) if problem.allows(c.costs)]
        return sorted(found, key=lambda candidate: candidate.rank, reverse=True)

    def _finalists(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The best by rank; those that were measured before and did not fit are not tried again."""
        hopeful = [c for c in candidates if c.arch not in self._timings or self.meets(c.arch)]
        return list(hopeful[: self.settings.finalists]) or list(candidates[: self.settings.finalists])

    def _measure(self, finalists: Sequence[Candidate]) -> None:
        missing = {c.arch: c.costs[0] for c in finalists if c.arch not in self._timings}
        for arch, timing in self.measure(list(missing)).items():
            self._timings[arch] = timing
            self.evaluations.put_measurement(
                Measurement(
                    digest=arch.digest,
                    device=self._device,
                    median=timing.median,
                    p10=timing.p10,
                    p90=timing.p90,
                    n=timing.n,
                    predicted=missing[arch],
                )
            )

    @property
    def _device(self) -> str:
        assert self.table is not None
        return self.table.conditions.device.name

    def _never_met(self) -> InfeasibleBudget:
        fastest = min(timing.median for timing in self._timings.values())
        return InfeasibleBudget(
            f"none of {len(self._timings)} measured networks meets {self.budget} with a reserve of "
            f"{100 * self.settings.reserve:.3g} %; the fastest took {1e3 * fastest:.4g} ms: give a larger budget, a "
            "smaller search.reserve, or more search.finalists"
        )
