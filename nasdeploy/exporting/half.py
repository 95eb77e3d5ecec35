"""Whether a network bears fp16, which a proof on a processor that computes in fp32 cannot tell."""

import onnx

from nasdeploy.convert.half import LARGEST, Watched, furthest, rounded
from nasdeploy.convert.quantise import layers_of
from nasdeploy.core.errors import CheckFailed
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.accuracy import compare_test_set
from nasdeploy.exporting.conversions import Conversions
from nasdeploy.exporting.difference import Disagreement, Yardstick
from nasdeploy.exporting.figures import HalfPrecision
from nasdeploy.exporting.jobs import Job
from nasdeploy.exporting.reference import Reference

_MOST = 0.5
"""Part of the layers that may stay in fp32; beyond that fp16 is not what was asked for."""


def require_half(job: Job, conversions: Conversions) -> None:
    """Raise `CheckFailed` if fp16 does not hold the network, unless the format can keep in fp32 what that is."""
    if job.precision != "fp16" or not conversions.unfit.operators:
        return
    unfit = conversions.unfit
    layers = len(layers_of(onnx.load_from_string(conversions.onnx("fp32", job.form.recipe(job.device)))))
    few = unfit.layers <= _MOST * layers
    if few and job.form.mixes:
        return
    mixed = ", or --format onnx, which keeps such operators in fp32" if few else ""
    raise CheckFailed(
        f"format {job.name} in fp16: {unfit.reason}, on training images; so it is with {unfit.layers} of {layers} "
        f"layers; use --precision fp32{mixed}"
    )


def prove_half(conversions: Conversions, job: Job, reference: Reference, progress: Progress) -> HalfPrecision:
    """What fp16 does to the network on the test images; raises `Disagreement` for a result that fp16 does not hold."""
    model = rounded(conversions.onnx("fp16", job.form.recipe(job.device)))
    yardstick = Yardstick.of("fp16", reference.logits(reference.sample()))
    watched = Watched(model, job.device.threads)
    progress.say("export: the same, each result rounded to fp16")
    problem, accuracy = None, None
    try:
        accuracy = compare_test_set(watched, reference, yardstick, progress)
    except Disagreement as disagreement:
        problem = disagreement
    finally:
        watched.close()
    reach = furthest(model, watched.largest())
    if reach.is_beyond:
        raise Disagreement(
            f"{reach.operator} reaches {reach.largest:.3g} on the test images, and fp16 ends at {LARGEST:.0f}; use "
            "--precision fp32"
        )
    if accuracy is None:
        raise Disagreement(f"each result rounded to fp16: {problem}; use --precision fp32")
    return HalfPrecision(
        calibration=conversions.calibration,
        kept=conversions.unfit.operators,
        largest=reach.largest,
        operator=reach.operator,
        accuracy=accuracy.model_copy(update={"classes": ()}),
    )
