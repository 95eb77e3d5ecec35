"""`nasdeploy bench`, `predict` and `verify`: what finished models do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import JsonFlag, QuietFlag, emit, facts, listing, load_torch, wrapped
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import CheckFailed, UserError

if TYPE_CHECKING:
    from nasdeploy.exporting.bundle.verify import VerifiedModel


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="ONNX files, bundles, torchvision:NAME or timm:NAME.",
            autocompletion=completion.bundles,
        ),
    ],
    device: Annotated[
        str, typer.Option("--device", metavar="NAME|FILE", help="Where to measure.", autocompletion=completion.devices)
    ] = "cpu",
    gap_ms: Annotated[
        float | None,
        typer.Option(
            "--gap-ms",
            min=0.0,
            max=10_000.0,
            help="Calls after doing nothing for so long, too [default: the device's].",
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure the latency of finished models.

    They take turns in several processes, on a device here or elsewhere.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.runtimes.device import load_device
    from nasdeploy.workflows import models as step

    target = load_device(device)
    result = step.as_json(step.bench(models, target, Progress(quiet, typed), gap_ms=gap_ms), target)
    emit(result, as_json, lambda: _latencies(result))


def _latencies(result: dict[str, Any]) -> str:
    rows = result["models"]
    gaps = [f"after {rows[0]['after_gaps']['gap_ms']:g} ms", "p95"] if rows[0]["after_gaps"] else []
    heading = ["model", "MB", "median", "p10", "p90", "p95", "processes", "images/s", *gaps]
    about = f"device {result['device']} ({result['runtime']}), batch {result['batch']}, threads {result['threads']}"
    remarks = [
        *(f"{row['model']}: not to be trusted: {row['noise']}" for row in rows if row["noise"]),
        *(f"{row['model']}: within the processes' spread of {', '.join(row['ties'])}" for row in rows if row["ties"]),
    ]
    if rows[0]["throughput_s"]:
        seconds = max(row["throughput_s"] for row in rows)
        remarks.append(f"images/s: done back to back in {seconds:.2g} s, batch {result['batch']}")
    told = (part for remark in remarks for part in wrapped(remark))
    table = listing(heading, map(_latency_row, rows), texts=1, optional=("p10", "p90", "MB"))
    return "\n".join([*wrapped(f"{about}; latency in ms"), table, *told])


def _latency_row(row: dict[str, Any]) -> list[str]:
    figures = [row[f"{name}_ms"] for name in ("median", "p10", "p90", "p95")]
    processes, gaps = row["processes_ms"], row["after_gaps"]
    after = [gaps["median_ms"], gaps["p95_ms"]] if gaps else []
    return [
        row["model"],
        f"{row['megabytes']:.3g}",
        *(f"{figure:.4g}" for figure in figures),
        f"{processes[0]:.4g}..{processes[-1]:.4g}" if processes else "one",
        "-" if row["images_per_s"] is None else f"{row['images_per_s']:.4g}",
        *(f"{figure:.4g}" for figure in after),
    ]


def predict(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="Directory that 'nasdeploy export' wrote.", autocompletion=completion.bundles
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of images, or image files.")],
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the table to a file.")] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Classes for each image.")] = 1,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME|FILE",
            help="Where to run [default: the bundle's].",
            autocompletion=completion.devices,
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Classify images with an exported model.

    A CSV with file, class and probability is printed.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.runtimes.device import load_device
    from nasdeploy.store.files import require_writable, write_text
    from nasdeploy.workflows import models as step

    if csv:
        require_writable(csv)
    target = load_device(device) if device else None
    progress = Progress(quiet, typed)
    predictions = step.predict(bundle, images, progress, top=top, device=target)
    if csv:
        write_text(csv, predictions.table())
    result = {
        "images": len(predictions.found),
        "unreadable": list(predictions.unreadable),
        "csv": str(csv) if csv else None,
        "predictions": [
            {"file": str(each.file), "classes": [{"class": name, "probability": p} for name, p in each.classes]}
            for each in predictions.found
        ],
    }
    text = f"{len(predictions.found)} images classified, in {csv}" if csv else predictions.table().rstrip("\n")
    emit(result, as_json, lambda: text)
    _complain(predictions.unreadable)


def _complain(unreadable: tuple[str, ...]) -> None:
    if unreadable:
        more = f" (and {len(unreadable) - 1} more images)" if len(unreadable) > 1 else ""
        raise UserError(f"{unreadable[0]}{more}; the others were classified")


def verify(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="Directory that 'nasdeploy export' wrote.", autocompletion=completion.bundles
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Test images, in CLASS/ or test/CLASS/ [default: the run's]."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME|FILE",
            help="Where to run [default: the models' own].",
            autocompletion=completion.devices,
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Try a bundle on this machine.

    Sums, form, sample, accuracy and latency are compared; exit code 4 if they are not as exported.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.runtimes.device import load_device

    progress = Progress(quiet, typed)
    load_torch(progress, "nasdeploy.workflows.verify")

    from nasdeploy.workflows import verify as step

    found = step.verify(bundle, progress, data=data, device=load_device(device) if device else None)
    result = {
        "bundle": str(bundle),
        "passed": not found.problems,
        "images": typed(found.images),
        "models": found.to_json(),
        "own_weights": found.own.model_dump(mode="json") if found.own else None,
    }
    own = [("weights", found.own.text(found.metric))] if found.own else []
    rows = [*own, *((name, typed(text)) for each in found.found for name, text in _verified(each))]
    lines = [f"{bundle}: sums are right", *facts(rows)]
    emit(result, as_json, lambda: "\n".join(lines))
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise CheckFailed(f"{bundle / found.problems[0]}{more}; copy the bundle again, or export again")


def _verified(found: "VerifiedModel") -> list[tuple[str, str]]:
    """Return what was found out about a model, a row each, the first of which names it."""
    from nasdeploy.exporting.record import counted

    if found.not_run is not None:
        return [(found.model, f"not run, {found.not_run}")]
    parts = [f"FAILED, {problem}" for problem in found.problems]
    if found.difference is not None:
        parts.append(f"outputs on the sample within {found.difference:.1e} of the exported ones")
    if found.score is not None and (metric := found.metric) is not None:
        samples = counted(found.samples or 0, found.unreadable, metric.samples)
        then = _exported(found.score_exported, metric.scale, f" {metric.unit}" if metric.unit else "")
        parts.append(f"{metric.name} {metric.text(found.score)} on {samples}{then}")
    if found.median_ms is not None:
        parts.append(f"median {found.median_ms:.4g} ms{_exported(found.median_ms_exported, 1, ' ms')}")
    if found.after_gaps_ms is not None:
        parts.append(
            f"after {found.gap_ms:g} ms of nothing {found.after_gaps_ms:.4g} ms"
            f"{_exported(found.after_gaps_ms_exported, 1, ' ms')}"
        )
    if found.images_per_s is not None:
        parts.append(f"{found.images_per_s:.4g} images/s done")
    return [(found.model if place == 0 else "", part) for place, part in enumerate(parts or ["nothing is wrong"])]


def _exported(exported: float | None, factor: float, unit: str) -> str:
    return "" if exported is None else f" (exported: {factor * exported:.4g}{unit})"
