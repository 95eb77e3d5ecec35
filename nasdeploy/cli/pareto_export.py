"""The table of `nasdeploy export --all-pareto`."""

from typing import TYPE_CHECKING, Any

from nasdeploy.cli.output import emit
from nasdeploy.core.errors import CheckFailed

if TYPE_CHECKING:
    from nasdeploy.store.run import Run
    from nasdeploy.workflows.pareto_export import ExportedFront


def emit_family(family: "ExportedFront", run: "Run", as_json: bool) -> None:
    """Print one table of all networks; raises `CheckFailed` if one of them failed its proof."""
    rows = family.rows()
    emit({"run": str(run.path), "networks": rows}, as_json, lambda: _table(rows))
    if family.problems:
        more = f" (and {len(family.problems) - 1} more)" if len(family.problems) > 1 else ""
        raise CheckFailed(f"{family.problems[0]}{more}; {len(rows)} others were exported")


def _table(rows: list[dict[str, Any]]) -> str:
    heading = (
        f"{'network':<12} {'M MACs':>8} {'M params':>9} {'MB':>7} {'top-1 %':>8} {'95 %':>15} {'ms':>8} {'p95 ms':>8}"
    )
    return "\n".join([heading, *map(_line, rows)])


def _line(row: dict[str, Any]) -> str:
    interval = (
        "" if row["top1_interval"] is None else "{:.2f} to {:.2f}".format(*(100 * x for x in row["top1_interval"]))
    )
    return (
        f"{row['digest']:<12} {row['macs_m']:>8.4g} {row['params_m']:>9.4g} {row['megabytes']:>7.3g} "
        f"{_figure(row['top1'], 100):>8} {interval:>15} {_figure(row['median_ms']):>8} {_figure(row['p95_ms']):>8}"
    )


def _figure(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{factor * value:.4g}"
