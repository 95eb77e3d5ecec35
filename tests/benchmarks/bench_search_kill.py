"""`kill -9` at random moments of a search, each resumed by the same command: nothing lost or repeated, same winner.

    python tests/benchmarks/bench_search_kill.py

The budget is one of MACs, so that no latency is measured, which is never the same twice. An evaluation counts as lost
if the database had it when the process was killed and has it no more, or otherwise; as repeated if it was begun again.
"""

import argparse
import os
import random
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

from tests.benchmarks.searches import SearchCommand, trained


def killed(command: SearchCommand, moment: float, seconds_each: float) -> bool:
    """Kill it within the evaluation after so many; False if it had ended before."""
    process = command.start()
    while process.poll() is None and sum(command.begun().values()) <= int(moment):
        sleep(0.0005)
    sleep((moment % 1) * seconds_each)
    early = process.poll() is None
    if early:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return early and not (command.run / "search.json").exists()


def survived(directory: Path, kills: int, seed: int) -> int:
    """How many of some killed and resumed searches ended as the undisturbed one did; prints a line for each."""
    origin, moments = trained(directory), random.Random(seed)
    calm = SearchCommand.in_copy(origin, directory / "calm")
    calm.finish()
    expected, good = calm.kept(), 0
    seconds_each = calm.seconds() / len(expected)
    print(f"undisturbed: {len(expected)} evaluations, {1e3 * seconds_each:.1f} ms each, winner {calm.winner()}")
    for kill in range(kills):
        attempt = 0
        while True:
            command = SearchCommand.in_copy(origin, directory / f"kill-{kill}-{attempt}")
            moment = moments.uniform(0.0, len(expected))
            if killed(command, moment, seconds_each):
                break
            attempt += 1
        before = command.kept()
        command.finish()
        after = command.kept()
        lost = sum(row not in after for row in before)
        repeated = sum(command.begun()[row[0]] - 1 for row in before)
        same = [row[:-1] for row in after] == [row[:-1] for row in expected] and command.winner() == calm.winner()
        good += same and not lost and not repeated
        print(
            f"kill {kill + 1:2} in evaluation {moment:6.2f} of {len(expected)}, {len(before)} kept: {lost} lost, "
            f"{repeated} repeated, {'same' if same else 'OTHER'} evaluations and winner"
        )
    return good


def main() -> int:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with TemporaryDirectory() as directory:
        good = survived(Path(directory), given.kills, given.seed)
    print(f"{good} of {given.kills} ended as the undisturbed search, with nothing lost or repeated")
    return 0 if good == given.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
