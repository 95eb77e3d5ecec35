"""`nasdeploy init`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.wording import typed

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.initial_recipe.text import FirstRecipe


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
        found = _written(data, out, hours, force, Progress(quiet, typed))
    folder, draft, recipe = found.folder, found.draft, found.recipe
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


def _written(data: Path, out: Path, hours: float, force: bool, progress: "Progress") -> "FirstRecipe":
    """Write the recipe."""
    from nasdeploy.core.errors import UserError
    from nasdeploy.store.files import require_writable, write_text

    if out.exists() and not force:
        raise UserError(f"{out}: exists already; pass --force to replace it, or --out FILE for another name")
    require_writable(out)

    from nasdeploy.initial_recipe.text import first_recipe

    found = first_recipe(data, hours, str(out), progress)
    write_text(out, found.text)
    return found
