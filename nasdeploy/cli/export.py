"""`nasdeploy export`: models, and what was found out about each, as text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import (
    ChangeOption,
    JsonFlag,
    MovedDataOption,
    QuietFlag,
    RunOption,
    aligned,
    chosen_run,
    emit,
    facts,
    load_torch,
    onward,
)
from nasdeploy.cli.wording import typed
from nasdeploy.core.cost_registry import COSTS
from nasdeploy.core.errors import CheckFailed, UserError

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.exporting.formats import ExportJob, Extras
    from nasdeploy.exporting.manifest import Artefact, BundleManifest, Quantisation
    from nasdeploy.exporting.record import Agreement, Footprint, HalfPrecision, ModelLatency
    from nasdeploy.store.run import Run
    from nasdeploy.tasks.file_scores import Accuracy, ProvenScore
    from nasdeploy.workflows.export import ExportedFront, ExportRequest


ArchOption = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="Name, digest, JSON file or JSON of an architecture [default: the search's winner].",
        autocompletion=completion.architectures,
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where the models go [default: RUN/export/DIGEST].")
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="F[,F...]",
        help="Formats; 'nasdeploy formats' lists them [default: onnx].",
        autocompletion=completion.formats,
    ),
]
CapabilityOption = Annotated[
    list[str] | None,
    typer.Option(
        "--compute-capability", metavar="SM[,SM...]", help="GPUs that tensorrt-rtx builds for, e.g. sm86,sm89."
    ),
]
FrontFlag = Annotated[
    bool, typer.Option("--all-pareto", help="Every network of the search's front, each into a directory DIGEST.")
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision", help="fp32, fp16 or int8 [default: the device's].", autocompletion=completion.precisions
    ),
]
DropOption = Annotated[
    float, typer.Option("--max-drop", min=0.0, help="Points of top-1 that int8 may lose on held-out images.")
]
OwnStatisticsFlag = Annotated[
    bool, typer.Option("--no-recalibrate", help="Keep the weights' own batch-norm statistics.")
]
FinetuneOption = Annotated[
    int | None, typer.Option("--finetune-epochs", metavar="N", min=1, help="First train it so long alone, once.")
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout", metavar="triton", help="Add a model repository for Triton.", autocompletion=completion.layouts
    ),
]
EmbedFlag = Annotated[
    bool, typer.Option("--embed-preprocessing", help="Add an ONNX file that takes uint8 images of any size.")
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME|FILE",
        help="Where to measure [default: the search's].",
        autocompletion=completion.devices,
    ),
]


def export(
    formats: FormatOption = None,
    arch: ArchOption = None,
    all_pareto: FrontFlag = False,
    precision: PrecisionOption = None,
    capabilities: CapabilityOption = None,
    max_drop: DropOption = 0.5,
    no_recalibrate: OwnStatisticsFlag = False,
    finetune_epochs: FinetuneOption = None,
    layout: LayoutOption = None,
    embed: EmbedFlag = False,
    assignments: ChangeOption = None,
    data: MovedDataOption = None,
    run_directory: RunOption = None,
    out: OutOption = None,
    device: TargetOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Export a network as static models, which are proved.

    Each is compared with PyTorch on the test images.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.exporting.formats import plan_jobs
    from nasdeploy.recipe import recipe_of
    from nasdeploy.workflows import export as step

    run, progress = chosen_run(run_directory), Progress(quiet, typed)
    progress.say(f"export: run {run.path}")
    if all_pareto:
        _require_front(arch, finetune_epochs)
    epochs = [] if finetune_epochs is None else [f"finetune.epochs={finetune_epochs}"]
    recipe = recipe_of(run, [*(assignments or ()), *epochs], data)
    requests = (
        step.request_family(run, recipe, device, progress)
        if all_pareto
        else (step.request_export(run, recipe, arch, device, progress),)
    )
    jobs = plan_jobs(formats or ["onnx"], requests[0].device, precision, capabilities or ())
    extras = _extras(layout, embed, jobs)
    load_torch(progress, "nasdeploy.exporting.export")
    if finetune_epochs is not None:
        _finetune(requests[0], progress)

    def make(request: "ExportRequest", directory: Path | None) -> "tuple[Path, BundleManifest]":
        return step.export(
            request, jobs, progress, recalibrate=not no_recalibrate, out=directory, max_drop=max_drop, extras=extras
        )

    if all_pareto:
        emit_family(step.export_family(requests, out or run.exports, make, progress), run, as_json)
        return
    directory, manifest = make(requests[0], out)
    emit(_result(run, directory, manifest), as_json, lambda: describe(directory, manifest))


def _require_front(arch: str | None, finetune_epochs: int | None) -> None:
    """Raise `UserError` for options that are for one network."""
    if arch is not None:
        raise UserError("--all-pareto and --arch exclude each other: the front is the search's")
    if finetune_epochs is not None:
        raise UserError("--all-pareto and --finetune-epochs exclude each other: fine-tune its networks one by one")


def _finetune(request: "ExportRequest", progress: "Progress") -> None:
    from nasdeploy.workflows.finetune import FinetuneRequest, ensure_finetuned

    ensure_finetuned(FinetuneRequest.of(request), progress)


def _extras(layout: str | None, embed: bool, jobs: "Sequence[ExportJob]") -> "Extras":
    from nasdeploy.exporting.formats import Extras

    if layout not in (None, "triton"):
        raise UserError(f"--layout {layout}: the only other layout is triton")
    extras = Extras(triton=layout == "triton", embedded=embed)
    extras.require(job.name for job in jobs)
    return extras


def _result(run: "Run", directory: Path, manifest: "BundleManifest") -> dict[str, Any]:
    return {
        "run": str(run.path),
        "model": str(directory / manifest.artefacts[0].file.name),
        "manifest": str(directory / "manifest.json"),
        **manifest.model_dump(mode="json"),
    }


def describe(directory: Path, manifest: "BundleManifest") -> str:
    """An export and its proofs, for people."""
    network = (
        f"{manifest.digest}, {manifest.macs / 1e6:.2f} M MACs, {manifest.params / 1e6:.3f} M parameters, "
        f"{manifest.input_text}"
    )
    lines = []
    for artefact in manifest.artefacts:
        size = f"{artefact.bytes / 1e6:.2f} MB"
        lines.append(f"exported {directory / artefact.file.name} ({size})")
        lines += facts([("network", network), *_own_weights(manifest), *figures(artefact, manifest)])
    for each in manifest.embedded:
        lines.append(f"exported {directory / each.file.name} ({each.file.bytes / 1e6:.2f} MB), from uint8 images")
        told = (
            f"logits within {each.difference:.1e} of their spread of {each.model}'s on {each.images} test images "
            f"(allowed {each.allowed:g}); other class for {each.changed}"
        )
        lines += facts([("agreement", told)])
    then = onward(f"verify {directory}", f"predict {directory} FOLDER")
    return "\n".join([*lines, f"manifest {directory / 'manifest.json'}", then])


def _own_weights(manifest: "BundleManifest") -> Iterator[tuple[str, str]]:
    from nasdeploy.tasks import task_of

    if manifest.origin.own is not None:
        yield "weights", manifest.origin.own.text(task_of(manifest.task_name).metric)


def emit_family(family: "ExportedFront", run: "Run", as_json: bool) -> None:
    """Print one table of all networks; raises `CheckFailed` if one of them failed its proof."""
    rows = family.rows()
    emit({"run": str(run.path), "networks": rows}, as_json, lambda: _front_text(rows))
    if family.problems:
        more = f" (and {len(family.problems) - 1} more)" if len(family.problems) > 1 else ""
        raise CheckFailed(f"{family.problems[0]}{more}; {len(rows)} others were exported")


def _front_text(rows: list[dict[str, Any]]) -> str:
    heading = ["network", "M MACs", "M parameters", "MB file", "top-1 in %", "95 %", "ms", "ms (p95)"]
    return "\n".join(aligned([heading, *map(_front_row, rows)]))


def _front_row(row: dict[str, Any]) -> list[str]:
    interval = row["top1_interval"]
    return [
        row["digest"],
        f"{row['macs_m']:.4g}",
        f"{row['params_m']:.4g}",
        f"{row['megabytes']:.3g}",
        _figure(row["top1"], 100),
        "-" if interval is None else "{:.2f} to {:.2f}".format(*(100 * bound for bound in interval)),
        _figure(row["median_ms"]),
        _figure(row["p95_ms"]),
    ]


def _figure(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{factor * value:.4g}"


def figures(artefact: "Artefact", manifest: "BundleManifest") -> Iterator[tuple[str, str]]:
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
        yield from _latency(proof.latency, budget)
        yield from (("", f"{part}: {each.text} for one run") for part, each in proof.parts.items())
        yield from (("", remark) for remark in proof.latency.remarks)
    if proof.footprint:
        yield "start", _footprint(proof.footprint)


def _quantisation(found: "Quantisation") -> str:
    kept = f"{len(found.kept)} of {found.layers} layers kept in fp32" if found.kept else f"all {found.layers} layers"
    ranges = (
        "only weights" if found.ranges == "none" else f"ranges ({found.ranges}) from {found.images} training images"
    )
    return f"{ranges}; {kept}; top-1 {0 - found.drop:+.2f} points on held-out images (allowed -{found.max_drop:g})"


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


def _score(found: "ProvenScore", manifest: "BundleManifest") -> Iterator[tuple[str, str]]:
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


def _latency(found: "ModelLatency", budget_ms: float | None) -> Iterator[tuple[str, str]]:
    yield "latency", found.text
    if found.throughput is not None:
        done = found.throughput
        yield "", f"{done.images_per_s:.4g} images/s (done in {done.seconds:.2g} s, batch {found.batch})"
    if found.after_gaps is not None:
        after = found.after_gaps
        yield "", f"after {after.gap_ms:g} ms of nothing {after.median_ms:.4g} ms (p95 {after.p95_ms:.4g})"
    if found.noisy:
        yield "", "too noisy to be trusted"
    if found.times_fp32 is not None:
        yield "", f"{found.times_fp32:.2f} times fp32's"
    usual_ms = found.on_device_ms if found.usual_ms is None else found.usual_ms
    usual = "" if found.usual_ms is None else f"as quiet as when profiled {usual_ms:.4g} ms"
    predicted = ""
    if found.predicted_ms is not None:
        deviation = 100 * (usual_ms / found.predicted_ms - 1)
        predicted = f"predicted {found.predicted_ms:.4g} ms ({deviation:+.1f} %)"
    yield "", ", ".join(text for text in (usual, predicted) if text)
    if budget_ms is not None:
        verdict = "met" if usual_ms <= budget_ms else "NOT MET in this measurement"
        yield "", f"budget {budget_ms:.4g} ms {verdict}"


def _footprint(found: "Footprint") -> str:
    return (
        f"{found.load_s:.2f} s and {found.peak_bytes / 1e6:.0f} MB of memory in a process of its own, with the runtime"
    )
