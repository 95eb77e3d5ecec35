"""Int8 within a limit: layers that suffer most from it stay in fp32 until the accuracy holds.

Judged on training images that are held out for such choices, never on the test set.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from nasdeploy.convert.quantise import Quantiser
from nasdeploy.core.errors import CheckFailed
from nasdeploy.core.progress import Progress
from nasdeploy.runtimes.runtime import Array, Session

Batches = Callable[[], Iterable[tuple[Array, Array]]]
"""Starts a pass over images `[N, 3, side, side]` and labels `[N]`."""

_MOST = 0.5
"""Part of the layers that may stay in fp32; beyond that int8 is not what was asked for."""


@dataclass(frozen=True)
class Judge:
    """Runs models on held-out images."""

    open: Callable[[bytes], Session]
    held_out: Batches

    def top1(self, model: bytes) -> float:
        """Accuracy in 0..1 on all of them."""
        correct = count = 0
        session = self.open(model)
        for inputs, labels in self.held_out():
            correct += int((_run(session, inputs).argmax(axis=1) == labels).sum())
            count += len(labels)
        session.close()
        return correct / count

    def logits(self, model: bytes) -> Array:
        """Of the first batch."""
        inputs, _ = next(iter(self.held_out()))
        session = self.open(model)
        logits = _run(session, inputs)
        session.close()
        return logits


def _run(session: Session, inputs: Array) -> Array:
    (name,) = session.inputs
    (logits,) = session.run({name: inputs})
    return logits


@dataclass(frozen=True)
class Fitted:
    """A model in int8 whose accuracy holds."""

    model: bytes
    kept: tuple[str, ...]
    """Layers in fp32, the most sensitive first."""
    drop: float
    """Points of top-1 that it loses."""


def fit(quantiser: Quantiser, fp32: bytes, judge: Judge, max_drop: float, progress: Progress) -> Fitted:
    """The model in int8 with as few layers in fp32 as keep top-1 within `max_drop` points of that of `fp32`.

    Raises `CheckFailed` if half of the layers are not enough.
    """
    expected = judge.top1(fp32)

    def fitted(kept: tuple[str, ...]) -> Fitted:
        model = quantiser.quantised(kept)
        return Fitted(model, kept, 100 * (expected - judge.top1(model)))

    found = fitted(())
    if found.drop <= max_drop:
        return found
    layers = quantiser.layers
    progress.say(f"export: int8 loses {found.drop:.2f} points of top-1 on held-out images; looking for the layers")
    order, tried = _by_sensitivity(quantiser, fp32, judge, progress), {0: found}

    def holds(count: int) -> bool:
        tried[count] = fitted(order[:count])
        return tried[count].drop <= max_drop

    most = max(1, int(_MOST * len(layers)))
    fewest = fewest_that(holds, most)
    if fewest is None:
        raise CheckFailed(
            f"int8 loses {tried[most].drop:.2f} points of top-1 on held-out images even with {most} of {len(layers)} "
            f"layers in fp32, allowed {max_drop:g}; raise --max-drop, or use --precision fp16"
        )
    return tried[fewest]


def fewest_that(holds: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 1 to `most` that `holds`, if that once true stays so; None if `most` does not."""
    low, high = 0, 1
    while not holds(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _by_sensitivity(quantiser: Quantiser, fp32: bytes, judge: Judge, progress: Progress) -> tuple[str, ...]:
    """The layers by how much the logits suffer when that layer alone is in int8, the worst first."""
    expected, layers = judge.logits(fp32), quantiser.layers
    errors: dict[str, float] = {}
    with progress.task("sensitivity, layers", len(layers)) as task:
        for layer in layers:
            others = [name for name in layers if name != layer]
            found = judge.logits(quantiser.quantised(others))
            errors[layer] = float(np.square(found - expected).mean())
            task.advance()
    return tuple(sorted(layers, key=lambda layer: -errors[layer]))
