"""A network as ONNX in the precisions and for the runtimes that formats ask for, each made once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from nasdeploy.convert import to_onnx
from nasdeploy.convert.half import Unfit, unfit
from nasdeploy.convert.precision import to_fp16
from nasdeploy.convert.quantise import RANGES, RECIPES, Quantiser, Recipe, layers_of
from nasdeploy.convert.vnni import saturates
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.manifest import Quantisation
from nasdeploy.exporting.quantised import Batches, Judge, fit
from nasdeploy.nn.network import Network
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Array, Precision

MAX_DROP = 0.5
"""Points of top-1 that a model in int8 may lose against fp32 on images held out for such choices."""


@dataclass(frozen=True)
class Examples:
    """Training images for int8 and fp16, prepared as for the network."""

    calibration: Callable[[], Iterable[Array]]
    """Starts a pass over images `[N, 3, side, side]` that ranges are found on."""
    images: int
    """How many those are."""
    held_out: Batches
    """Images and labels that were never trained on, by which losses are judged."""


@dataclass(frozen=True, eq=False)
class Conversions:
    """Of a network in evaluation mode on the CPU."""

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
        """That of a recipe, with the ranges that the examples give; raises `UserError` if there are none."""
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
        raise UserError("int8: there are no training images to calibrate on; use --precision fp16")
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
