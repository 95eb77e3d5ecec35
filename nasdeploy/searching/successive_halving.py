"""Evaluating architectures once: what is known is not measured again, what is new is kept before it is used.

Successive halving (Jamieson and Talwalkar, 2016) over the held-out samples, if it is asked for: the architectures of a
batch are scored on the first of them, the better half of them on twice as many, and so on up to all. Scores on a
part are kept like those on all images, so that a search that was stopped and goes on halves in the same way.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan

from nasdeploy.core.arch import Arch
from nasdeploy.core.score import Score, proportion, together
from nasdeploy.distributed.jobs import InTurn, Scored, Scoring, ScoringJob
from nasdeploy.searching.settings import require_parts
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
        return proportion(score.metric, 0, score.samples, score.loss)
    return replace(score, value=score.metric.gain(-inf), error=0.0)


def _together(before: Evaluation, after: Evaluation) -> Evaluation:
    """Return the evaluation on the samples of both."""
    return replace(after, score=together([before.score, after.score]), seconds=before.seconds + after.seconds)
