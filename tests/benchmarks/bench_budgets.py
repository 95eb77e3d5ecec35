"""Does a budget hold? Searches for budgets spread over the range, each winner measured again by a process of its own.

python tests/benchmarks/bench_budgets.py [RECIPE] [--budgets 10] [--in DIR] [--set KEY=VALUE ...]

In DIR (by default a new one, which is removed) the recipe is trained and profiled unless that was done there before.
Each winner is exported, and the file's median is held against the budget, at most 1.02 times as much: as it was
measured, and as it would be on a machine as quiet as when it was profiled.
"""

import json
import subprocess
import sys
from argparse import ArgumentParser
from math import nan
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

from nasdeploy.core.errors import InfeasibleBudget

ALLOWED = 1.02
FIRST, LAST = 5.0, 95.0
"""Per cent of the reachable range."""


def nasdeploy(directory: Path, *arguments: str) -> Any:
    """What a command prints as JSON."""
    command = [Path(sys.executable).with_name("nasdeploy"), *arguments, "--json", "--quiet"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode == InfeasibleBudget.exit_code:
        raise InfeasibleBudget(done.stderr.strip())
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def prepared(directory: Path, recipe: str, changes: list[str]) -> None:
    """Train and profile what is not there."""
    if not (directory / "runs").exists():
        nasdeploy(directory, "train", recipe, *changes)
    if not list(directory.glob("profiles/tables/*.json")):
        nasdeploy(directory, "profile")


def found(directory: Path, part: float, changes: list[str]) -> dict[str, float]:
    """Figures of the winner within `part` per cent of the range."""
    result = nasdeploy(directory, "search", "--latency", f"{part}%", *changes)
    exported = nasdeploy(directory, "export", "--out", f"exported/{part}")
    latency, proved = result["winner"]["latency"]["cpu"], exported["artefacts"][0]["proof"]["latency"]
    return {
        "budget": result["budget"]["latency"]["cpu"]["median_ms"][1],
        "predicted": latency["predicted_ms"],
        "measured": latency["measured_ms"],
        "again": proved["median_ms"],
        "usual": proved["usual_ms"],
        "top1": result["winner"]["top1"],
        "rounds": result["rounds"],
        "tau": result["latency_fidelity"]["cpu"]["tau"] or float("nan"),
    }


def main() -> None:
    """Search for every budget and print a line for each."""
    parser = ArgumentParser()
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("--budgets", type=int, default=10)
    parser.add_argument("--in", dest="directory", type=Path)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    given = parser.parse_args()
    changes = [part for setting in given.settings for part in ("--set", setting)]
    with TemporaryDirectory() as temporary:
        directory = given.directory or Path(temporary)
        prepared(directory, given.recipe, [])
        rows = []
        print("part  budget ms  predicted  measured  again: median  part  quiet  part  top-1 in %  rounds  tau")
        for n in range(given.budgets):
            part = FIRST + (LAST - FIRST) * n / max(given.budgets - 1, 1)
            try:
                row = found(directory, part, changes)
            except InfeasibleBudget as error:
                print(f"{part:4.0f} % not met: {error}", flush=True)
                continue
            rows.append(row)
            print(
                f"{part:4.0f} %{row['budget']:9.4f}{row['predicted']:11.4f}{row['measured']:10.4f}{row['again']:15.4f}"
                f"{row['again'] / row['budget']:6.2f}{row['usual']:7.4f}{row['usual'] / row['budget']:6.2f}"
                f"{100 * row['top1']:12.2f}{row['rounds']:8}{row['tau']:6.2f}",
                flush=True,
            )
    for name, kind in (("median", "again"), ("as quiet as when profiled", "usual")):
        held = sum(row[kind] <= ALLOWED * row["budget"] for row in rows)
        errors = [nan] if not rows else [abs(row["predicted"] / row[kind] - 1) for row in rows]
        print(
            f"measured again, {name}: within {ALLOWED} of the budget {held} of {given.budgets}; predictions are off by "
        )
        print(f"{100 * fmean(errors):.1f} % in the mean, by {100 * median(errors):.1f} % in the median")


if __name__ == "__main__":
    main()
