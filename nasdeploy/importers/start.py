"""The pretrained network that a supernet begins with: opened, compared with the recipe's space, and handed over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.importers import IMPORTERS
from nasdeploy.importers.importer import Imported
from nasdeploy.importers.weights import classes_of, load_into, read_state_dict
from nasdeploy.spaces.grown import GrownSettings, GrownSpace
from nasdeploy.supernet.settings import StartSettings

_CLASSIFIER = "weights.head.classifier."


def open_model(start: StartSettings) -> Imported:
    """Return the network of a library that a recipe starts from, not from a run, with its weights.

    Raises `UserError` for an unknown name, weights that cannot be fetched or do not fit, and for what no block can
    express.
    """
    importer = IMPORTERS[start.kind]
    untrained = importer.model(start.name)
    # What cannot be read is refused before anything is fetched, or looked for in a file.
    importer.read(untrained, start.name)
    if start.weights is None:
        return importer.read(importer.model(start.name, pretrained=True), start.name)
    given = read_state_dict(Path(start.weights))
    classes = classes_of(untrained, given)
    model = importer.model(start.name, classes=classes)
    load_into(model, given, start.model)
    imported = importer.read(model, start.name)
    if given.told is not None:
        imported.notes.append(given.told)
    return imported


def settings_of(imported: Imported, name: str) -> GrownSettings:
    """Return the space that holds the imported network alone."""
    return parse(GrownSettings, {**rows_of(imported), "name": name, "resolution": [imported.expected.size]}, name)


def rows_of(imported: Imported) -> dict[str, Any]:
    """Return the imported network as settings of a grown space without choices."""
    stages = [{"blocks": rows} for rows in imported.stages]
    return {"kind": "grown", "stem": imported.stem, "stages": stages, "head": imported.head}


def initial_weights(imported: Imported, space: SearchSpace, start: StartSettings) -> Mapping[str, Tensor]:
    """Return the weights of the imported network for a supernet of `space`, by the names of its state dict.

    They lack the classifier where the classes are others in number. Raises `UserError` for a space that was not grown
    from this network.
    """
    if not isinstance(space, GrownSpace):
        raise UserError(f"start.model {start.model}: space {space.name} was not grown from it; {_WRITE}")
    original = settings_of(imported, space.name)
    if (differing := _difference(original, space.settings)) is not None:
        raise UserError(f"start.model {start.model}: {differing} of space {space.name} is not that model's; {_WRITE}")
    if imported.classes == space.classes and start.classifier == "keep":
        return imported.weights
    return {name: tensor for name, tensor in imported.weights.items() if not name.startswith(_CLASSIFIER)}


_WRITE = "write the recipe anew with `nd.init(start=MODEL)`"


def _difference(original: GrownSettings, settings: GrownSettings) -> str | None:
    """Return where two spaces have other blocks, None if nowhere; the number of classes does not count."""
    if original.stem != settings.stem:
        return "stem"
    for number, (one, other) in enumerate(zip(original.stages, settings.stages, strict=False)):
        if one.rows != other.rows:
            return f"stages.{number}"
    if len(original.stages) != len(settings.stages):
        return f"stages.{min(len(original.stages), len(settings.stages))}"
    heads = [each.head.model_copy(update={"classes": 1}) for each in (original, settings)]
    return None if heads[0] == heads[1] else "head"
