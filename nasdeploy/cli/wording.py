"""Messages of the library as they read on the command line, which adds the options and commands that they speak of.

The library knows no command line. Where its messages advise something, they name its own arguments and functions
between backticks: `restart=True`, `data=DIR`, a key of the recipe as in `data.size=32`, `nd.profile(device=cpu)`, or
what has no function there, `workflows.table.check()`.
"""

import re

from nasdeploy.core.cost_registry import COSTS

OPTIONS = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("set", "run", "restart", "data", "init", "alone", "out", "device", "arch", "precision", "format", "max_drop"),
        *("epochs", "finetune_epochs"),
        *("compute_capability", "embed_preprocessing", "layout", "budget_min", "sample", "strategy", "all_pareto"),
        *("latency", "weights", "space", "plot", *(cost.key for cost in COSTS.values())),
    )
} | {"start": "--from"}
"""The option for each argument of the library that messages name."""

COMMANDS = {
    **{f"nd.{name}": name for name in ("init", "train", "profile", "search", "finetune", "export", "pack")},
    "nd.import_supernet": "import",
    "nd.compare_runtimes": "runtimes compare",
    "nd.search_devices": "search",
    "workflows.run.run_all": "run",
    "workflows.table.check": "table check",
    "workflows.evaluate.evaluate": "evaluate",
    "workflows.searches.results": "search list",
    "workflows.models.predict": "predict",
}
"""The command for each function of the library that messages name."""

_NAMED = re.compile(
    r"`(?:(?P<function>(?:nd|workflows)\.[a-z_.]+)\((?P<arguments>[^`]*)\)|(?P<argument>[a-z_.]+(?:=[^`]+)?))`"
)


def typed(message: object) -> str:
    """Return a message in which what the library names between backticks is what a user types."""
    return _NAMED.sub(_as_typed, str(message))


def _as_typed(found: "re.Match[str]") -> str:
    if found["function"] is None:
        return _option(found["argument"]) or found[0]
    if found["function"] not in COMMANDS:
        return found[0]
    words = [_option(each) or each for each in found["arguments"].split(", ") if each]
    command = " ".join(["nasdeploy", COMMANDS[found["function"]], *words])
    # After these words stands what to type, and nothing else.
    return command if found.string[: found.start()].endswith("with: ") else f"'{command}'"


def _option(argument: str) -> str | None:
    """Return the option for an argument, with its value if it has one; None if there is none of that name."""
    name, _, value = argument.partition("=")
    if "." in name and value:
        return f"--set {argument}"
    option = OPTIONS.get(name)
    return option if option is None or value in ("", "True") else f"{option} {value}"
