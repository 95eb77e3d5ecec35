"""`nasdeploy predict`."""

from pathlib import Path
from typing import Annotated

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError


def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory that 'nasdeploy export' wrote.")],
    images: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of images, or image files.")],
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the table to a file.")] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Classes for each image.")] = 1,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME|FILE", help="Where to run [default: the bundle's].")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Classify images with an exported model: a CSV with file, class and probability."""
    from nasdeploy.core.progress import Progress
    from nasdeploy.runtimes.device import load_device
    from nasdeploy.store.files import require_writable, write_text
    from nasdeploy.workflows import predict as step

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
