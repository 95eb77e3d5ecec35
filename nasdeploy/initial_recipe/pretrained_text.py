"""The parts of a first recipe that starts from a pretrained network, as commented YAML."""

import json
from collections.abc import Iterator
from typing import Any

from nasdeploy.core.progress import duration
from nasdeploy.core.yaml import quoted
from nasdeploy.data.settings import IMAGENET_MEAN, IMAGENET_STD
from nasdeploy.initial_recipe.choices import Draft, SearchShape, fast_format
from nasdeploy.initial_recipe.pretrained import PretrainedDraft, original_rate
from nasdeploy.spaces.grown import GrownSettings, GrownStage
from nasdeploy.spaces.kind import SpaceSettings

_DEVIATION_OF = "of channels, of values 0..1, as the network was trained with"


def noted(setting: str, note: str) -> str:
    """Return a line of YAML with a comment."""
    return f"{setting:<24}  # {note}"


def precision_text(draft: Draft) -> str:
    """Return the line of section `train` that names the format of autocast; none where that is float32."""
    found = fast_format(draft.shape.size)
    return "" if found == "none" else noted(f"  autocast: {found}", "fast on this GPU; none is exact float32") + "\n"


def start_text(draft: PretrainedDraft) -> str:
    """Return the sections `start` and `space`: a line for each kind of block."""
    start = draft.start
    lines = ["start:", f"  model: {quoted(start.model)}"]
    if start.weights is not None:
        lines.append(f"  weights: {quoted(start.weights)}")
    if start.classifier == "new":
        lines.append("  classifier: new")
    return "\n".join([*lines, *_space(draft.space)])


def _space(space: str | SpaceSettings) -> Iterator[str]:
    """Yield the section `space`: the name, or the settings, those of a grown one as a user likes to read them."""
    if isinstance(space, str):
        yield noted(f"space: {space}", f"the networks to choose from; see nasdeploy space show {space}")
    elif isinstance(space, GrownSettings):
        yield from _grown(space)
    else:
        yield "space:"
        for name, value in {"kind": space.kind, **space.model_dump(mode="json", exclude_defaults=True)}.items():
            several = isinstance(value, list) and any(isinstance(each, dict) for each in value)
            yield f"  {name}:" if several else f"  {name}: {_plain(value)}"
            yield from (f"    - {_plain(each)}" for each in (value if several else ()))


def _plain(value: Any) -> str:
    """Return a plain value on one line: YAML reads JSON."""
    return json.dumps(value)


def _grown(settings: GrownSettings) -> list[str]:
    lines = [
        "# Every network to choose from is cut out of it: images, depth, largest kernels, per cent of middle channels.",
        "space:",
        "  kind: grown",
        f"  name: {quoted(settings.name)}",
        f"  resolution: {list(settings.resolution)}",
        f"  stem: {_flow(settings.stem)}",
        "  stages:",
    ]
    for stage in settings.stages:
        lines += _stage(stage)
    return [*lines, f"  head: {_flow(settings.head)}"]


def _stage(stage: GrownStage) -> list[str]:
    choices = {name: getattr(stage, name) for name in ("depth", "kernel_size", "middle")}
    given = [f"{name}: {list(values)}" for name, values in choices.items() if values not in (None, (100,))]
    rows = [f"        - {_flow(row)}" for row in stage.blocks]
    first, *others = [*given, "blocks:"]
    return [f"    - {first}", *(f"      {line}" for line in others), *rows]


def _flow(row: Any) -> str:
    """Return a block as a mapping on one line, without what is the default."""
    values = {"kind": row.kind, **row.model_dump(exclude_defaults=True)}
    return "{" + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}"


def preprocessing_lines(draft: PretrainedDraft) -> list[str]:
    """Return the lines of section `data` that differ from the usual ones, because the network expects its own."""
    expected, lines = draft.network.expected, []
    if expected.mean != IMAGENET_MEAN:
        lines.append(noted(f"  mean: {list(expected.mean)}", _DEVIATION_OF))
    if expected.std != IMAGENET_STD:
        lines.append(noted(f"  std: {list(expected.std)}", _DEVIATION_OF))
    return lines


def phases_text(draft: PretrainedDraft) -> str:
    """Return the section `train`: the original first, then the networks that are cut out of it."""
    training, phases = draft.training, draft.phases
    warmups = {name: round(0.08 * epochs, 2) for name, epochs in (("o", phases.original), ("e", phases.elastic))}
    return f"""\
# Timed on {draft.machine} (too long if it was busy): an epoch of {training.images} images takes \
{duration(phases.original_s)} for the original,
# {duration(phases.elastic_s)} for networks cut out of it; all of training {duration(draft.training_s)}.
train:
  batch_size: {training.batch_size}
  reference_batch: {training.batch_size}
{precision_text(draft)}\
  optimizer: adamw
  weight_decay: 0.01
  label_smoothing: 0.0
  dropout: 0.0
  drop_connect: 0.0
  phases:
    - name: original        # the pretrained network on these images
      epochs: {phases.original}
      sampling: {{kind: largest}}
      learning_rate: {original_rate(training.batch_size)}
      classifier_rate: {_classifier_rate(draft)}
      warmup_epochs: {warmups["o"]}
    - name: elastic         # networks cut out of it learn from it, to be good without more training
{noted(f"      epochs: {phases.elastic}", _ELASTIC)}
{"" if draft.network.elastic else _SORTED}\
      distillation: {{kind: kl, temperature: 2.0, beta: 0.5, teacher: original}}
      learning_rate: 0.001
      warmup_epochs: {warmups["e"]}
"""


_ELASTIC = "the chosen one gains more by the time; 1 to 3 for networks as they are cut"
_SORTED = "      sort_channels: variation\n"


def _classifier_rate(draft: PretrainedDraft) -> str:
    """Return the factor for the classifier, which learns faster if it is new."""
    kept = draft.network.classes == len(draft.folder.classes) and draft.start.classifier == "keep"
    return "1.0" if kept else "3.0  # the classifier is new"


def score_text(search: SearchShape) -> str:
    """Return the lines of section `search` that say how networks are found, and what they are ranked by."""
    note = "loss + divergence from the original's outputs: tells networks apart on few images; or metric, loss"
    strategy = "" if search.strategy == "evolution" else noted(f"  strategy: {search.strategy}", _ADDITIVE) + "\n"
    return strategy + noted("  score: both", note) + "\n"


_ADDITIVE = "by the table of loss; or evolution, ..."


def finetune_text(draft: PretrainedDraft) -> str:
    """Return the section `finetune`: the chosen network, trained further alone."""
    phases = draft.phases
    return f"""
# The network that was chosen is trained further alone: {duration(phases.finetuning_s)}; 0 epochs for none.
finetune:
  epochs: {phases.finetune}
"""
