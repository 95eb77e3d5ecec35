"""Which sub-networks of which runs are to be compared, checked before anything heavy is loaded. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.errors import UserError
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.recipe import Recipe, recipe_of, space_of
from nasdeploy.searching.regimes import regime_edges, sample_regimes
from nasdeploy.store.checkpoints import Weights, trained_weights
from nasdeploy.store.run import Run


@dataclass(frozen=True)
class Contender:
    """A run and the architectures drawn from its space, by regime."""

    run: Run
    recipe: Recipe
    space: SearchSpace
    regimes: tuple[tuple[Arch, ...], ...]
    weights: Weights

    @property
    def networks(self) -> int:
        """Number of architectures."""
        return sum(len(regime) for regime in self.regimes)


@dataclass(frozen=True)
class Comparison:
    """Runs of the same classes, and the regimes of MACs between ascending `edges` `[regimes + 1]`."""

    contenders: tuple[Contender, ...]
    edges: Floats


def request_comparison(
    paths: Sequence[Path], sample: int, regimes: int, assignments: Sequence[str] = (), data: str | None = None
) -> Comparison:
    """`sample` architectures of each run (without paths: the latest), equally many from each regime.

    `assignments` and `data` change the recipes for this once. Runs of one space are compared on the same architectures,
    whatever their seeds. Raises `UserError` for a run that is missing, not a trained supernet or given twice, and for
    runs whose classes differ.
    """
    if sample < max(2, regimes):
        raise UserError(f"`sample={sample}`: give {max(2, regimes)} or more, one for each of the {regimes} regimes")
    runs = [Run.open(path) for path in paths] or [Run.latest()]
    _check(runs)
    spaces = [space_of(run) for run in runs]
    edges = regime_edges(spaces, regimes)
    drawn = [sample_regimes(space, edges, sample, generator(0, "evaluate")) for space in spaces]
    contenders = [
        Contender(run, recipe_of(run, assignments, data), space, tuple(map(tuple, archs)), trained_weights(run))
        for run, space, archs in zip(runs, spaces, drawn, strict=True)
    ]
    return Comparison(tuple(contenders), edges)


def _check(runs: Sequence[Run]) -> None:
    first, seen = runs[0], set()
    for run in runs:
        run.facts("train")
        if recipe_of(run).train.sampling.kind == "alone":
            raise UserError(f"{run.path}: one network was trained alone there, so there are no sub-networks to compare")
        if run.path.resolve() in seen:
            raise UserError(f"{run.path}: given twice; name each run once")
        seen.add(run.path.resolve())
        if run.manifest.classes != first.manifest.classes:
            raise UserError(
                f"{run.path}: learned other classes than {first.path}, so that their accuracies cannot be compared; "
                "evaluate them one by one"
            )
