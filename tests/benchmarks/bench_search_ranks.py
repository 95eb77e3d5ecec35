"""A search by one process and by two with one thread each: the same evaluations, and how much faster.

    python tests/benchmarks/bench_search_ranks.py

Times are from the beginning of the first evaluation to the end of the last, start-up left out. Two cores of one machine
are rarely twice one, so it is also told what two searches that have nothing to do with each other reach together.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.searches import ENVIRONMENT, NASDEPLOY, SearchCommand

TORCHRUN = (
    str(Path(sys.executable).with_name("torchrun")),
    # What follows -- is not torchrun's: it would take --run for an abbreviation of an option of its own.
    *("--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--"),
)


def digits(directory: Path) -> Path:
    """A digits run that learned for one epoch."""
    command = [NASDEPLOY, "train", "digits", "--set", "train.epochs=1", "--set", "train.warmup_epochs=0"]
    command += ["--run", "digits", "--quiet"]
    subprocess.run(command, cwd=directory, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return directory / "digits"


def evaluations(command: SearchCommand) -> set[tuple[object, ...]]:
    """What was found of each architecture, but for the time that it took and the last digits of the loss."""
    return {(digest, top1, round(loss, 4), images) for digest, top1, loss, images, _ in command.kept()}


def main() -> int:
    """Print times and ratios; 1 if the evaluations differ."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parents", type=int, default=48)
    given = parser.parse_args()
    arguments = ("--macs-m", "1.5", "--set", f"search.parents={given.parents}", "--set", "search.rounds=3")
    with TemporaryDirectory() as name:
        directory = Path(name)
        origin = digits(directory)
        one, two, left, right = (
            SearchCommand.in_copy(origin, directory / kind, *arguments) for kind in ("one", "two", "left", "right")
        )
        one.finish()
        two.finish(*TORCHRUN)
        independent = [command.start() for command in (left, right)]
        if any(process.wait() for process in independent):
            return 1
        same = evaluations(one) == evaluations(two) and one.winner() == two.winner()
        repeated = sum(two.begun().values()) - len(two.kept())
        print(f"one process: {len(one.kept())} evaluations in {one.seconds():.1f} s")
        print(
            f"two processes: {len(two.kept())} in {two.seconds():.1f} s, {one.seconds() / two.seconds():.2f} times as "
            f"fast; {'the same' if same else 'OTHER'} evaluations and winner, {repeated} made twice"
        )
        together = 2 * one.seconds() / max(left.seconds(), right.seconds())
        print(f"two searches that have nothing to do with each other: {together:.2f} times as many in the same time")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
