"""Evaluating an architecture once: what is known is not measured again, what is new is kept before it is used."""

from collections.abc import Callable
from time import perf_counter

from nasdeploy.arch import Arch
from nasdeploy.evaluate import Score
from nasdeploy.store.evaluations import Evaluation, Evaluations


def evaluated(arch: Arch, score: Callable[[Arch], Score], evaluations: Evaluations) -> Evaluation:
    """The known evaluation of an architecture, or a new one, kept before it is returned."""
    known = evaluations.get(arch.digest)
    if known is not None:
        return known
    began = perf_counter()
    found = score(arch)
    made = Evaluation(
        digest=arch.digest,
        arch=arch.text,
        top1=found.top1,
        top1_error=found.top1_error,
        cross_entropy=found.cross_entropy,
        images=found.images,
        seconds=perf_counter() - began,
    )
    evaluations.put(made)
    return made
