"""The gate between a model file and its user: nothing is called exported that did not run and agree with PyTorch.

Four stages: the file's form; agreement of logits at several batch sizes; top-1 on the test set; latency. The first
three reject a model. The last informs: what a latency table says is an estimate, and a search has measured already.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nasdeploy.errors import UserError
from nasdeploy.export.agreement import Disagreement, Reference, compare_batches, compare_test_set
from nasdeploy.export.figures import Latency, Proof
from nasdeploy.export.formats import Format
from nasdeploy.export.manifest import interface
from nasdeploy.latency.measure import Protocol, measure
from nasdeploy.latency.table import LatencyTable, check_device
from nasdeploy.plan import Plan
from nasdeploy.progress import Progress
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Session


@dataclass(frozen=True)
class Target:
    """What a model is for: a device, and its latency table of the model's space if there is one."""

    device: Device
    table: LatencyTable | None
    protocol: Protocol = field(default_factory=Protocol)


def prove(path: Path, form: Format, reference: Reference, target: Target, progress: Progress) -> Proof:
    """Findings about the file at `path`, up to the first stage that rejects it."""
    plan = reference.network.plan
    proof = Proof(problems=tuple(form.inspect(path, *interface(plan))))
    if proof.problems:
        return proof
    try:
        with _opened(path, target.device) as session:
            proof = proof.model_copy(update={"agreement": compare_batches(session, reference)})
            proof = proof.model_copy(update={"accuracy": compare_test_set(session, reference, progress)})
    except Disagreement as disagreement:
        return proof.model_copy(update={"problems": (str(disagreement),)})
    return proof.model_copy(update={"latency": measure_latency(path, plan, target, progress)})


@contextmanager
def _opened(path: Path, device: Device) -> Iterator[Session]:
    try:
        session = runtime_of(device).open(path, device)
    except UserError as error:
        raise Disagreement(str(error)) from None
    try:
        yield session
    finally:
        session.close()


def measure_latency(path: Path, plan: Plan, target: Target, progress: Progress) -> Latency:
    """Latency of a model file by the protocol for whole networks, beside the prediction for its plan."""
    device, protocol = target.device, target.protocol
    openers = {path.name: lambda: runtime_of(device).open(path, device)}
    with progress.task("latency, visits", protocol.networks.visits) as task:
        (timings,) = measure(openers, protocol.networks, protocol, on_visit=task.advance)
    timing = timings[path.name]
    return Latency(
        median_ms=1e3 * timing.median,
        p10_ms=1e3 * timing.p10,
        p90_ms=1e3 * timing.p90,
        runs=timing.n,
        noisy=timing.noisy,
        predicted_ms=1e3 * target.table.predict(plan).seconds if target.table else None,
        remarks=tuple(_remarks(target)),
    )


def _remarks(target: Target) -> list[str]:
    if target.table is None:
        return [f"no latency table of this space on device {target.device.name}: measured only"]
    return [f"the latency table differs: {line}" for line in check_device(target.table, target.device, strict=False)]
