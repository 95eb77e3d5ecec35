"""`nasdeploy verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import CheckFailed

if TYPE_CHECKING:
    from nasdeploy.exporting.bundle.verify import VerifiedModel


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory that 'nasdeploy export' wrote.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Test images, in CLASS/ or test/CLASS/ [default: the run's]."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME|FILE", help="Where to run [default: the models' own].")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Try a bundle on this machine: sums, form, sample, accuracy, latency; exit code 4 if it is not as exported."""
    from nasdeploy.core.progress import Progress
    from nasdeploy.runtimes.device import load_device
    from nasdeploy.workflows import verify as step

    found = step.verify(bundle, Progress(quiet, typed), data=data, device=load_device(device) if device else None)
    result = {
        "bundle": str(bundle),
        "passed": not found.problems,
        "images": typed(found.images),
        "models": found.to_json(),
    }
    emit(result, as_json, lambda: "\n".join([f"{bundle}: sums are right", *map(typed, map(_line, found.found))]))
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise CheckFailed(f"{bundle / found.problems[0]}{more}; copy the bundle again, or export again")


def _line(found: "VerifiedModel") -> str:
    from nasdeploy.exporting.record import counted

    if found.not_run is not None:
        return f"  {found.model}: not run, {found.not_run}"
    parts = []
    if found.difference is not None:
        parts.append(f"outputs on the sample within {found.difference:.1e} of the exported ones")
    if found.score is not None and (metric := found.metric) is not None:
        samples = counted(found.samples or 0, found.unreadable, metric.samples)
        then = _then(found.score_exported, metric.scale, f" {metric.unit}" if metric.unit else "")
        parts.append(f"{metric.name} {metric.text(found.score)} on {samples}{then}")
    if found.median_ms is not None:
        parts.append(f"median {found.median_ms:.4g} ms{_then(found.median_ms_exported, 1, ' ms')}")
    if found.after_gaps_ms is not None:
        parts.append(
            f"after {found.gap_ms:g} ms of nothing {found.after_gaps_ms:.4g} ms"
            f"{_then(found.after_gaps_ms_exported, 1, ' ms')}"
        )
    if found.images_per_s is not None:
        parts.append(f"{found.images_per_s:.4g} images/s done")
    return f"  {found.model}: {'; '.join([*(f'FAILED, {problem}' for problem in found.problems), *parts])}"


def _then(exported: float | None, factor: float, unit: str) -> str:
    return "" if exported is None else f" (exported: {factor * exported:.4g}{unit})"
