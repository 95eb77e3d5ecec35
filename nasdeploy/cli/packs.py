"""`nasdeploy pack` and `nasdeploy unpack`: a run in one file, for another machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import JsonFlag, QuietFlag, chosen_run, emit, onward
from nasdeploy.cli.wording import typed
from nasdeploy.core.escaping import escaped

if TYPE_CHECKING:
    from nasdeploy.workflows.pack import Packed
    from nasdeploy.workflows.unpack import Unpacked


def pack(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="Run directory [default: the latest in runs/].", autocompletion=completion.runs
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it [default: NAME.nasdeploy].")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a trained run into one file.

    Its data, checkpoints and exports are left out.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.workflows import pack as step

    packed = step.pack(chosen_run(run), out, Progress(quiet, typed))
    emit(packed.to_json(), as_json, lambda: _packed(packed))


def _packed(packed: "Packed") -> str:
    tables = "".join(f"\n  with latency table {name}" for name in packed.tables)
    size = packed.path.stat().st_size / 1e6
    then = onward(f"unpack {packed.path}")
    return f"packed run {packed.listing.name} into {packed.path}, {size:.3g} MB{tables}\n{then} (on the other machine)"


def unpack(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What 'nasdeploy pack' wrote.", autocompletion=completion.packs)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Directory of the run [default: runs/NAME].")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make the run in a packed file a run here.

    It can be searched, exported, evaluated, profiled, or started from.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.workflows import unpack as step

    found = step.unpack(file, out, Progress(quiet, typed))
    emit(found.to_json(), as_json, lambda: _unpacked(found))


def _unpacked(found: "Unpacked") -> str:
    lines = [f"unpacked run {found.run.manifest.name} into {found.run.path}"]
    if not found.data_found:
        lines.append(f"  its images lay in {escaped(found.data)}; say where they are here with --data DIR")
    return "\n".join([*lines, onward(f"search --run {found.run.path}")])
