"""Choosing whole networks that cover a space's latency range evenly, its fastest and its slowest included.

Networks drawn uniformly sit in the middle of the range: a calibration on them would be extrapolated for low budgets.
"""

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import Costs
from nasdeploy.core.counting.cost_range import extremes
from nasdeploy.core.plan import Block
from nasdeploy.core.space import SearchSpace

_CANDIDATES = 4000


def evenly(number: int, wanted: int) -> list[int]:
    """Up to `wanted` different places among `number`, ascending, at equal distances, both ends included."""
    return sorted({int(place) for place in np.linspace(0, number - 1, wanted).round()})


def blocks_by_macs(space: SearchSpace) -> list[Block]:
    """All blocks of a space in ascending MACs, in the same order for each table."""
    return sorted(space.distinct_blocks().values(), key=lambda block: (block.macs, block.key))


def stratified(space: SearchSpace, cost: SlotCost, number: int, rng: np.random.Generator) -> list[Arch]:
    """Up to `number` different architectures in ascending cost: both extremes, and others at equal ratios between them.

    Fewer if the space has fewer. `cost` is positive for every network.
    """
    cheapest, dearest = extremes(space, cost)
    ends = space.encode([cheapest.arch, dearest.arch])
    candidates = space.blend(space.sample_codes(_CANDIDATES, rng), ends, rng)
    costs = dict(zip(space.decode(candidates), Costs(space, [cost])(candidates)[:, 0], strict=True))
    chosen = {extreme.arch: extreme.cost for extreme in (cheapest, dearest)}
    for target in np.geomspace(cheapest.cost, dearest.cost, number)[1:-1]:
        unused = [arch for arch in costs if arch not in chosen]
        if unused:
            nearest = min(unused, key=lambda arch: abs(costs[arch] - target))
            chosen[nearest] = costs[nearest]
    return sorted(chosen, key=lambda arch: chosen[arch])[:number]
