"""`nasdeploy init`."""

from pathlib import Path
from typing import Annotated

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit


def init(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder that holds train/CLASS/ or train/*.tar.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the recipe.")] = Path(
        "recipe.yaml"
    ),
    hours: Annotated[float, typer.Option(min=0.01, max=10_000, help="Time that training may take here.")] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a commented recipe that fits a folder of images, or of tar shards, and this machine."""
    from nasdeploy.errors import UserError

    if out.exists() and not force:
        raise UserError(f"{out}: exists already; pass --force to replace it, or --out FILE for another name")

    from nasdeploy.store.files import require_writable, write_text

    require_writable(out)

    from nasdeploy.data.inspect import inspect_folder
    from nasdeploy.draft.choices import draft_for
    from nasdeploy.draft.text import check, recipe_text
    from nasdeploy.progress import Progress, duration

    progress = Progress(quiet)
    folder = inspect_folder(data.expanduser())
    for note in folder.notes:
        progress.say(note)
    progress.say("timing some steps of training")
    draft = draft_for(folder, hours)
    text = recipe_text(draft, str(out))
    recipe = check(text, str(out))
    write_text(out, text)
    facts = {
        "recipe": str(out),
        "name": recipe.name,
        "space": recipe.space,
        "classes": list(folder.classes),
        "images": dict(folder.images),
        "size": recipe.data.size,
        "epochs": recipe.train.epochs,
        "batch_size": recipe.train.batch_size,
        "estimated_training_s": draft.training_s,
        "estimated_search_s": draft.search_s,
    }
    emit(
        facts,
        as_json,
        lambda: (
            f"wrote {out}: space {recipe.space}, {recipe.train.epochs} epochs, about {duration(draft.training_s)} of "
            f"training and {duration(draft.search_s)} of search\ncontinue with: nasdeploy run {out}"
        ),
    )
