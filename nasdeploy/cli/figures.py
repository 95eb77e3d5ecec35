"""What was found out about an exported model, in rows for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nasdeploy.core.cost_registry import COSTS

if TYPE_CHECKING:
    from nasdeploy.exporting.manifest import Artefact, Manifest, Quantisation
    from nasdeploy.exporting.record import Agreement, Footprint, HalfPrecision, ModelLatency
    from nasdeploy.tasks.file_scores import Accuracy, ProvenScore


def figures(artefact: "Artefact", manifest: "Manifest") -> Iterator[tuple[str, str]]:
    """Names and texts; the name is empty where a row goes on."""
    proof = artefact.proof
    if artefact.quantisation:
        yield "int8", _quantisation(artefact.quantisation)
    if artefact.not_run:
        yield "", f"{artefact.not_run}; what follows is of the ONNX model that it was built from"
    if proof.computed_in and proof.computed_in != artefact.precision:
        yield "computed", f"in {proof.computed_in} by this machine, which does not compute in {artefact.precision}"
    if proof.half:
        yield "fp16", _half(proof.half)
    if proof.agreement:
        yield "agreement", _agreement(proof.agreement)
    if proof.tested:
        yield from _score(proof.tested, manifest)
    if proof.latency:
        budget = manifest.origin.budget.get(COSTS["latency"].key) if artefact.device == manifest.device else None
        yield "latency", _latency(proof.latency, budget)
        yield from (("", f"{part}: {each.text} for one run") for part, each in proof.parts.items())
        yield from (("", remark) for remark in proof.latency.remarks)
    if proof.footprint:
        yield "start", _footprint(proof.footprint)


def _quantisation(found: "Quantisation") -> str:
    kept = f"{len(found.kept)} of {found.layers} layers kept in fp32" if found.kept else f"all {found.layers} layers"
    ranges = (
        "only weights" if found.ranges == "none" else f"ranges ({found.ranges}) from {found.images} training images"
    )
    return f"{ranges}; {kept}; top-1 {-found.drop:+.2f} points on held-out images (allowed -{found.max_drop:g})"


def _half(found: "HalfPrecision") -> str:
    kept = f"; {len(found.kept)} operators kept in fp32" if found.kept else ""
    return (
        f"each result rounded to it: top-1 {100 * found.accuracy.top1:.2f} %, logits within "
        f"{found.accuracy.difference:.1e} of their spread; activations reach {found.largest:.4g} of 65504{kept}"
    )


def _agreement(found: "Agreement") -> str:
    batches, tolerance = ", ".join(map(str, found.batches)), found.tolerance
    unit = " of their spread" if tolerance.scale == "spread" else ""
    limit = "judged by accuracy" if tolerance.allowed is None else f"allowed {tolerance.allowed:.0e}"
    return f"logits within {found.difference:.1e}{unit} of PyTorch's ({limit}) in batches of {batches}"


def _score(found: "ProvenScore", manifest: "Manifest") -> Iterator[tuple[str, str]]:
    from nasdeploy.exporting.manifest import ExportManifest
    from nasdeploy.exporting.record import counted
    from nasdeploy.tasks.file_scores import Accuracy

    if isinstance(found, Accuracy) and isinstance(manifest, ExportManifest):
        yield from _accuracy(found, manifest.labels)
        return
    metric = found.metric
    yield (
        "test set",
        f"{metric.name} of the file {metric.text(found.value)} on "
        f"{counted(found.samples, found.unreadable, metric.samples)}, PyTorch {metric.text(found.value_pytorch)}",
    )


def _accuracy(found: "Accuracy", labels: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    from nasdeploy.exporting.record import counted

    yield (
        "test set",
        f"top-1 of the file {_share(found.top1, found.interval)} on "
        f"{counted(found.images, found.unreadable, 'images')}, "
        f"PyTorch {100 * found.top1_pytorch:.2f} %; other class for {found.changed}",
    )
    if found.top5 is not None and found.top5_interval and found.top5_pytorch is not None:
        yield "", f"top-5 {_share(found.top5, found.top5_interval)}, PyTorch {100 * found.top5_pytorch:.2f} %"
    if found.classes:
        yield "", _worst_class(found, labels)


def _share(value: float, interval: tuple[float, float]) -> str:
    low, high = (f"{100 * bound:.2f}" for bound in interval)
    return f"{100 * value:.2f} % (95 %: {low} to {high})"


def _worst_class(found: "Accuracy", labels: tuple[str, ...]) -> str:
    pairs = [
        (each.correct / each.images, label) for each, label in zip(found.classes, labels, strict=True) if each.images
    ]
    (low, worst), (high, best) = min(pairs), max(pairs)
    return f"by class from {100 * low:.1f} % ({worst}) to {100 * high:.1f} % ({best})"


def _latency(found: "ModelLatency", budget_ms: float | None) -> str:
    parts = [
        found.text,
    ]
    if found.throughput is not None:
        done = found.throughput
        parts.append(f"{done.images_per_s:.4g} images/s (done in {done.seconds:.2g} s, batch {found.batch})")
    if found.after_gaps is not None:
        after = found.after_gaps
        parts.append(f"after {after.gap_ms:g} ms of nothing {after.median_ms:.4g} ms (p95 {after.p95_ms:.4g})")
    if found.noisy:
        parts.append("too noisy to be trusted")
    if found.times_fp32 is not None:
        parts.append(f"{found.times_fp32:.2f} times fp32's")
    usual_ms = found.on_device_ms if found.usual_ms is None else found.usual_ms
    if found.usual_ms is not None:
        parts.append(f"as quiet as when profiled {usual_ms:.4g} ms")
    if found.predicted_ms is not None:
        deviation = 100 * (usual_ms / found.predicted_ms - 1)
        parts.append(f"predicted {found.predicted_ms:.4g} ms ({deviation:+.1f} %)")
    if budget_ms is not None:
        verdict = "met" if usual_ms <= budget_ms else "NOT MET in this measurement"
        parts.append(f"budget {budget_ms:.4g} ms {verdict}")
    return ", ".join(parts)


def _footprint(found: "Footprint") -> str:
    return (
        f"{found.load_s:.2f} s and {found.peak_bytes / 1e6:.0f} MB of memory in a process of its own, with the runtime"
    )
