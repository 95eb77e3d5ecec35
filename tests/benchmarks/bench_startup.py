"""How long the commands take that load no torch: `--help`, `space show`, `devices`, completion, and refused searches.

    python -m tests.benchmarks.bench_startup

Each is run as a whole process, in turn with `python -c pass`. The median of the runs counts, of the time that passes
and of the processor's time; the latter is also told as a multiple of what `python -c pass` takes, which a busy machine
changes little. Bytecode is written and used, as pip leaves it. The refused searches use a run and a latency table of
the `alphanet` space with 1000 classes, both made up here: only the time to answer matters.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from nasdeploy.core.randomness import generator
from nasdeploy.data.settings import DataSettings
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.runners.open_runner import fingerprint
from nasdeploy.latency.table import Conditions, LatencyTable, network_terms, table_path
from nasdeploy.recipe import Recipe
from nasdeploy.runtimes.device import load_device
from nasdeploy.spaces import load_space
from nasdeploy.store.run import Run

RUNS = 7
COMPLETION = {"_NASDEPLOY_COMPLETE": "complete_bash", "COMP_WORDS": "nasdeploy profile --device ", "COMP_CWORD": "3"}
COMMANDS = {
    "--help": ["--help"],
    "space show alphanet --arch a0": ["space", "show", "alphanet", "--arch", "a0"],
    "devices": ["devices"],
    "doctor": ["doctor"],
    "profile --device (completed)": [],
    "search --latency-ms 0.001 (refused)": ["search", "--latency-ms", "0.001"],
    "search --macs-m 1500.. --params-m 9.5 (refused, jointly)": ["search", "--macs-m", "1500..", "--params-m", "9.5"],
}


def prepare(directory: Path) -> None:
    """A finished run and a table whose entries are a nanosecond per 1000 MACs."""
    space, device = load_space("alphanet"), load_device("cpu")
    recipe = Recipe(name="bench", space="alphanet", data=DataSettings(kind="folder", path="images", size=224))
    run = Run.create(
        directory / "runs",
        "bench",
        recipe=recipe.to_json(),
        space=space.digest,
        classes=[str(number) for number in range(1000)],
        seed=0,
    )
    run.finish("train", {})

    def timing(macs: int) -> Timing:
        seconds = 1e-5 + macs * 1e-12
        return Timing(seconds, p10=seconds, p90=seconds, p95=seconds, n=1, at="2026-01-01T00:00:00+00:00")

    entries = {key: timing(block.macs) for key, block in space.distinct_blocks().items()}
    archs = [space.sample(generator(0, "bench", number)) for number in range(8)]
    networks = [network_terms(entries, space, a, "calibration", timing(space.plan(a).macs)) for a in archs]
    conditions = Conditions.of(space, device, fingerprint(device), MeasurementProtocol())
    table = LatencyTable.fitted(conditions, "made up", entries, networks)
    table.save(table_path(space, device, directory / "profiles/tables"))


def main() -> None:
    """Print the median times of each command, how it ends, and whether torch was imported."""
    script = str(Path(sys.executable).with_name("nasdeploy"))
    with TemporaryDirectory() as directory:
        prepare(Path(directory))
        for name, arguments in COMMANDS.items():
            variables = {} if arguments else COMPLETION
            runs = []
            timed([script, *arguments], directory, variables)
            for _ in range(RUNS):
                done, wall, processor = timed([script, *arguments], directory, variables)
                _, _, least = timed([sys.executable, "-c", "pass"], directory, {})
                runs.append((wall, processor, processor / least))
            wall, processor, ratio = (median(column) for column in zip(*runs, strict=True))
            print(
                f"{name:56} {wall:.2f} s, processor {processor:.2f} s ({ratio:.0f} times python -c pass), "
                f"exit {done.returncode}, torch imported: {torch_of(arguments, directory, variables)}"
            )
            if done.returncode:
                print(f"    {done.stderr.strip().splitlines()[-1]}")


def timed(
    command: Sequence[str], directory: str, variables: Mapping[str, str]
) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Return how a process ended, the seconds that it took, and those of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    passed, after = perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, passed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def torch_of(arguments: list[str], directory: str, variables: Mapping[str, str]) -> bool:
    """Whether the command imports torch."""
    code = (
        "import sys, json\nfrom nasdeploy.cli.main import main\n"
        f"sys.argv = ['nasdeploy', *{json.dumps(arguments)}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.strip().splitlines()[-1] == "True"


if __name__ == "__main__":
    main()
