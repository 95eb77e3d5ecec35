"""Which of two timings is better, and what disturbed them: runs that vary, or a machine not as fast as usual.

There is one order of better (`quality`): campaigns that measure again, and merged tables, go by it. How fast the
machine was is told by a reference graph, which is measured again in every group of sessions. A timing made while it was
slower or faster than usual is flagged, also where its runs look quiet, and corrected (`corrected`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf, log
from statistics import median

from nasdeploy.latency.protocol import Timing


def quality(timing: Timing, usual: float | None = None, drift_above: float = inf) -> tuple[float, int, str]:
    """Return a key by which better timings are larger: less disturbed, else of more runs, else later.

    `usual` are the seconds of the reference graph at the machine's usual speed, if they are known.
    """
    return -disturbance(timing, usual, drift_above), timing.n, timing.at


def disturbance(timing: Timing, usual: float | None, drift_above: float) -> float:
    """Return how much a timing was disturbed, as a factor; 1 if it was not.

    The larger of p90/p50, where its runs vary too much, and of how much slower or faster than usual the machine was.
    Infinite where the timing says that something else disturbed it.
    """
    ratio = _drift(timing, usual, drift_above) or 1.0
    varied = timing.spread if timing.noise == "spread" else inf if timing.noisy else 1.0
    return max(ratio, 1 / ratio, varied)


def disturbances(timings: Mapping[str, Timing], drift_above: float) -> dict[str, float]:
    """Return the `disturbance` of each timing that was disturbed, by key."""
    usual = usual_reference(timings.values())
    found = {key: disturbance(timing, usual, drift_above) for key, timing in timings.items()}
    return {key: factor for key, factor in found.items() if factor > 1}


def disturbed_by(timings: Mapping[str, Timing], drift_above: float) -> str:
    """Say in words what disturbed some of these timings."""
    drifts = drifted(timings, drift_above).values()
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


# -- drift


def usual_reference(timings: Iterable[Timing]) -> float | None:
    """Return the seconds of the reference graph at the machine's usual speed, the median; None where there is none."""
    references = [timing.reference for timing in timings if timing.reference is not None]
    return median(references) if references else None


def drifted(timings: Mapping[str, Timing], drift_above: float) -> dict[str, float]:
    """Return how many times as long as usual the reference graph took, where that is more than `drift_above`, or less
    than its inverse, by key. Timings without a reference do not take part."""
    usual = usual_reference(timings.values())
    return {key: ratio for key, one in timings.items() if (ratio := _drift(one, usual, drift_above)) is not None}


def _drift(timing: Timing, usual: float | None, above: float) -> float | None:
    if usual is None or timing.reference is None:
        return None
    ratio = timing.reference / usual
    return ratio if max(ratio, 1 / ratio) > above else None


def flagged(timings: Mapping[str, Timing], drift_above: float) -> dict[str, Timing]:
    """Return `timings`, with the noise `drift` where the machine drifted and nothing else is wrong."""
    found = drifted(timings, drift_above)
    return {
        key: replace(timing, noise="drift") if key in found and not timing.noisy else timing
        for key, timing in timings.items()
    }


def corrected(timing: Timing, usual: float | None, power: float) -> Timing:
    """Return a timing at the speed at which the reference graph takes `usual` seconds.

    It is divided by the `power`-th power of how much longer than usual the reference graph took meanwhile; it stays as
    it is where either is not known.
    """
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
