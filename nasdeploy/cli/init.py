"""`nasdeploy init`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.wording import typed

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.data.inspect import FolderSummary
    from nasdeploy.initial_recipe.choices import Draft
    from nasdeploy.recipe import Recipe


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
    from nasdeploy.core.progress import Progress, duration
    from nasdeploy.store.files import locked_while_written

    with locked_while_written(out):
        folder, draft, recipe = _written(data, out, hours, force, Progress(quiet, typed))
    facts = {
        "recipe": str(out),
        "name": recipe.name,
        "space": recipe.space,
        "classes": list(folder.classes),
        "images": dict(folder.images),
        "size": recipe.images.size,
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


def _written(
    data: Path, out: Path, hours: float, force: bool, progress: "Progress"
) -> "tuple[FolderSummary, Draft, Recipe]":
    """Write the recipe; what was found in the folder, and what was made of it."""
    from nasdeploy.core.errors import UserError
    from nasdeploy.store.files import require_writable, write_text

    if out.exists() and not force:
        raise UserError(f"{out}: exists already; pass --force to replace it, or --out FILE for another name")
    require_writable(out)

    from nasdeploy.data.inspect import inspect_folder
    from nasdeploy.initial_recipe.choices import draft_for
    from nasdeploy.initial_recipe.text import check, recipe_text

    folder = inspect_folder(data.expanduser())
    for note in folder.notes:
        progress.say(note)
    progress.say("timing some steps of training")
    draft = draft_for(folder, hours)
    text = recipe_text(draft, str(out))
    recipe = check(text, str(out))
    write_text(out, text)
    return folder, draft, recipe
