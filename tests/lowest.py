"""Prints the lower bounds of pyproject.toml as the versions to install: constraints for `pip install -c`.

`make lowest` installs them. Packages that are not named in pyproject.toml come as new as these allow.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def requirements() -> Iterator[Requirement]:
    """Yield what is required of other projects, with all extras."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    for lines in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from (each for each in map(Requirement, lines) if each.name != project["name"])


def lowest() -> dict[str, str]:
    """Return the lowest version of each project that is allowed; raises `ValueError` if one has no lower bound."""
    found = {}
    for each in requirements():
        (bound,) = (one.version for one in each.specifier if one.operator == ">=")
        found[each.name] = bound
    return found


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in lowest().items()))
