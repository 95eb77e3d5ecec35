"""Search spaces by name. Each is a table in a YAML file beside this module."""

from importlib.resources import files
from pathlib import Path

from nasdeploy.core.registry import lookup
from nasdeploy.core.settings import load_yaml, parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.spaces.mobilenet import MobileNetTable, space_from_table

SPACES = {
    "alphanet": "alphanet.yaml",
    "bignas": "bignas.yaml",
    "cifar10": "cifar10.yaml",
    "digits": "digits.yaml",
}


def load_space(name: str, classes: int = 1000) -> SearchSpace:
    """The registered space called `name`; raises `UserError` with the nearest name."""
    return space_from_table(load_table(name), classes)


def load_table(name: str) -> MobileNetTable:
    """The registered table called `name`."""
    path = Path(str(files("nasdeploy.spaces"))) / lookup("search space", SPACES, name)
    return parse(MobileNetTable, load_yaml(path), f"space {name}")
