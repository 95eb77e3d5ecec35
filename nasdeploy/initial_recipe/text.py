"""A first recipe as commented YAML."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.progress import Progress, duration
from nasdeploy.core.settings import settings_in
from nasdeploy.core.yaml import quoted
from nasdeploy.data.inspect import FolderSummary, inspect_folder
from nasdeploy.initial_recipe.choices import Draft, draft_for
from nasdeploy.recipe import Recipe, parse_recipe


@dataclass(frozen=True)
class FirstRecipe:
    """A recipe for a folder of images, with what it is for."""

    folder: FolderSummary
    draft: Draft
    text: str
    """The recipe as commented YAML."""
    recipe: Recipe


def first_recipe(data: Path, hours: float, file: str, progress: Progress) -> FirstRecipe:
    """Return a recipe for the images in `data` that trains for about `hours` here.

    `file` is the name that it will have. Raises `UserError` for a folder that holds no images that can be learned from.
    """
    folder = inspect_folder(data.expanduser())
    for note in folder.notes:
        progress.say(note)
    progress.say("timing some steps of training")
    draft = draft_for(folder, hours)
    text = recipe_text(draft, file)
    return FirstRecipe(folder, draft, text, check(text, file))


def recipe_text(draft: Draft, file: str) -> str:
    """Return the recipe; `file` is the name that it will have, for the commands in its comments."""
    return "\n".join([_head(draft, file), _data(draft), _train(draft), _search(draft)])


def check(text: str, file: str) -> Recipe:
    """Return the recipe that a reader of `text` will see."""
    return parse_recipe(settings_in(text.encode(errors="surrogateescape"), file), file)


def _head(draft: Draft, file: str) -> str:
    folder = draft.folder
    counts = sorted(folder.per_class.values())
    smallest, median, largest = folder.sides
    return f"""\
# {folder.images["train"]} images for training in {len(folder.classes)} classes of {counts[0]} to {counts[-1]}; \
shorter side {smallest} to {largest} pixels, median {median}.
# Written by nasdeploy init for {draft.machine}; change what you like. In one go, or step by step:
#     nasdeploy run {shlex.quote(_plain(file))}
#     nasdeploy train {shlex.quote(_plain(file))}; nasdeploy profile; nasdeploy search --latency 40%; nasdeploy export
name: {quoted(draft.name)}
{_noted("seed: 0", "of the split, weights, order and augmentation of images, and search")}

{_noted(f"space: {draft.shape.space}", f"the networks to choose from; see nasdeploy space show {draft.shape.space}")}
{_noted("device: cpu", "where latency counts: the name of a device file")}
"""


def _data(draft: Draft) -> str:
    folder, shape = draft.folder, draft.shape
    lines = [
        "data:",
        f"  kind: {folder.kind}",
        f"  path: {quoted(str(folder.path.absolute()))}",
        *([_noted("  range: measured", _RANGE)] if folder.needs_range else []),
        _noted(f"  size: {shape.size}", "side of the images in pixels; a network rescales them to its resolution"),
        _noted(f"  resize: {shape.resize}", "shorter side before the centre crop, in evaluation"),
        "  augment:",
        f"    crop: {shape.crop}",
        *([f"    pad: {max(1, shape.size // 8)}"] if shape.crop == "pad" else []),
        _noted("    flip: true", "false if left and right matter, as in text"),
        _noted(f"    policy: {shape.policy}", "none, trivial, imagenet, v0-mstd0.5, rand-m9-mstd0.5"),
        _noted(
            f"  holdout: {draft.training.holdout}",
            "of the training images, for the search's accuracy; never trained on",
        ),
        *(
            []
            if folder.has_test
            else [_noted("  test: 0.2", "of the images, for the final figures: no test images are given")]
        ),
        *_balance(folder),
        _noted("  duplicates: leave-out", "pictures that are there several times are used once; or keep"),
        _noted("  on_unreadable: stop", "or skip"),
    ]
    return "\n".join(lines) + "\n"


_RANGE = "values of black and white, measured on the training images; or two numbers, e.g. [0, 4095]"


def _balance(folder: FolderSummary) -> list[str]:
    """Say which of several ways to count classes is a question only where they differ in size."""
    smallest, largest = min(folder.per_class.values()), max(folder.per_class.values())
    if largest < 2 * smallest:
        return []
    return [_noted("  balance: none", "sampling or loss: classes count equally, although they differ in size")]


def _train(draft: Draft) -> str:
    training = draft.training
    warmup = min(5.0, round(training.epochs / 10, 1))
    # In a few epochs nothing is learned by heart.
    dropped = 0.2 if training.epochs >= 100 else 0.0
    return f"""\
# Timed on {draft.machine} (too long if it was busy): {training.images} images, an epoch, take \
{duration(training.epoch_s)}; all of training {duration(draft.training_s)}.
train:
  epochs: {training.epochs}
  batch_size: {training.batch_size}
  warmup_epochs: {warmup}
{_noted(f"  dropout: {dropped}", "of the largest network; 0.2 for 100 epochs and more")}
  drop_connect: {dropped}
{_noted(f"  validate_every: {max(1, training.epochs // 20)}", "epochs")}
"""


def _search(draft: Draft) -> str:
    search = draft.search
    half = search.parents // 4
    return f"""\
# Training images that batch normalisation is recalibrated with, before accuracy is measured.
recalibration:
  batch_size: {search.batch_size}
{_noted(f"  batches: {2 * search.batches}", "for the exported network")}
{_noted(f"  search_batches: {search.batches}", "for each network during the search")}

# Accuracy of {search.evaluations} networks, each in {duration(search.evaluation_s)}: {duration(draft.search_s)}; \
with some minutes of measuring on the device.
search:
{_noted("  latency: 40%", "of the range that the device reaches; or milliseconds, such as 2.5ms")}
  rounds: {search.rounds}
{_noted(f"  parents: {search.parents}", "random networks at first")}
{_noted(f"  mutations: {half}", "in each round")}
  crossovers: {half}
"""


def _noted(setting: str, note: str) -> str:
    return f"{setting:<24}  # {note}"


def _plain(name: str) -> str:
    """Return a name that cannot end the comment that it stands in."""
    return "".join(character if character.isprintable() else "?" for character in name)
