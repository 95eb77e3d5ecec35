"""A first recipe as commented YAML."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nasdeploy.core.progress import Progress, duration
from nasdeploy.core.settings import settings_in
from nasdeploy.core.yaml import quoted
from nasdeploy.data.inspect import FolderSummary, inspect_folder
from nasdeploy.data.settings import AugmentSettings
from nasdeploy.importers.importer import Imported
from nasdeploy.importers.start import open_model
from nasdeploy.initial_recipe.choices import Draft, draft_for, fast_format
from nasdeploy.initial_recipe.from_run import open_published, open_run, run_draft
from nasdeploy.initial_recipe.growing import GROWN_RATE, LARGEST_SHARE, Growth
from nasdeploy.initial_recipe.own_classifier import with_classifier_tried
from nasdeploy.initial_recipe.pretrained import PretrainedDraft, pretrained_draft
from nasdeploy.initial_recipe.pretrained_text import (
    finetune_text,
    noted,
    phases_text,
    precision_text,
    preprocessing_lines,
    score_text,
    start_text,
)
from nasdeploy.recipe import Recipe, parse_recipe
from nasdeploy.supernet.settings import FROM_PUBLISHED, StartSettings
from nasdeploy.training.settings import TrainSettings

USUAL_START = "timm:efficientnet_b0"
"""The network that is recommended for photographs."""


@dataclass(frozen=True)
class FirstRecipe:
    """A recipe for a folder of images, with what it is for."""

    folder: FolderSummary
    draft: Draft
    text: str
    """The recipe as commented YAML."""
    recipe: Recipe


def first_recipe(
    data: Path, hours: float, file: str, progress: Progress, start: StartSettings | None = None
) -> FirstRecipe:
    """Return a recipe for the images in `data` that trains for about `hours` here, maybe from a pretrained network.

    `file` is the name that it will have. Raises `UserError` for a folder that holds no images that can be learned from,
    and for a network that cannot be had.
    """
    with progress.stage("looking at the images"):
        folder = inspect_folder(data.expanduser())
    for note in folder.notes:
        progress.say(note)
    with progress.stage("opening the network"):
        drafting = _drafting(folder, hours, start)
    progress.say("timing some steps of training")
    with progress.stage("timing them"):
        draft = drafting()
    for note in [*of_weights(draft), *of_precision(draft), *advice(draft, hours)]:
        progress.say(note)
    network = draft.network if isinstance(draft, PretrainedDraft) else None
    if isinstance(draft, PretrainedDraft) and isinstance(network, Imported) and network.classes == len(folder.classes):
        with progress.stage("trying the network's own classifier"):
            draft, told = with_classifier_tried(draft, network, check(recipe_text(draft, file), file))
        progress.say(told)
    text = recipe_text(draft, file)
    return FirstRecipe(folder, draft, text, check(text, file))


def _drafting(folder: FolderSummary, hours: float, start: StartSettings | None) -> Callable[[], Draft]:
    """Return what times some steps and makes the recipe; what it starts from was found to be there, and right."""
    if start is None:
        return partial(draft_for, folder, hours)
    if start.kind == "run":
        return partial(run_draft, folder, start, open_run(start, folder.classes), hours)
    if start.kind in FROM_PUBLISHED:
        return partial(run_draft, folder, start, open_published(start, folder.classes), hours)
    return partial(pretrained_draft, folder, start, open_model(start), hours)


def recipe_text(draft: Draft, file: str) -> str:
    """Return the recipe; `file` is the name that it will have, for the commands in its comments."""
    return "\n".join([_head(draft, file), _data(draft), _train(draft), _search(draft)])


def of_weights(draft: Draft) -> list[str]:
    """Return what became of the pretrained weights: which of several were taken, and whether with their classifier."""
    if not isinstance(draft, PretrainedDraft):
        return []
    given, wanted, notes = draft.network.classes, len(draft.folder.classes), draft.network.notes
    anew = f"a new classifier of {wanted} classes takes the place of that of {given}"
    return [*notes, anew] if given != wanted else list(notes)


def of_precision(draft: Draft) -> list[str]:
    """Return in which format training will compute, where that is not float32."""
    found = fast_format(draft.shape.size)
    if found == "none":
        return []
    return [
        f"training computes convolutions in {found}, which is fast on {draft.machine}; `train.autocast=none` is exact"
    ]


def advice(draft: Draft, hours: float) -> list[str]:
    """Return what a user should know of the way that was chosen: that there is a better one, or that time is short."""
    if isinstance(draft, PretrainedDraft):
        if draft.needed_s <= 1.1 * 3600 * hours:
            return []
        needed = duration(draft.needed_s)
        return [f"{duration(3600 * hours)} is short: with the fewest epochs it takes about {needed} here"]
    if draft.shape.space != "alphanet":
        return []
    return [
        f"photographs are best started from a pretrained network, `start={USUAL_START}`: from random weights these "
        f"{draft.training.images} images for {draft.training.epochs} epochs reach a fraction of its accuracy"
    ]


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
#     nasdeploy train {shlex.quote(_plain(file))}; nasdeploy profile; nasdeploy search; nasdeploy export
name: {quoted(draft.name)}
{noted("seed: 0", "of the split, weights, order and augmentation of images, and search")}

{_space(draft)}
{noted("device: cpu", "where latency counts: the name of a device file")}
"""


def _space(draft: Draft) -> str:
    if isinstance(draft, PretrainedDraft):
        return start_text(draft)
    name = draft.shape.space
    return noted(f"space: {name}", f"the networks to choose from; see nasdeploy space show {name}")


def _data(draft: Draft) -> str:
    folder, shape = draft.folder, draft.shape
    lines = [
        "data:",
        f"  kind: {folder.kind}",
        f"  path: {quoted(str(folder.path.absolute()))}",
        *([noted("  range: measured", _RANGE)] if folder.needs_range else []),
        noted(f"  size: {shape.size}", "side of the images in pixels; a network rescales them to its resolution"),
        noted(f"  resize: {shape.resize}", "shorter side before the centre crop, in evaluation"),
        *(preprocessing_lines(draft) if isinstance(draft, PretrainedDraft) else []),
        "  augment:",
        *_augment(shape.augment),
        noted(
            f"  holdout: {draft.training.holdout}",
            "of the training images, for the search's accuracy; never trained on",
        ),
        *(
            []
            if folder.has_test
            else [noted("  test: 0.2", "of the images, for the final figures: no test images are given")]
        ),
        *_balance(folder),
        noted("  duplicates: leave-out", "pictures that are there several times are used once; or keep"),
        noted("  on_unreadable: stop", "or skip"),
    ]
    return "\n".join(lines) + "\n"


def _augment(augment: AugmentSettings) -> Iterator[str]:
    usual = AugmentSettings()
    yield f"    crop: {augment.crop}"
    if augment.crop == "pad":
        yield f"    pad: {augment.pad}"
    if augment.scale != usual.scale:
        yield noted(f"    scale: {list(augment.scale)}", "of the picture's area")
    if augment.ratio != usual.ratio:
        yield noted(f"    ratio: {list(augment.ratio)}", "of a crop's width and height")
    yield noted(f"    flip: {str(augment.flip).lower()}", "false if left and right matter, as in text")
    yield noted(f"    policy: {augment.policy}", "none, trivial, imagenet, v0-mstd0.5, rand-m9-mstd0.5")


_RANGE = "values of black and white, measured on the training images; or two numbers, e.g. [0, 4095]"


def _balance(folder: FolderSummary) -> list[str]:
    """Say which of several ways to count classes is a question only where they differ in size."""
    smallest, largest = min(folder.per_class.values()), max(folder.per_class.values())
    if largest < 2 * smallest:
        return []
    return [noted("  balance: none", "sampling or loss: classes count equally, although they differ in size")]


def _train(draft: Draft) -> str:
    training = draft.training
    if isinstance(draft, PretrainedDraft):
        return phases_text(draft)
    if training.growth is not None:
        return _growing_train(draft, training.growth)
    warmup = min(5.0, round(training.epochs / 10, 1))
    # In a few epochs nothing is learned by heart.
    dropped = 0.2 if training.epochs >= 100 else 0.0
    return f"""\
# Timed on {draft.machine} (too long if it was busy): {training.images} images, an epoch, take \
{duration(training.epoch_s)}; all of training {duration(draft.training_s)}.
train:
  epochs: {training.epochs}
  batch_size: {training.batch_size}
{precision_text(draft)}\
  warmup_epochs: {warmup}
{noted(f"  dropout: {dropped}", "of the largest network; 0.2 for 100 epochs and more")}
  drop_connect: {dropped}
{noted(f"  validate_every: {max(1, training.epochs // 20)}", "epochs")}
"""


def _growing_train(draft: Draft, growth: Growth) -> str:
    """Return the section `train` of a short training: the smallest network first, then all, which grow from it."""
    training, rate = draft.training, TrainSettings().learning_rate
    warmups = (min(5.0, round(growth.smallest / 10, 1)), round(growth.grown / 10, 1))
    return f"""\
# Timed on {draft.machine} (too long if it was busy): an epoch of {training.images} images takes \
{duration(growth.smallest_s)} for the smallest network,
# {duration(growth.grown_s)} for all of them; all of training {duration(draft.training_s)}.
train:
  batch_size: {training.batch_size}
{precision_text(draft)}\
  learning_rate: {rate}
  dropout: 0.0
  drop_connect: 0.0
{noted(f"  validate_every: {max(1, training.epochs // 20)}", "epochs")}
  phases:
    - name: smallest        # its steps are the quickest
      epochs: {growth.smallest}
      sampling: {{kind: smallest}}
      distillation: {{kind: none}}
{noted(f"      lowest: {GROWN_RATE}", "of the learning rate, which goes on from there")}
      warmup_epochs: {warmups[0]}
    - name: all             # a random network in each step, sometimes the largest; the smallest learns from it
      epochs: {growth.grown}
{noted("      grow: true", "all networks begin with what the smallest has learned")}
      sampling: {{kind: sandwich, largest_share: {LARGEST_SHARE}}}
      random_networks: 0
      distillation: {{kind: kl, beta: 0.5}}
      learning_rate: {round(GROWN_RATE * rate, 6)}
      warmup_epochs: {warmups[1]}
"""


def _search(draft: Draft) -> str:
    search = draft.search
    half = search.parents // 4
    return f"""\
# Training images that batch normalisation is recalibrated with, before accuracy is measured.
recalibration:
  batch_size: {search.batch_size}
{noted(f"  batches: {2 * search.batches}", "for the exported network")}
{noted(f"  search_batches: {search.batches}", "for each network during the search")}

{_search_comment(draft)}
search:
{noted(*(_OF_ORIGINAL if isinstance(draft, PretrainedDraft) else _OF_RANGE))}
{score_text(search) if isinstance(draft, PretrainedDraft) else ""}  rounds: {search.rounds}
{noted(f"  parents: {search.parents}", _FIRST[search.strategy])}
{noted(f"  mutations: {half}", "in each round")}
  crossovers: {half}
{finetune_text(draft) if isinstance(draft, PretrainedDraft) else ""}"""


_FIRST = {"evolution": "random networks at first", "additive": "the best by the table of loss, at first"}
"""What the first networks of a search are, by its strategy."""


_OF_RANGE = ("  latency: 40%", "of the range that the device reaches; or milliseconds, such as 2.5ms")
_OF_ORIGINAL = ("  latency: 0.5x", "half of what the original takes on the device; or milliseconds, such as 2.5ms")


def _search_comment(draft: Draft) -> str:
    """Return what the search does and how long that takes."""
    search, measuring = draft.search, "with some minutes of measuring on the device."
    evaluated = f"ccuracy of {search.evaluations} networks, each in {duration(search.evaluation_s)}"
    if search.strategy != "additive":
        return f"# A{evaluated}: {duration(draft.search_s)}; {measuring}"
    return (
        f"# A table of loss beside that of latency: what each of {search.cuts} cuts alone does, in "
        f"{duration(search.table_s)}; then\n# a{evaluated}: {duration(draft.search_s)} in all, {measuring}"
    )


def _plain(name: str) -> str:
    """Return a name that cannot end the comment that it stands in."""
    return "".join(character if character.isprintable() else "?" for character in name)
