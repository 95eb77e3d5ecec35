"""Which sub-networks of which runs are to be compared, checked before anything heavy is loaded. Torch-free.

They are drawn from regimes of MACs, equally many from each, as the papers compare supernets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.counting.cost_range import extremes
from nasdeploy.core.errors import UserError
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.recipe import Recipe, recipe_of, space_of
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


_POOL = 20_000


def regime_edges(spaces: Sequence[SearchSpace], count: int) -> Floats:
    """Ascending MACs `[count + 1]` at equal ratios, from the cheapest to the dearest network of any of the spaces."""
    ends = [extreme.cost for space in spaces for extreme in extremes(space, macs)]
    edges = np.geomspace(min(ends), max(ends), count + 1)
    # Exact at the ends, where rounding would leave the extremes outside.
    edges[0], edges[-1] = min(ends), max(ends)
    return edges


def regimes_of(costs: Floats, edges: Floats) -> npt.NDArray[np.intp]:
    """Index of the regime of each of the MACs `[n]`; an inner edge belongs to the regime above it."""
    return np.clip(np.searchsorted(edges, costs, side="right") - 1, 0, len(edges) - 2)


def sample_regimes(space: SearchSpace, edges: Floats, number: int, rng: np.random.Generator) -> list[list[Arch]]:
    """Up to `number` different architectures by regime, equally many from each regime that the space reaches.

    The cheapest and the dearest network are among them. Those of a smaller number are among those of a larger one if
    both divide evenly. A regime has fewer if no more were found in it.
    """
    cheapest, dearest = extremes(space, macs)
    first, last = regimes_of(np.array([cheapest.cost, dearest.cost]), edges)
    reached = range(first, last + 1)
    costs = Costs(space, [macs])
    regimes: list[list[Arch]] = [[] for _ in edges[1:]]
    for codes in _pools(space, space.encode([cheapest.arch, dearest.arch]), rng):
        places = regimes_of(costs(codes)[:, 0], edges)
        for n, place in enumerate(reached):
            share = number // len(reached) + (n < number % len(reached))
            _fill(regimes[place], share, codes[places == place], space)
    return regimes


def _pools(space: SearchSpace, ends: Codes, rng: np.random.Generator) -> Iterator[Codes]:
    """First both ends, then uniform draws, then draws blended with the ends, which reach the outer regimes."""
    yield ends
    uniform = space.sample_codes(_POOL, rng)
    yield uniform
    yield space.blend(uniform, ends, rng)


def _fill(regime: list[Arch], share: int, codes: Codes, space: SearchSpace) -> None:
    """Append new architectures of `codes`, in their order, until the regime has its share."""
    seen = set(regime)
    # Twice as many as are missing, because some may come twice.
    size = 2 * share + 1
    for start in range(0, len(codes), size):
        for arch in space.decode(codes[start : start + size]):
            if len(regime) >= share:
                return
            if arch not in seen:
                seen.add(arch)
                regime.append(arch)
