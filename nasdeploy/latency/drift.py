"""What disturbed a measurement: runs that vary, or a machine that is not as fast as usual.

The latter is told by a reference graph, which is measured again in every group of sessions. What was measured while it
was faster or slower is measured again, also where the runs themselves look quiet; what that does not mend is corrected
(`nasdeploy.latency.drift_correction`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import inf, log
from typing import TypeVar

import numpy as np

from nasdeploy.core.plan import Block
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.protocol import REFERENCE, Timing
from nasdeploy.latency.stratify import blocks_by_macs

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
    """How many times as long as usual the reference graph took, where that is `above` or 1 / `above`, by key.

    Usual is the median of all references. Timings without one do not take part.
    """
    usual = usual_reference(timings.values())
    return {key: ratio for key, one in timings.items() if (ratio := _drift(one, usual, above)) is not None}


def _drift(timing: Timing, usual: float | None, above: float) -> float | None:
    if usual is None or timing.reference is None:
        return None
    ratio = timing.reference / usual
    return ratio if max(ratio, 1 / ratio) > above else None


def disturbance(timing: Timing, usual: float | None, above: float) -> float:
    """How much a timing was disturbed, as a factor; 1 if it was not.

    The larger of p90/p50, where its runs vary too much, and of how much slower or faster than usual the machine was.
    Infinite where the machine's sensors say that it was disturbed.
    """
    ratio = _drift(timing, usual, above) or 1.0
    varied = timing.spread if timing.noise == "spread" else inf if timing.noisy else 1.0
    return max(ratio, 1 / ratio, varied)


def disturbances(timings: Mapping[str, Timing], above: float) -> dict[str, float]:
    """The `disturbance` of each timing that was disturbed, by key."""
    usual = usual_reference(timings.values())
    found = {key: disturbance(timing, usual, above) for key, timing in timings.items()}
    return {key: factor for key, factor in found.items() if factor > 1}


def disturbed_by(timings: Mapping[str, Timing], above: float) -> str:
    """What disturbed some of these timings, in words."""
    drifts = drifted(timings, above).values()
    spreads = [timing.spread for timing in timings.values() if timing.noise == "spread"]
    worst = max(drifts, key=lambda ratio: abs(log(ratio)), default=1.0)
    sensed = {timing.noise for timing in timings.values()}
    reasons = {
        f"runs varied (p90/p50 up to {max(spreads, default=1.0):.2f})": bool(spreads),
        f"the reference graph took up to {worst:.2f} times as long as usual meanwhile": bool(drifts),
        "the processor's frequency changed": "frequency" in sensed,
        "the processor was throttled": "throttling" in sensed,
        "the quota of processors' time was used up": "quota" in sensed,
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


def flagged(timings: Mapping[str, Timing], above: float) -> dict[str, Timing]:
    """`timings`, with the noise `drift` where the machine drifted and nothing else is wrong."""
    found = drifted(timings, above)
    return {
        key: replace(timing, noise="drift") if key in found and not timing.noisy else timing
        for key, timing in timings.items()
    }
