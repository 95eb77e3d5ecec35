"""`nasdeploy bench`."""

from typing import Annotated, Any

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.wording import typed


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="ONNX files, bundles, torchvision:NAME or timm:NAME.")
    ],
    device: Annotated[str, typer.Option("--device", metavar="NAME|FILE", help="Where to measure.")] = "cpu",
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
    """Measure the latency of finished models, in turn and in several processes, on a device here or elsewhere."""
    from nasdeploy.core.progress import Progress
    from nasdeploy.runtimes.device import load_device
    from nasdeploy.workflows import bench as step

    target = load_device(device)
    result = step.as_json(step.bench(models, target, Progress(quiet, typed), gap_ms=gap_ms), target)
    emit(result, as_json, lambda: _text(result))


def _text(result: dict[str, Any]) -> str:
    from nasdeploy.cli.search_text import aligned

    rows = result["models"]
    gaps = [f"after {rows[0]['after_gaps']['gap_ms']:g} ms", "p95"] if rows[0]["after_gaps"] else []
    heading = ["model", "MB", "median", "p10", "p90", "p95", "processes", "images/s", *gaps]
    lines = [
        f"device {result['device']} ({result['runtime']}), batch {result['batch']}, threads {result['threads']}; "
        "latency in ms",
        *aligned([heading, *map(_row, rows)]),
        *(f"{row['model']}: not to be trusted: {row['noise']}" for row in rows if row["noise"]),
        *(f"{row['model']}: within the processes' spread of {', '.join(row['ties'])}" for row in rows if row["ties"]),
    ]
    if rows[0]["throughput_s"]:
        seconds = max(row["throughput_s"] for row in rows)
        lines.append(f"images/s: done back to back in {seconds:.2g} s, batch {result['batch']}")
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> list[str]:
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
