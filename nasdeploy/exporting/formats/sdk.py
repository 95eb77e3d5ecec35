"""Whether the package that a format needs is there, and new enough; nothing is imported."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from nasdeploy.runtimes.numbers import numbers


def lacking(module: str, package: str, at_least: str) -> str | None:
    """The command that installs `package`, whose module is `module`, in a version that will do; None if it is there."""
    if not find_spec(module):
        return f"pip install {package}"
    try:
        installed = version(package)
    except PackageNotFoundError:
        # As the system's own packages are.
        return None
    return None if numbers(installed) >= numbers(at_least) else f"pip install '{package}>={at_least}'"
