"""`nasdeploy bench`."""

from typing import Annotated, Any

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit


def bench(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="ONNX files, bundles, torchvision:NAME or timm:NAME.")
    ],
    device: Annotated[str, typer.Option("--device", metavar="NAME|FILE", help="Where to measure.")] = "cpu",
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure the latency of finished models, in turn, on a device here or elsewhere."""
    from nasdeploy.progress import Progress
    from nasdeploy.runtimes.device import load_device
    from nasdeploy.steps import bench as step

    target = load_device(device)
    result = step.as_json(step.bench(models, target, Progress(quiet)), target)
    emit(result, as_json, lambda: _text(result))


def _text(result: dict[str, Any]) -> str:
    rows = result["models"]
    width = max(len("model"), *(len(row["model"]) for row in rows))
    heading = f"{'model':<{width}} {'MB':>8} {'median':>9} {'p10':>9} {'p90':>9} {'p95':>9} {'images/s':>9}"
    lines = [
        f"device {result['device']} ({result['runtime']}), batch {result['batch']}, threads {result['threads']}; "
        "latency in ms",
        heading,
    ]
    return "\n".join([*lines, *(_row(row, width) for row in rows)])


def _row(row: dict[str, Any], width: int) -> str:
    figures = (row[f"{name}_ms"] for name in ("median", "p10", "p90", "p95"))
    cells = [f"{row['megabytes']:>8.3g}", *(f"{figure:>9.4g}" for figure in figures), f"{row['images_per_s']:>9.4g}"]
    doubt = f"  not to be trusted: {row['noise']}" if row["noise"] else ""
    return f"{row['model']:<{width}} {' '.join(cells)}{doubt}"
