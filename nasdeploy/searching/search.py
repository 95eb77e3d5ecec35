"""Search: architectures are evaluated, each once, until those that were measured on the devices meet the budget.

Successive halving (Jamieson and Talwalkar, 2016) over the held-out samples, if it is asked for: the architectures of a
batch are scored on the first of them, the better half of them on twice as many, and so on up to all. What is known is
not measured again, and what is new is kept before it is used; scores on a part are kept like those on all samples, so
that a search that was stopped and goes on halves in the same way.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isnan
from statistics import median

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import InfeasibleBudget, UserError
from nasdeploy.core.paired import SampleScores
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator
from nasdeploy.core.score import Score, proportion, together
from nasdeploy.core.space import SearchSpace
from nasdeploy.distributed.jobs import InTurn, Scored, Scoring, ScoringJob
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.searching.budget import Budget
from nasdeploy.searching.feasibility import is_reachable
from nasdeploy.searching.outcome import FinalistComparison, Outcome
from nasdeploy.searching.predictors.predictor import FittedPredictor
from nasdeploy.searching.problem import (
    Candidate,
    GrowingFront,
    Problem,
    candidates_of,
    median_bound,
    meets,
    predicted_budget,
    ranked,
)
from nasdeploy.searching.settings import SearchSettings, require_parts
from nasdeploy.searching.strategies import STRATEGIES, StrategyContext
from nasdeploy.store.evaluations import Evaluation, Evaluations


def rungs(samples: int, count: int) -> list[int]:
    """Return the numbers of samples after which the worse half is stopped: `count` less one, doubling up to all."""
    return sorted({samples >> rung for rung in range(1, count)} - {0, samples})


@dataclass(frozen=True)
class Evaluating:
    """Evaluates architectures by `scoring` and keeps what comes out; `count` of rungs above 1 halves successively."""

    scoring: Scoring
    evaluations: Evaluations
    count: int = 1
    done: Callable[[Evaluation], None] = lambda evaluation: None
    """Called with each evaluation when it is kept, stopped, or found to be known."""
    say: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        require_parts(self.evaluations.metric, self.count)

    def __call__(self, archs: Sequence[Arch]) -> list[Evaluation]:
        """The evaluations of architectures, in their order; those that were stopped early are not `whole`."""
        rivals, found = list(dict.fromkeys(archs)), dict[str, Evaluation]()
        for end in [*rungs(self.scoring.samples, self.count), None]:
            known = {digest: whole for digest, whole in self._known(rivals).items() if self._part(digest, end) is None}
            found |= known
            rivals = [arch for arch in rivals if arch.digest not in known]
            for evaluation in known.values():
                self.done(evaluation)
            if end is not None:
                stopped = self._worse_half(rivals, end)
                found |= stopped
                rivals = [arch for arch in rivals if arch.digest not in stopped]
        self._score(rivals, None, self.done)
        found |= self._known(rivals)
        return [found[arch.digest] for arch in archs]

    def _worse_half(self, rivals: Sequence[Arch], end: int) -> dict[str, Evaluation]:
        """Return the evaluations on the samples up to `end` of those that are stopped there.

        A network that has lost is stopped again when it is met again, though all samples may have been scored in
        between: a search that goes on has to take the way that it took before.
        """
        self._score([arch for arch in rivals if self._part(arch.digest, end) is None], end)
        parts = [part for arch in rivals if (part := self._part(arch.digest, end)) is not None]
        stopped = sorted(parts, key=lambda part: part.score.rank, reverse=True)[(len(parts) + 1) // 2 :]
        for evaluation in stopped:
            self.done(evaluation)
        return {evaluation.digest: evaluation for evaluation in stopped}

    def completed(self, archs: Sequence[Arch]) -> list[Evaluation]:
        """Whole evaluations, of architectures that were stopped early too."""
        self._score([arch for arch in archs if self.evaluations.get(arch.digest) is None], None)
        known = self._known(archs)
        return [known[arch.digest] for arch in archs]

    def _known(self, archs: Iterable[Arch]) -> dict[str, Evaluation]:
        known = ((arch.digest, self.evaluations.get(arch.digest)) for arch in archs)
        return {digest: evaluation for digest, evaluation in known if evaluation is not None}

    def _part(self, digest: str, end: int | None) -> Evaluation | None:
        """Return the evaluation on the samples up to `end`, which are not all, if there is one."""
        return next((part for part in self.evaluations.parts(digest) if part.score.samples == end), None)

    def _score(
        self, archs: Sequence[Arch], end: int | None, done: Callable[[Evaluation], None] = lambda evaluation: None
    ) -> None:
        """Score on the samples up to `end` what was not, going on from the largest part that was, and keep it."""
        earlier: dict[Arch, Evaluation | None] = {}
        for arch in archs:
            parts = [part for part in self.evaluations.parts(arch.digest) if end is None or part.score.samples < end]
            earlier[arch] = parts[-1] if parts else None
        jobs = [ScoringJob(arch, part.score.samples if part else 0, end) for arch, part in earlier.items()]
        for scored in self.scoring(jobs):
            made = _evaluation(scored)
            before = earlier[scored.job.arch]
            made = made if before is None else _together(before, made)
            self.evaluations.put(made)
            if not made.score.is_sound:
                self.say(f"network {made.digest} gives logits that are no numbers (NaN) and cannot win: {made.arch}")
            done(made)


def evaluated(arch: Arch, score: Callable[[Arch], Score], evaluations: Evaluations) -> Evaluation:
    """Return the known evaluation of an architecture, or a new one, kept before it is returned."""
    (found,) = Evaluating(InTurn(lambda job: score(job.arch)), evaluations)([arch])
    return found


def _evaluation(scored: Scored) -> Evaluation:
    arch, whole = scored.job.arch, scored.job.end is None
    return Evaluation(arch.digest, arch.text, _without_nan(scored.score), scored.seconds, whole)


def _without_nan(score: Score) -> Score:
    """Return a score whose value, if it is no number, is the worst one."""
    if not isnan(score.value):
        return score
    if score.metric.aggregate == "proportion":
        worst = proportion(score.metric, 0, score.samples, score.loss)
        return replace(score, value=worst.value, error=worst.error)
    return replace(score, value=score.metric.gain(-inf), error=0.0)


def _together(before: Evaluation, after: Evaluation) -> Evaluation:
    """Return the evaluation on the samples of both."""
    return replace(after, score=together([before.score, after.score]), seconds=before.seconds + after.seconds)


Measure = Callable[[str, Sequence[Arch]], Mapping[Arch, Timing]]
"""Latencies of whole networks on the device of that name."""

Deploy = Callable[[Sequence[Arch]], Mapping[Arch, Evaluation]]
"""Accuracies of networks as their device computes them; of none where it does so as the supernet does."""

Sampled = Callable[[Sequence[Arch]], Mapping[Arch, SampleScores]]
"""What networks are worth on each of the held-out samples; of none where that is not known."""


@dataclass
class Search:
    """Looks for the most accurate network of a space within a budget."""

    space: SearchSpace
    scoring: Scoring
    evaluations: Evaluations
    budget: Budget
    tables: Sequence[LatencyTable]
    """One for each device of the budget's latencies, in their order."""
    measure: Measure
    settings: SearchSettings
    seed: int
    progress: Progress
    context: StrategyContext = field(default_factory=StrategyContext)
    """What the strategy may use beside the problem."""
    deploy: Deploy = lambda archs: {}
    """Asked for finalists that meet the budget, which are ranked by its answers."""
    sampled: Sampled = lambda archs: {}
    """Asked for finalists that meet the budget, which are compared by its answers."""
    candidates: tuple[Arch, ...] = ()
    """The architectures that are evaluated in any case, whatever the strategy proposes, if they are within the
    budget."""
    _predictor: FittedPredictor | None = None
    _timings: dict[str, dict[Arch, Timing]] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Search, measure, and repeat with corrected tables until a finalist meets the budget.

        Raises `InfeasibleBudget` if none does after the settings' number of rounds.
        """
        tables = self.tables
        for number in range(1, self.settings.measured_rounds + 1):
            candidates = self._round(tables, number)
            finalists = self._finalists(candidates)
            self._measure(finalists)
            tables = [table.with_measured(self.space, self._timings[_device(table)]) for table in tables]
            fitting = [candidate for candidate in finalists if self._measured_within(candidate.arch)]
            if fitting:
                return self._outcome(candidates, finalists, fitting, tables, number)
            self.progress.say(f"search: none of {len(finalists)} finalists meets {self.budget}; the table is corrected")
            if self._out_of_reach(tables):
                break
        raise self._never_met()

    def _outcome(
        self,
        candidates: list[Candidate],
        finalists: list[Candidate],
        fitting: list[Candidate],
        tables: Sequence[LatencyTable],
        rounds: int,
    ) -> Outcome:
        """What was found, those that fit ranked by their accuracy on the device."""
        deployed = self.deploy([candidate.arch for candidate in fitting])
        as_deployed = [replace(c, evaluation=deployed.get(c.arch, c.evaluation)) for c in fitting]
        order = [candidate.arch for candidate in ranked(as_deployed, self.candidates)]
        fitting.sort(key=lambda candidate: order.index(candidate.arch))
        comparison, best = self._compared(fitting, deployed, tables), fitting[0]
        if self.settings.prefer == "fast" and (faster := comparison.faster(best.arch)) is not None:
            fitting.sort(key=lambda candidate: candidate.arch != faster)
        known = self._timings, tables, rounds, deployed, self._predictor
        return Outcome(candidates, finalists, fitting, best, comparison, *known)

    def _compared(
        self, fitting: Sequence[Candidate], deployed: Mapping[Arch, Evaluation], tables: Sequence[LatencyTable]
    ) -> FinalistComparison:
        """Compare finalists, sample by sample but where their device computes other scores than the supernet."""
        samples = self.sampled([candidate.arch for candidate in fitting]) if len(fitting) > 1 and not deployed else {}
        axis = Problem(self.space, self.budget, *tables).axis.name
        timings = self._timings.get(_device(tables[0]), {}) if tables else {}
        return FinalistComparison.of(fitting, axis, deployed, timings, samples)

    def _measured_within(self, arch: Arch) -> bool:
        """Whether a measured network leaves the reserve of every latency limit free; True where there is none."""
        return all(
            meets(self._timings[device][arch], self.budget.on(device), self.settings.reserve)
            for device in self.budget.devices
        )

    def _is_measured(self, arch: Arch) -> bool:
        return bool(self.tables) and all(arch in self._timings.get(_device(table), {}) for table in self.tables)

    def _out_of_reach(self, tables: Sequence[LatencyTable]) -> bool:
        """Whether a corrected table says that even the fastest network is too slow."""
        return any(
            table.range(self.space)[0] > median_bound(self.budget.on(_device(table)), table.p95_ratio).high
            for table in tables
        )

    def _problem(self, tables: Sequence[LatencyTable]) -> Problem:
        """The space under the budget that predictions have to keep to, if that leaves anything of the budget."""
        budget = predicted_budget(
            self.budget,
            tables,
            [table.range(self.space) for table in tables],
            {_device(table): median(self._ratios(table) or [1.0]) for table in tables},
            probability=self.settings.probability,
            reserve=self.settings.reserve,
        )
        careful = Problem(self.space, budget, *tables)
        if is_reachable(careful):
            return careful
        self.progress.say("search: with the margins of all bounds no network is left, so predictions have none")
        return Problem(self.space, self.budget, *tables)

    def _ratios(self, table: LatencyTable) -> list[float]:
        """Measured over predicted latency of every network measured on the table's device."""
        timings = self._timings.get(_device(table), {})
        return [t.median / table.predict(self.space.plan(arch)).seconds for arch, t in timings.items()]

    def _round(self, tables: Sequence[LatencyTable], number: int) -> list[Candidate]:
        """Everything known that is within the budget after a round of search, best first."""
        problem = self._problem(tables)
        context = replace(self.context, say=self._say, keep=self._keep_predictor)
        metric = self.evaluations.metric
        front = GrowingFront(problem, metric)
        with self.progress.task("search", self.settings.evaluations, table=front.rows) as task:

            def done(evaluation: Evaluation) -> None:
                score = evaluation.score
                stopped = "" if evaluation.whole else f" on {score.samples} {metric.samples}, stopped"
                front.add(self.evaluations.arch(evaluation, self.space), evaluation)
                task.advance(note=f"{metric.name} {score.text}{stopped}")

            evaluate = Evaluating(self.scoring, self.evaluations, self.settings.halving, done, self._say)
            if given := self._given(problem):
                evaluate(given)
            strategy = STRATEGIES[self.settings.strategy]
            strategy.run(problem, evaluate, self.settings, generator(self.seed, "search", number), context)
        known = self._known(problem)
        while stopped := [c.arch for c in self._finalists(known) if not c.evaluation.whole]:
            evaluate.completed(stopped)
            known = self._known(problem)
        return [candidate for candidate in known if candidate.evaluation.whole]

    def _given(self, problem: Problem) -> list[Arch]:
        """Return those of the given candidates that are within the budget."""
        if not self.candidates:
            return []
        costs = problem.named(problem.costs(self.space.encode(self.candidates)))
        return [arch for arch, each in zip(self.candidates, costs, strict=True) if problem.allows(each)]

    def _keep_predictor(self, fitted: FittedPredictor) -> None:
        self._predictor = fitted
        self.context.keep(fitted)

    def _say(self, text: str) -> None:
        self.progress.say(f"search: {text}")

    def _known(self, problem: Problem) -> list[Candidate]:
        """All evaluations within the budget, those of earlier searches too, best first.

        What was measured is judged by that where it says yes, everything else by its predictions. Networks whose
        outputs are no numbers are left out; raises `UserError` if there are no others.
        """
        evaluations = [*self.evaluations.all(), *self.evaluations.stopped()]
        archs = [self.evaluations.arch(evaluation, self.space) for evaluation in evaluations]
        found = [
            c
            for c in candidates_of(problem, archs, evaluations)
            if problem.allows(c.costs)
            or (self._is_measured(c.arch) and self._measured_within(c.arch) and self.budget.allows(c.costs))
        ]
        sound = [candidate for candidate in found if candidate.evaluation.score.is_sound]
        if not sound:
            raise UserError("no network of the supernet gives numbers (NaN): its training failed; train it again")
        return ranked(sound, self.candidates)

    def _finalists(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The best by rank; those that were measured before and did not fit are not tried again."""
        hopeful = [c for c in candidates if not self._is_measured(c.arch) or self._measured_within(c.arch)]
        return list(hopeful[: self.settings.finalists]) or list(candidates[: self.settings.finalists])

    def _measure(self, finalists: Sequence[Candidate]) -> None:
        for table in self.tables:
            name = _device(table)
            known = self._timings.setdefault(name, {})
            missing = [candidate.arch for candidate in finalists if candidate.arch not in known]
            if missing:
                known.update(self.measure(name, missing))

    def _never_met(self) -> InfeasibleBudget:
        slow = [text for table in self.tables if (text := self._slow(table))]
        if slow:
            return InfeasibleBudget(f"no measured network meets {self.budget}: {'; '.join(slow)}")
        fastest = ", ".join(
            f"{1e3 * min(t.median for t in timings.values()):.4g} ms on {name}"
            for name, timings in self._timings.items()
        )
        return InfeasibleBudget(
            f"none of {len(self._timings[_device(self.tables[0])])} measured networks meets {self.budget} with a "
            f"reserve of {100 * self.settings.reserve:.3g} %; the fastest took {fastest}: give a larger budget, a "
            "smaller search.reserve, or more search.finalists"
        )

    def _slow(self, table: LatencyTable) -> str | None:
        """What to say of a device that runs slower, throughout, than when its table was measured."""
        ratios = self._ratios(table)
        if min(ratios) < _SLOWER or max(ratios) > _ALIKE * min(ratios):
            return None
        them = "the one that was measured" if len(ratios) == 1 else f"all {len(ratios)} of them"
        return (
            f"{_device(table)} took {min(ratios):.2f} to {max(ratios):.2f} times as long as its table says for {them}, "
            "so it runs slower than when it was profiled; see `workflows.table.check()`, wait until it "
            "is as fast as it was, or measure again with `nd.profile(restart=True)`"
        )


_SLOWER = 1.1
_ALIKE = 1.25
"""Largest ratio between the slowness of networks that all suffer from the same machine."""


def _device(table: LatencyTable) -> str:
    return table.conditions.device.name
