"""Architectures drawn from regimes of MACs, equally many from each, as the papers compare supernets. Torch-free."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.counting.cost_range import extremes
from nasdeploy.core.space import Codes, SearchSpace

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
