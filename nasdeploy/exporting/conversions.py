"""A network as ONNX in the precisions and for the runtimes that formats ask for, each made once.

In int8 the layers that suffer most from it stay in fp32 until the accuracy holds. That is judged on training images
that are held out for such choices, never on the test set.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx

from nasdeploy.convert import to_onnx
from nasdeploy.convert.half import Unfit, unfit
from nasdeploy.convert.precision import to_fp16
from nasdeploy.convert.quantise import RANGES, RECIPES, Quantiser, Recipe, layers_of
from nasdeploy.convert.vnni import saturates
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.data.batches import evaluation_batches
from nasdeploy.data.images import Images, ImageSets, readable
from nasdeploy.data.settings import DataSettings
from nasdeploy.exporting.manifest import Quantisation
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Array, Precision, Session

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
        """Return a model's logits of the first batch."""
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
            f"layers in fp32, allowed {max_drop:g}; raise `max_drop`, or use `precision=fp16`"
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


_CALIBRATION = 256
_CALIBRATION_BATCH = 4
"""Small: all activations of a batch are in memory at once."""
_HELD_OUT = 2000
_BATCH = 32


@dataclass(frozen=True)
class Examples:
    """Training images for int8 and fp16, prepared as for the network."""

    calibration: Callable[[], Iterable[Array]]
    """Starts a pass over images `[N, 3, side, side]` that ranges are found on."""
    images: int
    """How many those are."""
    held_out: Batches
    """Images and labels that were never trained on, by which losses are judged."""


def examples_of(sets: ImageSets, data: DataSettings, side: int) -> Examples:
    """Images of a run for networks of that input side, without augmentation; the test set is not among them."""
    calibration = readable(spread(sets.train, _CALIBRATION), data).images
    held_out = readable(spread(sets.search, _HELD_OUT), data).images

    def images() -> Iterable[Array]:
        return (inputs for inputs, _ in _batches(calibration, data, side, _CALIBRATION_BATCH))

    return Examples(images, len(calibration), lambda: _batches(held_out, data, side, _BATCH))


def spread(images: Images, most: int) -> Images:
    """Choose at most so many images, from all over the set and so of all classes."""
    places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return images.subset(places.tolist())


def _batches(images: Images, data: DataSettings, side: int, size: int) -> Iterator[tuple[Array, Array]]:
    for pixels, labels in evaluation_batches(images, data, size):
        yield rescale(pixels, side).numpy(), labels.numpy()


MAX_DROP = 0.5
"""Points of top-1 that a model in int8 may lose against fp32 on images held out for such choices."""


@dataclass(frozen=True, eq=False)
class Conversions:
    """The conversions of a network in evaluation mode on the CPU."""

    network: Network
    examples: Examples | None = None
    """None where nothing is asked for in int8, and fp16 is not looked at."""
    max_drop: float = MAX_DROP
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    _made: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)
    _quantisations: dict[str, Quantisation] = field(default_factory=dict, init=False, repr=False)

    def onnx(self, precision: Precision, recipe: str) -> bytes:
        """The network in a precision; `recipe` is a key of `convert.quantise.RECIPES` and matters in int8.

        Raises `CheckFailed` if int8 loses more than `max_drop` points of top-1.
        """
        if precision == "fp32":
            return self._once("fp32", lambda: to_onnx(self.network))
        if precision == "fp16":
            return self._once("fp16", lambda: to_fp16(self.onnx("fp32", recipe), kept=self.unfit.operators))
        return self._once(f"int8 {recipe}", lambda: self._int8(recipe))

    @cached_property
    def unfit(self) -> Unfit:
        """What stays in fp32 where fp16 is asked for, by the calibration images; nothing where there are none."""
        if self.calibration == 0:
            return Unfit()
        return unfit(self.onnx("fp32", ""), _some(self.examples).calibration())

    @property
    def calibration(self) -> int:
        """How many images are calibrated on."""
        return self.examples.images if self.examples else 0

    def quantisation(self, recipe: str) -> Quantisation:
        """How the model in int8 of that recipe was made; it has been."""
        return self._quantisations[recipe]

    def _once(self, key: str, make: Callable[[], bytes]) -> bytes:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def quantiser(self, recipe: str) -> Quantiser:
        """Return the quantiser of a recipe, with the ranges that the examples give.

        Raises `UserError` if there are none.
        """
        how, examples = RECIPES[recipe], _some(self.examples)
        return Quantiser(self.onnx("fp32", recipe), how, examples.calibration(), reduce_range=_is_reduced(how))

    def _int8(self, recipe: str) -> bytes:
        how, fp32, examples = RECIPES[recipe], self.onnx("fp32", recipe), _some(self.examples)
        quantiser, device = self.quantiser(recipe), scoring_device(recipe)
        judge = Judge(lambda model: runtime_of(device).open(model, device), examples.held_out)
        fitted = fit(quantiser, fp32, judge, self.max_drop, self.progress)
        self._quantisations[recipe] = Quantisation(
            recipe=recipe,
            ranges=RANGES if how.activations else "none",
            images=examples.images if how.activations else 0,
            reduced_range=_is_reduced(how),
            layers=len(layers_of(onnx.load_from_string(fp32))),
            kept=fitted.kept,
            drop=fitted.drop,
            max_drop=self.max_drop,
        )
        return fitted.model


def _some(examples: Examples | None) -> Examples:
    if examples is None or examples.images == 0:
        raise UserError("int8: there are no training images to calibrate on; use `precision=fp16`")
    return examples


def _is_reduced(how: Recipe) -> bool:
    """Whether weights have seven bits, because this machine's processor would overflow with eight."""
    return how.activations and how.on_processor and saturates()


def scoring_device(recipe: str) -> Device:
    """Where models of a recipe are judged: in the runtime that they are for, or in ONNX Runtime if that is not here."""
    runtime = RUNTIMES[recipe]
    if runtime.missing() or runtime.obstacle():
        # Sums of 16 bits would overflow, which the runtime that the model is for does not have.
        options = {"session.x64quantprecision": "1"}
        return Device(name="source", runtime="onnxruntime", precision="int8", options=options)
    return Device(name=recipe, runtime=recipe, precision="int8")
