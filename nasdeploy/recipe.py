"""Recipes: everything of a run in one YAML file. Torch-free."""

import json
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SerializeAsAny, field_validator

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.core.resources import resource, resource_names
from nasdeploy.core.settings import BySibling, Settings, load_yaml, override, parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.settings import DataSettings, LabelledDataset, ValueBounds
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.spaces import NamedOrSettings, load_space
from nasdeploy.spaces.kind import GivenSpace
from nasdeploy.spaces.resolve import resolve_arch
from nasdeploy.store.run import Run
from nasdeploy.supernet.settings import FROM_PUBLISHED, RecalibrationSettings, StartSettings
from nasdeploy.tasks import TASKS
from nasdeploy.tasks.classification import Classification
from nasdeploy.training.finetuning import FinetuneSettings
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.step_settings import ORIGINAL

if TYPE_CHECKING:
    from nasdeploy.data.inventory import OpenedData


AnyPath = str | PathLike[str]
Data = AnyPath | LabelledDataset | Mapping[str, LabelledDataset]
"""A folder of images, a PyTorch data set of pictures and labels, or several by part: `train`, `val`, `test`."""
Changes = Mapping[str, object] | Sequence[str]
"""Values by dotted key of a recipe, such as `{"train.epochs": 5}`, or as texts, such as `train.epochs=5`."""


def _data_settings(task: object) -> type[Settings]:
    """Return the settings class of a task's data; of the default task's where there is no such task."""
    return TASKS[task if isinstance(task, str) and task in TASKS else Classification.name].data_settings


def _all_data_settings() -> list[type[Settings]]:
    """Return the settings classes of the data of all tasks, each once."""
    return list(dict.fromkeys(task.data_settings for task in TASKS.values()))


class Recipe(Settings):
    """A run from images to a verified model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The name of the run directory."""
    seed: int = Field(default=0, ge=0)
    """The seed of all that is drawn at random."""
    space: NamedOrSettings
    """The name of a registered space, or the settings of one: those of its `kind`, by default a table of stages."""
    task: str = Classification.name
    """What the network is trained for: a key of `nasdeploy.tasks.TASKS`."""
    data: Annotated[SerializeAsAny[Settings], BySibling("task", _data_settings, _all_data_settings)]
    """The settings that the task has for its data."""
    start: StartSettings | None = None
    """The pretrained network that the supernet begins with; random weights if left out."""
    train: TrainSettings = TrainSettings()
    """The training of the supernet."""
    recalibration: RecalibrationSettings = RecalibrationSettings()
    """The recalibration of batch normalisation in networks that are extracted from the supernet."""
    device: str = "cpu"
    """The device to measure on: a name in profiles/ or a file."""
    search: SearchSettings = SearchSettings()
    """The search for the best network within a budget."""
    finetune: FinetuneSettings = FinetuneSettings()
    """The training of the winner alone, after the search."""

    @field_validator("task")
    @classmethod
    def _registered(cls, task: str) -> str:
        if task not in TASKS:
            raise ValueError(f"unknown task{suggestion(task, TASKS)}")
        return task

    def load_space(self, output_size: int) -> SearchSpace:
        """Return the search space with outputs of `output_size`, which the data ask for: the number of classes, say."""
        return load_space(self.space, output_size)

    def with_space(self, space: SearchSpace) -> "Recipe":
        """Return a copy whose space is the object `space`, whatever the recipe says."""
        return self.model_copy(update={"space": GivenSpace.of(space)})

    def with_data(self, data: "OpenedData") -> "Recipe":
        """Return a copy whose images are the objects in `data`, wherever the recipe says that they lie."""
        return self.model_copy(update={"data": self.images.holding(data)})

    def changed(self, assignments: Sequence[str]) -> "Recipe":
        """Return a copy with `assignments` on top: `key.key=value`, whose values are YAML; see `load_recipe`."""
        if not assignments:
            return self
        parsed = parse_recipe(_changed(self.to_json(), assignments, None), f"recipe {self.name}")
        # What a recipe holds as a Python object is lost on the way through JSON.
        kept = {name: held for name, held in (("space", self.space), ("data", self.data)) if _holds_object(held)}
        return parsed.model_copy(update=kept)

    @property
    def images(self) -> DataSettings:
        """The settings of images; raises `UserError` where the task has other data."""
        if isinstance(self.data, DataSettings):
            return self.data
        raise UserError(f"recipe {self.name}: task {self.task} has no images")

    def to_json(self) -> dict[str, Any]:
        """Return plain values, defaults included; `parse_recipe` reads them back."""
        return self.model_dump(mode="json")


def _holds_object(settings: object) -> bool:
    return isinstance(settings, GivenSpace) or (isinstance(settings, DataSettings) and settings.kind == "python")


def load_recipe(name: str, assignments: Sequence[str] = (), data: str | None = None) -> Recipe:
    """The recipe in a file, or the shipped one of that name, with `key.key=value` assignments on top.

    `data` is the folder given with `--data`. Relative paths of data and teacher are absolute in the result, so that the
    run can be continued from elsewhere. Raises `UserError` for whatever is wrong.
    """
    path = _find(name)
    return parse_recipe(_changed(load_yaml(path), assignments, data), str(path))


def _changed(content: dict[str, Any], assignments: Sequence[str], data: str | None) -> dict[str, Any]:
    """A copy of plain values with assignments and the folder of `--data` on top, and with absolute paths."""
    changed = override(content, assignments)
    also = [assignment for assignment in assignments if assignment.startswith("data.path=")]
    if data is not None and also:
        raise UserError(f"`data={data}` and `set={also[0]}` both say where the images are; leave one of them out")
    if data is not None and isinstance(changed.get("data"), dict):
        changed["data"]["path"] = data
    _make_paths_absolute(changed)
    return changed


def _make_paths_absolute(content: dict[str, Any]) -> None:
    """Make the paths of data, teachers and start absolute, in plain values that were not checked yet."""
    data, start, train = _section(content, "data"), _section(content, "start"), _section(content, "train")
    phases = train.get("phases")
    parts = [train, *(part for part in (phases if isinstance(phases, list) else ()) if isinstance(part, dict))]
    teachers = [_section(part, "distillation") for part in parts]
    for section, key in ((data, "path"), (start, "weights"), *((teacher, "teacher_weights") for teacher in teachers)):
        if isinstance(section.get(key), str):
            section[key] = _absolute(section[key])
    for section, key in ((start, "model"), *((teacher, "teacher") for teacher in teachers)):
        kind, _, place = str(section.get(key)).partition(":")
        if kind in ("run", "onnx", *FROM_PUBLISHED) and place:
            section[key] = f"{kind}:{_absolute(place)}"


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def parse_recipe(content: dict[str, Any], source: str) -> Recipe:
    """The recipe in plain values; `source` is named in errors."""
    return parse(Recipe, content, source)


def recipe_from(recipe: Recipe | AnyPath | Mapping[str, object], changes: Changes | None) -> Recipe:
    """Return a recipe that is an object, a file, the name of a shipped one, or plain values, with changes on top."""
    if isinstance(recipe, str | PathLike):
        return load_recipe(fspath(recipe), assignments_of(changes))
    found = recipe if isinstance(recipe, Recipe) else parse_recipe(dict(recipe), "recipe")
    return found.changed(assignments_of(changes))


def assignments_of(changes: Changes | None) -> list[str]:
    """Return changes as texts `key.key=value`, the value in JSON."""
    if isinstance(changes, Sequence):
        return list(changes)
    return [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]


def with_objects(recipe: Recipe, data: Data | None, space: SearchSpace | None) -> Recipe:
    """Return a recipe whose data and space are these, where any are given."""
    found = recipe if space is None else recipe.with_space(space)
    if data is None:
        return found
    if isinstance(data, str | PathLike):
        return found.changed([f"data.path={json.dumps(_absolute(fspath(data)))}"])
    from nasdeploy.data.datasets import open_datasets

    return found.with_data(open_datasets(data if isinstance(data, Mapping) else {"train": data}))


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"{name}: no such recipe file; check the path, or write one with `nd.init(data=DIR)`")
    shipped = resource("recipes", name)
    if shipped is None:
        raise UserError(f"unknown recipe '{name}'{suggestion(name, resource_names('recipes'))}")
    return shipped


def recipe_of(run: Run, assignments: Sequence[str] = (), data: str | None = None) -> Recipe:
    """The recipe that a run was begun with, with `key.key=value` assignments and the folder of `--data` on top.

    Raises `UserError` for a change of what the supernet learned from.
    """
    source = f"{run.path}/manifest.json"
    begun_with = with_range(parse_recipe(run.manifest.recipe, source), run.manifest.range)
    if not assignments and data is None:
        return begun_with
    changed = with_range(parse_recipe(_changed(run.manifest.recipe, assignments, data), source), run.manifest.range)
    differing = learned_differences(begun_with, changed)
    if differing:
        raise UserError(f"{run.path}: {differing[0]} cannot be changed any more, the weights depend on it; train anew")
    return changed


def start_of(model: str | None, weights: str | PathLike[str] | None) -> StartSettings | None:
    """Return what a recipe starts from, such as `timm:NAME`, `run:DIR` or `alphanet:FILE`, with a file of weights.

    Raises `UserError` for another model, and for weights without one.
    """
    if model is None:
        if weights is not None:
            raise UserError(f"`weights={fspath(weights)}`: weights of which network? name it with `start=timm:NAME`")
        return None
    kind, _, place = model.partition(":")
    named = f"{kind}:{_absolute(place)}" if kind in ("run", *FROM_PUBLISHED) and place else model
    content = {"model": named, "weights": None if weights is None else _absolute(fspath(weights))}
    return parse(StartSettings, content, f"`start={model}`")


def train_alone(recipe: Recipe, text: str) -> Recipe:
    """Return the recipe with nothing but the architecture that `text` means trained, in each of its phases.

    It is the baseline that inherited weights are compared with; where others would learn from the original, which is
    another network, it learns from the labels. Raises `UserError` if there is no such architecture.
    """
    # Architectures are the same for any size of output; a space that is an object has the one that it was made with.
    size = recipe.space.output_size if isinstance(recipe.space, GivenSpace) else 1
    arch = resolve_arch(text, recipe.load_space(size), (), option="`alone`")
    content = recipe.to_json()
    train = content["train"]
    train["sampling"] = {"kind": "alone", "arch": arch.to_json()}
    for phase in train["phases"]:
        phase.pop("sampling", None)
    for part in (train, *train["phases"]):
        if _section(part, "distillation").get("teacher") == ORIGINAL:
            part["distillation"] = {"kind": "none"}
    return parse_recipe(content, "`alone`").model_copy(update={"space": recipe.space})


def with_range(recipe: Recipe, measured: ValueBounds | None) -> Recipe:
    """A recipe that asks for a measured range of values with the one that was measured for its run, if any was."""
    if measured is None or recipe.images.range != "measured":
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"range": measured})})


def learned_differences(before: Recipe, now: Recipe) -> list[str]:
    """Dotted names of settings that weights depend on and that differ.

    Where the images lie is none of them: that they are the same is found out when they are read.
    """
    a, b = before.to_json(), now.to_json()
    found = [name for part in _LEARNED_FROM for name in _differences(a[part], b[part], part)]
    return [name for name in found if name not in _TEACHES_NOTHING]


_LEARNED_FROM = ("seed", "task", "space", "data", "start", "train")
_TEACHES_NOTHING = (
    "data.path",
    "data.workers",
    "data.on_unreadable",
    "data.max_pixels",
    "data.cache",
    "train.cuda_graphs",
    "train.threads",
    "train.channels_last",
    "train.tensorboard",
    "train.world_size_change",
    "train.checkpoint_steps",
    "train.checkpoint_minutes",
    "train.kept_checkpoints",
    "train.most_skipped",
)
"""Settings inside these that suit a machine, or have an effect only where training would have stopped."""


def _differences(a: object, b: object, name: str) -> list[str]:
    """Dotted names of the values in which two nested mappings differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            found
            for key in sorted(a.keys() | b.keys())
            for found in _differences(a.get(key), b.get(key), f"{name}.{key}")
        ]
    return [] if a == b else [name]


def space_of(run: Run, recipe: Recipe | None = None) -> SearchSpace:
    """Return the space of a run; `recipe` is the run's, and needed only if it holds the space as a Python object.

    Raises `UserError` if the space is not what it was when the run began.
    """
    space = (recipe or recipe_of(run)).load_space(run.manifest.output_size)
    if space.digest != run.manifest.space:
        raise UserError(
            f"{run.path}: begun with another version of space {space.name} ({run.manifest.space}, now {space.digest}); "
            "train anew with `restart=True`"
        )
    return space
