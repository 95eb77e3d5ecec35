"""A network as ONNX in the precisions and for the runtimes that formats ask for, and for LiteRT in int8, once each.

In int8 the layers that suffer most from it stay in fp32 until the accuracy holds. That is judged on training images
that are held out for such choices, never on the test set.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasdeploy.convert import to_onnx
from nasdeploy.convert.litert import network_tflite
from nasdeploy.convert.precision import Unfit, to_fp16, unfit
from nasdeploy.convert.quantise import RANGES, RECIPES, LayerQuantiser, QuantisationRecipe, Quantiser, saturates
from nasdeploy.convert.tflite_int8 import TFLITE_RANGES, TfliteQuantiser
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Score
from nasdeploy.exporting.manifest import Quantisation
from nasdeploy.exporting.record import logits_of
from nasdeploy.nn.network import Network
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Array, Precision, Session
from nasdeploy.tasks.image_data import score_of

Batches = Callable[[], Iterable[tuple[Array, Array]]]
"""The start of a pass over images `[N, 3, side, side]` and labels `[N]`."""

_MOST = 0.5
"""The part of the layers that may stay in fp32; beyond that int8 is not what was asked for."""


@dataclass(frozen=True)
class Judge:
    """Runs models on held-out images."""

    open: Callable[[bytes], Session]
    held_out: Batches

    def score(self, model: bytes) -> Score:
        """Return the score of a model on all of them."""
        session = self.open(model)

        def logits(inputs: tuple[Tensor, ...]) -> Tensor:
            return torch.from_numpy(logits_of(session, inputs[0].numpy()))

        batches = (((torch.from_numpy(images),), torch.from_numpy(labels)) for images, labels in self.held_out())
        found = score_of(logits, batches)
        session.close()
        return found

    def logits(self, model: bytes) -> Array:
        """Return a model's logits of the first batch."""
        inputs, _ = next(iter(self.held_out()))
        session = self.open(model)
        logits = logits_of(session, inputs)
        session.close()
        return logits


@dataclass(frozen=True)
class FittedInt8:
    """A model in int8 whose accuracy holds."""

    model: bytes
    kept: tuple[str, ...]
    """Layers in fp32, the most sensitive first."""
    drop: float
    """How much of its score it loses, in the unit that is shown: points of accuracy."""


def fit(quantiser: LayerQuantiser, fp32: bytes, judge: Judge, max_drop: float, progress: Progress) -> FittedInt8:
    """Return the model in int8 with as few layers in fp32 as keep its score within `max_drop` of that of `fp32`.

    Raises `CheckFailed` if half of the layers are not enough.
    """
    expected = judge.score(fp32)
    metric = expected.metric

    def fitted(kept: tuple[str, ...]) -> FittedInt8:
        model = quantiser.quantised(kept)
        return FittedInt8(model, kept, metric.lost(judge.score(model).value, expected.value))

    found = fitted(())
    if found.drop <= max_drop:
        return found
    layers = quantiser.layers
    progress.say(
        f"export: int8 loses {found.drop:.2f} points of {metric.name} on held-out {metric.samples}; looking for the "
        "layers"
    )
    order, tried = _by_sensitivity(quantiser, fp32, judge, progress), {0: found}

    def holds(count: int) -> bool:
        tried[count] = fitted(order[:count])
        return tried[count].drop <= max_drop

    most = max(1, int(_MOST * len(layers)))
    fewest = fewest_that(holds, most)
    if fewest is None:
        raise CheckFailed(
            f"int8 loses {tried[most].drop:.2f} points of {metric.name} on held-out {metric.samples} even with {most} "
            f"of {len(layers)} layers in fp32, allowed {max_drop:g}; raise `max_drop`, or use `precision=fp16`"
        )
    return tried[fewest]


def fewest_that(holds: Callable[[int], bool], most: int) -> int | None:
    """Return the smallest number from 1 to `most` that `holds`, if that once true stays so; None if `most` does not."""
    low, high = 0, 1
    while not holds(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _by_sensitivity(quantiser: LayerQuantiser, fp32: bytes, judge: Judge, progress: Progress) -> tuple[str, ...]:
    """Return the layers by how much the logits suffer when that layer alone is in int8, the worst first."""
    expected, layers = judge.logits(fp32), quantiser.layers
    errors: dict[str, float] = {}
    with progress.task("sensitivity, layers", len(layers)) as task:
        for layer in layers:
            others = [name for name in layers if name != layer]
            found = judge.logits(quantiser.quantised(others))
            errors[layer] = float(np.square(found - expected).mean())
            task.advance()
    return tuple(sorted(layers, key=lambda layer: -errors[layer]))


@dataclass(frozen=True)
class Examples:
    """Training images for int8 and fp16, prepared as for the network."""

    calibration: Callable[[], Iterable[Array]]
    """The start of a pass over images `[N, 3, side, side]` that ranges are found on."""
    images: int
    """The number of those images."""
    held_out: Batches
    """Images and labels that were never trained on, by which losses are judged."""


MAX_DROP = 0.5
"""The points that the score of a model in int8 may lose against fp32 on samples held out for such choices."""


@dataclass(frozen=True, eq=False)
class Conversions:
    """The models that are made of a network in evaluation mode on the CPU."""

    network: Network
    examples: Examples | None = None
    """None where nothing is asked for in int8, and fp16 is not looked at."""
    max_drop: float = MAX_DROP
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    names: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    """The names of inputs and outputs of a network of several parts, by the part's name."""
    _made: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)
    _quantisations: dict[str, Quantisation] = field(default_factory=dict, init=False, repr=False)

    def onnx(self, precision: Precision, recipe: str, part: str | None = None) -> bytes:
        """Return the network in a precision; `recipe` is a key of `convert.quantise.RECIPES` and matters in int8.

        Of a network of several parts it is the one called `part`, in fp32.

        Raises `CheckFailed` if int8 loses more than `max_drop` points of its score.
        """
        if len(self.network.plan.parts) > 1 and part is not None:
            return self._once(part, lambda: to_onnx(self.network, part, *self.names[part]))
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
        """The number of images that are calibrated on."""
        return self.examples.images if self.examples else 0

    def quantisation(self, recipe: str) -> Quantisation:
        """Return how the model in int8 of that recipe was made; it has been."""
        return self._quantisations[recipe]

    def _once(self, key: str, make: Callable[[], bytes]) -> bytes:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def quantiser(self, recipe: str) -> Quantiser:
        """Return the quantiser of a recipe, with the examples' ranges; raises `UserError` if there are none."""
        how, examples = RECIPES[recipe], _some(self.examples)
        return Quantiser(self.onnx("fp32", recipe), how, examples.calibration(), reduce_range=_is_reduced(how))

    def _int8(self, recipe: str) -> bytes:
        how = RECIPES[recipe]
        reduced = {"reduced_range": _is_reduced(how)}
        facts = {"ranges": RANGES if how.activations else "none", "images": self.calibration if how.activations else 0}
        return self._fitted(recipe, self.quantiser(recipe), self.onnx("fp32", recipe), {**facts, **reduced}).model

    def tflite_int8(self, batch: int) -> bytes:
        """Return the network for LiteRT in int8, for calls of `batch` images.

        Raises `CheckFailed` if it loses more than `max_drop` points of its score.
        """
        quantiser, fitted = self._tflite_int8
        return fitted.model if batch == 1 else quantiser.quantised(fitted.kept, network_tflite(self.network, batch))

    @cached_property
    def _tflite_int8(self) -> tuple[TfliteQuantiser, FittedInt8]:
        """What makes it, and what was made for one image in a call: what a layer suffers is the same with more."""
        fp32, examples = network_tflite(self.network, 1), _some(self.examples)
        calls = ({"input": image[None]} for batch in examples.calibration() for image in batch)
        quantiser = TfliteQuantiser(fp32, calls)
        facts = {"ranges": TFLITE_RANGES, "images": examples.images, "reduced_range": False}
        return quantiser, self._fitted("litert", quantiser, fp32, facts)

    def _fitted(self, recipe: str, quantiser: LayerQuantiser, fp32: bytes, facts: Mapping[str, Any]) -> FittedInt8:
        """Return the model that `quantiser` makes of `fp32` within `max_drop`, and keep how."""
        device = scoring_device(recipe)
        judge = Judge(lambda model: runtime_of(device).open(model, device), _some(self.examples).held_out)
        fitted = fit(quantiser, fp32, judge, self.max_drop, self.progress)
        self._quantisations[recipe] = Quantisation(
            recipe=recipe,
            layers=len(quantiser.layers),
            kept=fitted.kept,
            drop=fitted.drop,
            max_drop=self.max_drop,
            **facts,
        )
        return fitted


def _some(examples: Examples | None) -> Examples:
    if examples is None or examples.images == 0:
        raise UserError("int8: there are no training images to calibrate on; use `precision=fp16`")
    return examples


def _is_reduced(how: QuantisationRecipe) -> bool:
    """Return whether weights have seven bits, because this machine's processor would overflow with eight."""
    return how.activations and how.on_processor and saturates()


def scoring_device(recipe: str) -> Device:
    """Return where models of a recipe are judged: in their runtime, or in ONNX Runtime if that is not here."""
    runtime = RUNTIMES[recipe]
    if runtime.missing() or runtime.obstacle():
        # Sums of 16 bits would overflow, which the runtime that the model is for does not have.
        options = {"session.x64quantprecision": "1"}
        return Device(name="source", runtime="onnxruntime", precision="int8", options=options)
    return Device(name=recipe, runtime=recipe, precision="int8")
