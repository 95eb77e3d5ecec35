"""The gate between a model file and its user: nothing is called exported that did not run and agree with PyTorch.

Stages: the file's form; agreement of outputs at several batch sizes; the score on the test set; latency; what starting
it takes. The first three reject a model, by tolerances of its precision. The others inform: what a latency table says
is an estimate, and a search has measured already. In fp16 the network is tried with each result rounded to fp16 too,
which a processor that computes in fp32 does not show by itself. A network of several parts is proved as a whole: a file
for each part, all of which score together.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path

import onnx

from nasdeploy.convert.precision import LARGEST, Watched, furthest, rounded
from nasdeploy.convert.quantise import RECIPES, layers_of
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.conversions import MAX_DROP, Conversions, scoring_device
from nasdeploy.exporting.footprint import measure_footprint
from nasdeploy.exporting.formats import FORMATS, ExportJob
from nasdeploy.exporting.manifest import part_facts
from nasdeploy.exporting.record import (
    Disagreement,
    HalfPrecision,
    ModelLatency,
    Proof,
    Reference,
    RunsAfterGaps,
    Sessions,
    Throughput,
    compare_batches,
    is_single,
    milliseconds,
    yardstick_of,
)
from nasdeploy.latency.measure import Opener, measure
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners.open_runner import check_device
from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model
from nasdeploy.tasks.file_scores import Accuracy, ProvenScore

_UNLUCKY = 2
"""How many times the allowed drop a model may lose on the test set, which is another sample, before it is rejected."""
_TIE = 0.98
"""The ratio to the time in fp32 from which a precision is no faster: less than 2 % in one measurement is none."""
_USUAL_GAP_MS = 100.0
"""The pause between calls where the device file does not say how long the application does nothing."""
_MOST = 0.5
"""The part of the layers that may stay in fp32; beyond that fp16 is not what was asked for."""

Files = Mapping[str, Path]
"""The file that is opened of each part of a network, by the part's name."""


@dataclass(frozen=True)
class ExportTarget:
    """What models are for: a device, its latency table of their space if there is one, and what may be lost."""

    device: Device
    table: LatencyTable | None
    protocol: MeasurementProtocol = field(default_factory=lambda: MeasurementProtocol(sustained_s=1.0))
    reference_graph: Callable[[], Model] | None = None
    """Makes the graph that tells whether the machine is as fast as when the table was measured."""
    max_drop: float = MAX_DROP
    """The points of the score that int8 may lose."""


@dataclass(frozen=True)
class Gate:
    """What all models of one network are held against."""

    reference: Reference
    target: ExportTarget
    progress: Progress

    @property
    def plan(self) -> Plan:
        """The network's parts."""
        return self.reference.network.plan

    def prove(self, files: Files, job: ExportJob, fp32: Files | None = None) -> Proof:
        """Return the findings about a model's files, up to the first stage that rejects it.

        `fp32` is the same network in the same format in fp32, whose latency is measured beside that of a lower
        precision.
        """
        proof = self._compared(Proof(problems=self._inspected(files, job)), files, job)
        if proof.problems:
            return proof
        latencies = {
            part: measure_latency(
                path, job, self.plan, self.target, self.progress, None if fp32 is None else fp32[part]
            )
            for part, path in files.items()
        }
        proof = proof.model_copy(update=_as_whole(latencies, self.plan, self.target, job.device))
        try:
            with self.progress.stage("export: starting the model in a process of its own"):
                footprint = measure_footprint(job.name, list(files.values()), job.device)
            return proof.model_copy(update={"footprint": footprint})
        except Disagreement as disagreement:
            return proof.model_copy(update={"problems": (str(disagreement),)})

    def prove_source(self, files: Files, onnx_files: Files, job: ExportJob) -> Proof:
        """Return the findings about files that cannot run here.

        They are their form, and what the ONNX models that they were built from compute.
        """
        here = scoring_device("onnxruntime").model_copy(
            update={"precision": job.precision, "threads": job.device.threads}
        )
        source = ExportJob("onnx", FORMATS["onnx"], job.precision, here)
        found = self._compared(Proof(problems=self._inspected(files, job)), onnx_files, source)
        # Weights in int8 alone are expanded before anything is computed.
        expanded = job.precision == "int8" and not RECIPES[job.form.recipe(job.device)].activations
        return found.model_copy(update={"computed_in": "fp32"}) if expanded and found.computed_in else found

    def prove_half(self, conversions: Conversions, job: ExportJob) -> HalfPrecision:
        """Return what fp16 does to the network on the test images.

        Raises `Disagreement` for a result that fp16 does not hold.
        """
        model = rounded(conversions.onnx("fp16", job.form.recipe(job.device)))
        yardstick = yardstick_of("fp16", self.reference)
        watched = Watched(model, job.device.threads)
        self.progress.say("export: the same, each result rounded to fp16")
        problem, accuracy = None, None
        try:
            accuracy = self.reference.score({self.plan.only.name: watched}, yardstick, self.progress)
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
        if not isinstance(accuracy, Accuracy):
            raise Disagreement(f"each result rounded to fp16: {problem}; use `precision=fp32`")
        return HalfPrecision(
            calibration=conversions.calibration,
            kept=conversions.unfit.operators,
            largest=reach.largest,
            operator=reach.operator,
            accuracy=accuracy.model_copy(update={"classes": ()}),
        )

    def _inspected(self, files: Files, job: ExportJob) -> tuple[str, ...]:
        """What is wrong with the form of the files, one line each."""
        found = []
        for part, path in files.items():
            facts = part_facts(self.plan.part(part), self.reference.names[part])
            said = job.form.inspect(path, facts.inputs, facts.outputs)
            found += said if is_single(self.plan) else [f"{path.name}: {line}" for line in said]
        return tuple(found)

    def _compared(self, proof: Proof, files: Files, job: ExportJob) -> Proof:
        """Return the proof with what running the files says of their outputs and their score."""
        if proof.problems:
            return proof
        try:
            yardstick = yardstick_of(job.precision, self.reference)
            with _opened(files, job) as sessions:
                computed_in = RUNTIMES[job.device.runtime].computes(job.precision)
                largest = job.form.largest_batch(job.device)
                with self.progress.stage("export: comparing outputs with PyTorch's"):
                    agreement = compare_batches(sessions, self.reference, yardstick, largest)
                proof = proof.model_copy(update={"computed_in": computed_in, "agreement": agreement})
                score = self.reference.score(sessions, yardstick, self.progress)
        except Disagreement as disagreement:
            return proof.model_copy(update={"problems": (str(disagreement),)})
        kind = "accuracy" if isinstance(score, Accuracy) else "score"
        return proof.model_copy(update={kind: score, "problems": _losses(score, job, self.target.max_drop)})


def require_half(job: ExportJob, conversions: Conversions) -> None:
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


def _losses(score: ProvenScore, job: ExportJob, max_drop: float) -> tuple[str, ...]:
    if job.precision != "int8" or score.drop <= _UNLUCKY * max_drop:
        return ()
    metric = score.metric
    return (
        f"{metric.name} in int8 is {metric.text(score.value)}, {score.drop:.{metric.decimals}f} points below PyTorch's "
        f"on {score.samples} test {metric.samples}, allowed {_UNLUCKY * max_drop:g}",
    )


@contextmanager
def _opened(files: Files, job: ExportJob) -> Iterator[Sessions]:
    with ExitStack() as stack:
        sessions = {}
        for part, path in files.items():
            try:
                sessions[part] = job.form.open(path, job.device)
            except UserError as error:
                raise Disagreement(str(error)) from None
            stack.callback(sessions[part].close)
        yield sessions


def _as_whole(
    latencies: Mapping[str, ModelLatency], plan: Plan, target: ExportTarget, device: Device
) -> dict[str, object]:
    """Return the latency of a network: its file's, or the sum over parts of runs x the part's, and the parts' own.

    Percentiles are added as if all calls for a sample were as slow at once.
    """
    if is_single(plan):
        return {"latency": latencies[plan.only.name]}
    names = ("median_ms", "p10_ms", "p90_ms", "p95_ms")
    sums = {name: sum(part.runs * getattr(latencies[part.name], name) for part in plan.parts) for name in names}
    table = target.table if device == target.device else None
    whole = ModelLatency(
        batch=device.batch,
        **sums,
        runs=min(each.runs for each in latencies.values()),
        noisy=any(each.noisy for each in latencies.values()),
        predicted_ms=1e3 * table.predict(plan).seconds if table else None,
        idle_ms=device.idle_ms,
        remarks=tuple(_remarks(table, device)),
    )
    return {"latency": whole, "parts": dict(latencies)}


def measure_latency(
    path: Path, job: ExportJob, plan: Plan, target: ExportTarget, progress: Progress, fp32: Path | None = None
) -> ModelLatency:
    """Measure the latency of a model file by the protocol for whole networks, beside the prediction for its plan.

    Calls come back to back, and after gaps. Those of the file `fp32`, if there is one, are measured in turn with them,
    and so are those of the table's reference graph. Of a network of several parts nothing is predicted for one.
    """
    protocol = target.protocol
    table = target.table if job.device == target.device and is_single(plan) else None
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
    after = _after_gaps(alone, reference, gap_ms, protocol, progress)
    on_device = after[path.name] if job.device.idle_ms else timing
    times = timing.median / timings[fp32.name].median if fp32 is not None else None
    return ModelLatency(
        batch=job.device.batch,
        **milliseconds(timing),
        runs=timing.n,
        noisy=timing.noisy,
        usual_ms=1e3 * table.as_when_profiled(on_device).median if table else None,
        predicted_ms=1e3 * table.predict(plan).seconds if table else None,
        times_fp32=times,
        throughput=throughput_of(timing, job.device.batch),
        after_gaps=after_gaps_of(after[path.name], gap_ms),
        idle_ms=job.device.idle_ms,
        remarks=(*(_remarks(table, job.device) if is_single(plan) else ()), *_gains(times, job)),
    )


def _reference(target: ExportTarget, device: Device) -> Opener | None:
    make = target.reference_graph
    return None if make is None else lambda: runtime_of(device).open(make(), device)


def _after_gaps(
    openers: Mapping[str, Opener],
    reference: Opener | None,
    gap_ms: float,
    protocol: MeasurementProtocol,
    progress: Progress,
) -> dict[str, Timing]:
    """Measure after gaps, in half as many visits as back to back, since each call costs a gap."""
    rounds = Rounds(len(openers) + (reference is not None), ceil(protocol.networks.visits / 2), gap_ms / 1e3)
    alone = replace(protocol, sustained_s=0.0)
    with progress.task("latency after gaps, visits", rounds.visits * len(openers)) as task:
        (timings,) = measure(openers, rounds, alone, reference=reference, on_visit=task.advance)
    return timings


def throughput_of(timing: Timing, batch: int) -> Throughput | None:
    """Return the samples of a timing's throughput; None where it has none."""
    done = timing.throughput
    return None if done is None else Throughput(images=batch * done.calls, seconds=done.seconds)


def after_gaps_of(timing: Timing, gap_ms: float) -> RunsAfterGaps:
    """Return a timing after gaps of so many milliseconds, as it stands in a manifest."""
    return RunsAfterGaps(gap_ms=gap_ms, **milliseconds(timing), runs=timing.n, noisy=timing.noisy)


def _remarks(table: LatencyTable | None, device: Device) -> list[str]:
    if table is None:
        precision = "" if device.precision == "fp32" else f" in {device.precision}"
        return [f"no latency table of this space on device {device.name}{precision}: measured only"]
    return [f"the latency table differs: {line}" for line in check_device(table, device, strict=False)]


def _gains(times: float | None, job: ExportJob) -> list[str]:
    if times is None or times < _TIE:
        return []
    return [f"{job.precision} is not faster than fp32 here: it takes {times:.2f} times the time"]
