"""`nasdeploy export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.pareto_export import emit_family
from nasdeploy.cli.runs import ChangeOption, MovedDataOption, RunOption, chosen_run
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.exporting.jobs import Extras
    from nasdeploy.exporting.manifest import Manifest
    from nasdeploy.store.run import Run
    from nasdeploy.workflows.export_request import ExportRequest

ArchOption = Annotated[
    str | None,
    typer.Option("--arch", help="Name, digest, JSON file or JSON of an architecture [default: the search's winner]."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where the models go [default: RUN/export/DIGEST].")
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option("--format", metavar="F[,F...]", help="Formats; 'nasdeploy formats' lists them [default: onnx]."),
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
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="fp32, fp16 or int8 [default: the device's].")]
DropOption = Annotated[
    float, typer.Option("--max-drop", min=0.0, help="Points of top-1 that int8 may lose on held-out images.")
]
OwnStatisticsFlag = Annotated[
    bool, typer.Option("--no-recalibrate", help="Keep the weights' own batch-norm statistics.")
]
LayoutOption = Annotated[
    str | None, typer.Option("--layout", metavar="triton", help="Add a model repository for Triton.")
]
EmbedFlag = Annotated[
    bool, typer.Option("--embed-preprocessing", help="Add an ONNX file that takes uint8 images of any size.")
]
TargetOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME|FILE", help="Where to measure [default: the search's].")
]


def export(
    formats: FormatOption = None,
    arch: ArchOption = None,
    all_pareto: FrontFlag = False,
    precision: PrecisionOption = None,
    capabilities: CapabilityOption = None,
    max_drop: DropOption = 0.5,
    no_recalibrate: OwnStatisticsFlag = False,
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
    """Export a network as static models, each proved against PyTorch on the test images."""
    from nasdeploy.core.progress import Progress
    from nasdeploy.exporting.jobs import plan_jobs
    from nasdeploy.recipe import recipe_of
    from nasdeploy.workflows.export_request import request_export
    from nasdeploy.workflows.pareto_export import export_family, request_family

    progress = Progress(quiet, typed)
    run = chosen_run(run_directory)
    progress.say(f"export: run {run.path}")
    if all_pareto and arch is not None:
        raise UserError("--all-pareto and --arch exclude each other: the front is the search's")
    recipe = recipe_of(run, assignments or (), data)
    requests = (
        request_family(run, recipe, device, progress)
        if all_pareto
        else (request_export(run, recipe, arch, device, progress),)
    )
    jobs = plan_jobs(formats or ["onnx"], requests[0].device, precision, capabilities or ())
    extras = _extras(layout, embed)
    extras.require(job.name for job in jobs)

    from nasdeploy.workflows import export as step

    def make(request: "ExportRequest", directory: Path | None) -> "tuple[Path, Manifest]":
        return step.export(
            request,
            jobs,
            progress,
            recalibrate=not no_recalibrate,
            out=directory,
            max_drop=max_drop,
            extras=extras,
        )

    if all_pareto:
        emit_family(export_family(requests, out or run.exports, make, progress), run, as_json)
        return
    directory, manifest = make(requests[0], out)
    emit(_result(run, directory, manifest), as_json, lambda: describe(directory, manifest))


def _extras(layout: str | None, embed: bool) -> "Extras":
    from nasdeploy.exporting.jobs import Extras

    if layout not in (None, "triton"):
        raise UserError(f"--layout {layout}: the only other layout is triton")
    return Extras(triton=layout == "triton", embedded=embed)


def _result(run: "Run", directory: Path, manifest: "Manifest") -> dict[str, Any]:
    return {
        "run": str(run.path),
        "model": str(directory / manifest.artefacts[0].file.name),
        "manifest": str(directory / "manifest.json"),
        **manifest.model_dump(mode="json"),
    }


def describe(directory: Path, manifest: "Manifest") -> str:
    """An export and its proofs, for people."""
    from nasdeploy.cli.figures import figures

    network = (
        f"{manifest.digest}, {manifest.macs / 1e6:.2f} M MACs, {manifest.params / 1e6:.3f} M parameters, "
        f"{manifest.input_text}"
    )
    lines = []
    for artefact in manifest.artefacts:
        size = f"{artefact.bytes / 1e6:.2f} MB"
        lines.append(f"exported {directory / artefact.file.name} ({size})")
        rows = [("network", network), *figures(artefact, manifest)]
        lines += [f"  {name:<10} {text}".rstrip() for name, text in rows]
    for each in manifest.embedded:
        lines.append(f"exported {directory / each.file.name} ({each.file.bytes / 1e6:.2f} MB), from uint8 images")
        lines.append(
            f"  {'agreement':<10} logits within {each.difference:.1e} of their spread of {each.model}'s on "
            f"{each.images} test images (allowed {each.allowed:g}); other class for {each.changed}"
        )
    return "\n".join([*lines, f"manifest {directory / 'manifest.json'}"])
