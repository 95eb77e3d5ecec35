"""Budgets on the command line, of `nasdeploy search` and `nasdeploy run`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.workflows.request import Bounds

LatencyMsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--latency-ms",
        metavar="[DEVICE=]MS",
        help="Latency budget in milliseconds, e.g. 5; several for several devices, e.g. cpu=5.",
    ),
]
LatencyP95Option = Annotated[
    list[str] | None,
    typer.Option("--latency-p95-ms", metavar="[DEVICE=]MS", help="The same for the 95th percentile of calls."),
]
LatencyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--latency", metavar="[DEVICE=]PART", help="Latency budget as a part of the device's range, e.g. 40%."
    ),
]
MacsOption = Annotated[
    str | None, typer.Option("--macs-m", metavar="NUMBER", help="At most so many million MACs, or a range: 100..200.")
]
ParamsOption = Annotated[
    str | None, typer.Option("--params-m", metavar="NUMBER", help="At most so many million parameters, or a range.")
]
SizeOption = Annotated[
    str | None, typer.Option("--size-mb", metavar="NUMBER", help="Megabytes of the exported file, or a range.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option("--memory-mb", metavar="NUMBER", help="Megabytes of activations at once, or a range."),
]


def bounds_of(
    latency_ms: Sequence[str] | None,
    latency_p95_ms: Sequence[str] | None,
    latency: Sequence[str] | None,
    macs_m: str | None,
    params_m: str | None,
    size_mb: str | None,
    memory_mb: str | None,
) -> "Bounds":
    """The bounds that the options give."""
    from nasdeploy.searching.bounds import is_latency, split_device
    from nasdeploy.workflows.request import Bounds

    for option, texts in (("--latency-ms", latency_ms), ("--latency-p95-ms", latency_p95_ms)):
        for text in texts or ():
            if "%" in text:
                raise UserError(f"{option} {text}: give milliseconds; a part of the range is --latency {text}")
    for text in latency or ():
        # 40 alone would be milliseconds, where nearly always 40 % is meant.
        if not is_latency(split_device(text)[1]):
            raise UserError(
                f"--latency {text}: give a part of the range, such as 40%; write milliseconds with --latency-ms"
            )
    return Bounds(
        latency=(*(latency_ms or ()), *(latency or ())),
        p95=tuple(latency_p95_ms or ()),
        macs_m=macs_m,
        params_m=params_m,
        size_mb=size_mb,
        memory_mb=memory_mb,
    )
