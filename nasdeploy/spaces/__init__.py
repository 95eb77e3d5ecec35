"""Search spaces by kind and by name.

A kind is a class of settings that builds a space (`KINDS`). Those with a name (`SPACES`) are YAML files beside this
module, which hold the settings of some kind. Code of one's own adds a kind by an entry in `KINDS`; a recipe then names
it, but no recipe runs code.
"""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SerializeAsAny

from nasdeploy.core.errors import lookup, suggestion
from nasdeploy.core.settings import ByKind, load_yaml, parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.spaces.grown import GrownSettings
from nasdeploy.spaces.kind import GivenSpace, SpaceSettings
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.spaces.ofa import OfaTable

KINDS: dict[str, type[SpaceSettings]] = {
    "table": MobileNetTable,
    "ofa": OfaTable,
    "grown": GrownSettings,
    "python": GivenSpace,
}
"""The settings class of each kind."""

SPACES = {
    "alphanet": "alphanet.yaml",
    "bignas": "bignas.yaml",
    "cifar10": "cifar10.yaml",
    "digits": "digits.yaml",
    "ofa-mbv3": "ofa-mbv3.yaml",
    "ofa-mbv3-w1.2": "ofa-mbv3-w1.2.yaml",
}
"""The file of each space that has a name."""

DEFAULT_KIND = "table"
"""The kind of settings that name none, as those of recipes written before there were kinds."""

IMAGENET_CLASSES = 1000


def _registered(space: str | SpaceSettings) -> str | SpaceSettings:
    if isinstance(space, str) and space not in SPACES:
        raise ValueError(f"unknown search space{suggestion(space, SPACES)}")
    return space


NamedOrSettings = Annotated[
    SerializeAsAny[str | SpaceSettings],
    ByKind("kind of search space", KINDS, DEFAULT_KIND),
    AfterValidator(_registered),
]
"""The field of a recipe that holds a registered name, or the settings of a kind (without `kind`, of a table)."""


def load_space(space: str | SpaceSettings, output_size: int = IMAGENET_CLASSES) -> SearchSpace:
    """Return the space of that name, or with those settings, with outputs of that size: the number of classes, say.

    Raises `UserError` with the nearest name if there is none of that name.
    """
    return (load_settings(space) if isinstance(space, str) else space).build(output_size)


def name_of(space: str | SpaceSettings) -> str:
    """Return the name of a space that a recipe names, or writes out."""
    return space if isinstance(space, str) else space.name


def load_settings(name: str) -> SpaceSettings:
    """Return the settings of the registered space called `name`; raises `UserError` with the nearest name."""
    content = load_yaml(Path(str(files("nasdeploy.spaces"))) / lookup("search space", SPACES, name))
    return parse(KINDS[content.get("kind", DEFAULT_KIND)], content, f"space {name}")
