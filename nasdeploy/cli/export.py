"""`nasdeploy export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.runs import MovedDataOption, RunOption, chosen_run

if TYPE_CHECKING:
    from nasdeploy.export.figures import Accuracy, Agreement, Latency
    from nasdeploy.export.manifest import ExportManifest

ArchOption = Annotated[
    str | None,
    typer.Option("--arch", help="Name, digest, JSON file or JSON of an architecture [default: the search's winner]."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where the model goes [default: RUN/export/DIGEST].")
]


def export(
    form: Annotated[str, typer.Option("--format", help="Format of the model file.")] = "onnx",
    arch: ArchOption = None,
    no_recalibrate: Annotated[
        bool, typer.Option("--no-recalibrate", help="Keep the weights' own batch-norm statistics.")
    ] = False,
    data: MovedDataOption = None,
    run_directory: RunOption = None,
    out: OutOption = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME|FILE", help="Where to measure [default: the search's].")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Export a network as a static model, proved against PyTorch on the test images."""
    from nasdeploy.progress import Progress
    from nasdeploy.recipe import recipe_of
    from nasdeploy.steps.choice import request_export

    progress = Progress(quiet)
    run = chosen_run(run_directory)
    progress.say(f"export: run {run.path}")
    request = request_export(run, recipe_of(run, data=data), arch, device, progress)

    from nasdeploy.steps import export as step

    directory, manifest = step.export(request, progress, form=form, recalibrate=not no_recalibrate, out=out)
    result = {
        "run": str(run.path),
        "model": str(directory / manifest.file.name),
        "manifest": str(directory / "manifest.json"),
        **manifest.model_dump(mode="json"),
    }
    emit(result, as_json, lambda: describe(directory, manifest))


def describe(directory: Path, manifest: "ExportManifest") -> str:
    """An export and its proof, for people."""
    proof = manifest.proof
    assert proof.agreement and proof.accuracy and proof.latency
    side = manifest.preprocessing.resolution
    rows = {
        "network": f"{manifest.digest}, {manifest.macs / 1e6:.2f} M MACs, {manifest.params / 1e6:.3f} M parameters, "
        f"input 3 x {side} x {side}",
        "agreement": _agreement(proof.agreement),
        "test set": _accuracy(proof.accuracy),
        "latency": _latency(proof.latency, manifest.origin.budget.get("latency_ms")),
    }
    lines = [f"exported {directory / manifest.file.name} ({manifest.file.bytes / 1e6:.2f} MB)"]
    lines += [f"  {name:<10} {text}" for name, text in rows.items()]
    lines += [f"  {'':<10} {remark}" for remark in proof.latency.remarks]
    return "\n".join([*lines, f"manifest {directory / 'manifest.json'}"])


def _agreement(found: "Agreement") -> str:
    batches = ", ".join(map(str, found.batches))
    return f"logits within {found.difference:.1e} of PyTorch's (allowed {found.tolerance:.0e}) in batches of {batches}"


def _accuracy(found: "Accuracy") -> str:
    low, high = (f"{100 * bound:.2f}" for bound in found.interval)
    return (
        f"top-1 of the file {100 * found.top1:.2f} % (95 %: {low} to {high}) on {found.images} images, "
        f"PyTorch {100 * found.top1_pytorch:.2f} %; other class for {found.changed}"
    )


def _latency(found: "Latency", budget_ms: float | None) -> str:
    parts = [f"median {found.median_ms:.4g} ms (p10 {found.p10_ms:.4g}, p90 {found.p90_ms:.4g})"]
    if found.noisy:
        parts.append("too noisy to be trusted")
    if found.predicted_ms is not None:
        deviation = 100 * (found.median_ms / found.predicted_ms - 1)
        parts.append(f"predicted {found.predicted_ms:.4g} ms ({deviation:+.1f} %)")
    if budget_ms is not None:
        verdict = "met" if found.median_ms <= budget_ms else "NOT MET in this measurement"
        parts.append(f"budget {budget_ms:.4g} ms {verdict}")
    return ", ".join(parts)
