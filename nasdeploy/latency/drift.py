"""Was the machine as fast as usual? A reference graph tells, which is measured again in every group of sessions.

What was measured while it was faster or slower is measured again, also where the runs themselves look quiet; what
that does not mend is corrected (`nasdeploy.latency.steadying`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from nasdeploy.latency.measure import REFERENCE, Timing
from nasdeploy.latency.stratify import blocks_by_macs
from nasdeploy.plan import Block
from nasdeploy.space import SearchSpace

M = TypeVar("M")


def reference_block(space: SearchSpace) -> Block:
    """The block that is measured again and again: the middle one by MACs, the same for each table of a space."""
    blocks = blocks_by_macs(space)
    return blocks[len(blocks) // 2]


def with_references(models: Mapping[str, M], reference: M, group: int) -> dict[str, M]:
    """`models` in their order, a reference in front of each `group` - 1 of them; none where a group is one model."""
    return dict(_with_references(models, reference, group) if group > 1 else models.items())


def _with_references(models: Mapping[str, M], reference: M, group: int) -> Iterator[tuple[str, M]]:
    for number, first in enumerate(range(0, len(models), group - 1)):
        yield f"{REFERENCE} {number}", reference
        yield from list(models.items())[first : first + group - 1]


def usual_reference(timings: Iterable[Timing]) -> float | None:
    """Seconds of the reference graph at the machine's usual speed, the median; None where there was no reference."""
    references = [timing.reference for timing in timings if timing.reference is not None]
    return float(np.median(references)) if references else None


def steadied(timing: Timing, usual: float | None, power: float) -> Timing:
    """A timing at the speed at which the reference graph takes `usual` seconds; as it is where either is not known."""
    if usual is None or timing.reference is None:
        return timing
    factor = (usual / timing.reference) ** power
    return replace(
        timing,
        median=timing.median * factor,
        p10=timing.p10 * factor,
        p90=timing.p90 * factor,
        p95=timing.p95 * factor,
    )


def drifted(timings: Mapping[str, Timing], above: float) -> dict[str, float]:
    """How much slower than usual the machine was, where it was `above` times slower or faster, by key.

    Usual is the median of all references. Timings without one do not take part.
    """
    references = {key: timing.reference for key, timing in timings.items() if timing.reference is not None}
    usual = usual_reference(timings.values())
    if usual is None:
        return {}
    ratios = {key: reference / usual for key, reference in references.items()}
    return {key: ratio for key, ratio in ratios.items() if max(ratio, 1 / ratio) > above}


def flagged(timings: Mapping[str, Timing], above: float) -> dict[str, Timing]:
    """`timings`, with the noise `drift` where the machine drifted and nothing else is wrong."""
    found = drifted(timings, above)
    return {
        key: replace(timing, noise="drift") if key in found and not timing.noisy else timing
        for key, timing in timings.items()
    }
