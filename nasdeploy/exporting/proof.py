"""The gate between a model file and its user: nothing is called exported that did not run and agree with PyTorch.

Stages: the file's form; agreement of logits at several batch sizes; accuracy on the test set; latency; what starting
it takes. The first three reject a model, by tolerances of its precision. The others inform: what a latency table says
is an estimate, and a search has measured already. In fp16 the network is tried with each result rounded to fp16 too,
which a processor that computes in fp32 does not show by itself.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

import onnx

from nasdeploy.convert.half import LARGEST, Watched, furthest, rounded
from nasdeploy.convert.quantise import RECIPES, layers_of
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.compare import Disagreement, Reference, Yardstick, compare_batches, compare_test_set
from nasdeploy.exporting.conversions import MAX_DROP, Conversions, scoring_device
from nasdeploy.exporting.footprint import measure_footprint
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.jobs import Job
from nasdeploy.exporting.manifest import interface
from nasdeploy.exporting.record import Accuracy, AfterGaps, HalfPrecision, Latency, Proof, Throughput
from nasdeploy.latency.measure import Opener, measure
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners.open_runner import check_device
from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model, Session

_UNLUCKY = 2
"""Times the allowed drop that it may lose on the test set, which is another sample, before it is rejected."""
_TIE = 0.98
"""The ratio above which two latencies are a tie: less than 2 % in one measurement is none."""
_USUAL_GAP_MS = 100.0
"""Where the device file does not say how long the application does nothing between calls."""


@dataclass(frozen=True)
class Target:
    """What models are for: a device, its latency table of their space if there is one, and what may be lost."""

    device: Device
    table: LatencyTable | None
    protocol: MeasurementProtocol = field(default_factory=lambda: MeasurementProtocol(sustained_s=1.0))
    reference_graph: Callable[[], Model] | None = None
    """Makes the graph that tells whether the machine is as fast as when the table was measured."""
    max_drop: float = MAX_DROP
    """Points of top-1 that int8 may lose."""


def prove(
    path: Path, job: Job, reference: Reference, target: Target, progress: Progress, fp32: Path | None = None
) -> Proof:
    """Findings about the file at `path`, up to the first stage that rejects it.

    `fp32` is the same network in the same format in fp32, whose latency is measured beside that of a lower precision.
    """
    proof = Proof(problems=tuple(job.form.inspect(path, *interface(reference.network.plan))))
    proof = _compared(proof, path, job, reference, target, progress)
    if proof.problems:
        return proof
    latency = measure_latency(path, job, reference.network.plan, target, progress, fp32)
    try:
        footprint = measure_footprint(job.name, path, job.device)
    except Disagreement as disagreement:
        return proof.model_copy(update={"latency": latency, "problems": (str(disagreement),)})
    return proof.model_copy(update={"latency": latency, "footprint": footprint})


def prove_source(path: Path, onnx: Path, job: Job, reference: Reference, target: Target, progress: Progress) -> Proof:
    """Findings about a file that cannot run here: its form, and what the ONNX model that it was built from computes."""
    proof = Proof(problems=tuple(job.form.inspect(path, *interface(reference.network.plan))))
    here = scoring_device("onnxruntime").model_copy(update={"precision": job.precision, "threads": job.device.threads})
    source = Job("onnx", FORMATS["onnx"], job.precision, here)
    found = _compared(proof, onnx, source, reference, target, progress)
    # Weights in int8 alone are expanded before anything is computed.
    expanded = job.precision == "int8" and not RECIPES[job.form.recipe(job.device)].activations
    return found.model_copy(update={"computed_in": "fp32"}) if expanded and found.computed_in else found


def _compared(proof: Proof, path: Path, job: Job, reference: Reference, target: Target, progress: Progress) -> Proof:
    """The proof with what running the file says of its logits and its accuracy."""
    if proof.problems:
        return proof
    try:
        yardstick = Yardstick.of(job.precision, reference.logits(reference.sample()))
        with _opened(path, job) as session:
            computed_in = RUNTIMES[job.device.runtime].computes(job.precision)
            agreement = compare_batches(session, reference, yardstick, job.form.largest_batch(job.device))
            proof = proof.model_copy(update={"computed_in": computed_in, "agreement": agreement})
            accuracy = compare_test_set(session, reference, yardstick, progress)
    except Disagreement as disagreement:
        return proof.model_copy(update={"problems": (str(disagreement),)})
    return proof.model_copy(update={"accuracy": accuracy, "problems": _losses(accuracy, job, target.max_drop)})


def _losses(accuracy: Accuracy, job: Job, max_drop: float) -> tuple[str, ...]:
    if job.precision != "int8" or accuracy.drop <= _UNLUCKY * max_drop:
        return ()
    return (
        f"top-1 in int8 is {100 * accuracy.top1:.2f} %, {accuracy.drop:.2f} points below PyTorch's on "
        f"{accuracy.images} test images, allowed {_UNLUCKY * max_drop:g}",
    )


@contextmanager
def _opened(path: Path, job: Job) -> Iterator[Session]:
    try:
        session = job.form.open(path, job.device)
    except UserError as error:
        raise Disagreement(str(error)) from None
    try:
        yield session
    finally:
        session.close()


def measure_latency(
    path: Path, job: Job, plan: Plan, target: Target, progress: Progress, fp32: Path | None = None
) -> Latency:
    """Latency of a model file by the protocol for whole networks, beside the prediction for its plan.

    Back to back, and after gaps. That of the file `fp32`, if there is one, is measured in turn with it, and so is the
    reference graph of the table.
    """
    protocol, table = target.protocol, target.table if job.device == target.device else None
    openers = {path.name: lambda: job.form.open(path, job.device)}
    reference = None if table is None else _reference(target, job.device)
    if fp32 is not None:
        openers[fp32.name] = lambda: job.form.open(fp32, job.device.model_copy(update={"precision": "fp32"}))
    together = replace(protocol.networks, group=len(openers) + (reference is not None), idle_s=0.0)
    with progress.task("latency, visits", together.visits * len(openers)) as task:
        (timings,) = measure(openers, together, protocol, reference=reference, on_visit=task.advance)
    timing = timings[path.name]
    gap_ms = job.device.idle_ms or _USUAL_GAP_MS
    alone = {key: opener for key, opener in openers.items() if fp32 is None or key != fp32.name}
    after = _after_gaps(alone, reference, gap_ms, protocol)
    on_device = after[path.name] if job.device.idle_ms else timing
    times = timing.median / timings[fp32.name].median if fp32 is not None else None
    return Latency(
        batch=job.device.batch,
        **_milliseconds(timing),
        runs=timing.n,
        noisy=timing.noisy,
        usual_ms=1e3 * table.as_when_profiled(on_device).median if table else None,
        predicted_ms=1e3 * table.predict(plan).seconds if table else None,
        times_fp32=times,
        throughput=throughput_of(timing, job.device.batch),
        after_gaps=after_gaps_of(after[path.name], gap_ms),
        idle_ms=job.device.idle_ms,
        remarks=(*_remarks(table, job.device), *_gains(times, job)),
    )


def _reference(target: Target, device: Device) -> Opener | None:
    make = target.reference_graph
    return None if make is None else lambda: runtime_of(device).open(make(), device)


def _after_gaps(
    openers: Mapping[str, Opener], reference: Opener | None, gap_ms: float, protocol: MeasurementProtocol
) -> dict[str, Timing]:
    """Measure after gaps, in half as many visits as back to back, since each call costs a gap."""
    rounds = Rounds(len(openers) + (reference is not None), ceil(protocol.networks.visits / 2), gap_ms / 1e3)
    (timings,) = measure(openers, rounds, replace(protocol, sustained_s=0.0), reference=reference)
    return timings


def throughput_of(timing: Timing, batch: int) -> Throughput | None:
    """The images of a timing's throughput; None where it has none."""
    done = timing.throughput
    return None if done is None else Throughput(images=batch * done.calls, seconds=done.seconds)


def after_gaps_of(timing: Timing, gap_ms: float) -> AfterGaps:
    """A timing after gaps of so many milliseconds, as it stands in a manifest."""
    return AfterGaps(gap_ms=gap_ms, **_milliseconds(timing), runs=timing.n, noisy=timing.noisy)


def _milliseconds(timing: Timing) -> dict[str, float]:
    return {f"{name}_ms": 1e3 * getattr(timing, name) for name in ("median", "p10", "p90", "p95")}


def _remarks(table: LatencyTable | None, device: Device) -> list[str]:
    if table is None:
        precision = "" if device.precision == "fp32" else f" in {device.precision}"
        return [f"no latency table of this space on device {device.name}{precision}: measured only"]
    return [f"the latency table differs: {line}" for line in check_device(table, device, strict=False)]


def _gains(times: float | None, job: Job) -> list[str]:
    if times is None or times < _TIE:
        return []
    return [f"{job.precision} is not faster than fp32 here: it takes {times:.2f} times the time"]


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
    mixed = ", or `format=onnx`, which keeps such operators in fp32" if few else ""
    raise CheckFailed(
        f"format {job.name} in fp16: {unfit.reason}, on training images; so it is with {unfit.layers} of {layers} "
        f"layers; use `precision=fp32`{mixed}"
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
            "`precision=fp32`"
        )
    if accuracy is None:
        raise Disagreement(f"each result rounded to fp16: {problem}; use `precision=fp32`")
    return HalfPrecision(
        calibration=conversions.calibration,
        kept=conversions.unfit.operators,
        largest=reach.largest,
        operator=reach.operator,
        accuracy=accuracy.model_copy(update={"classes": ()}),
    )
