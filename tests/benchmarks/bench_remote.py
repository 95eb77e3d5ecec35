"""What measuring over SSH costs and survives, on this machine: a real SSH server on the loopback interface.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_remote [timing|losses] [--space alphanet] [--trials 10]

`timing`: the same blocks here and over SSH in turn; ratios of medians and of undisturbed calls, and what the transport
adds to the time.
Needs a quiet machine. `losses`: a small table, with a kill, a cut, or a full disk at a random moment; what is whole
afterwards.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nasdeploy.core.progress import Progress
from nasdeploy.core.settings import parse
from nasdeploy.latency.campaign import Journal
from nasdeploy.latency.profile import block_models, profile
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing, corrected, usual_reference
from nasdeploy.latency.runners.open_runner import open_runner
from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes.device import Device
from nasdeploy.spaces import load_space
from nasdeploy.spaces.mobilenet import MobileNetTable
from tests.latency.runners.sshd import Sshd

LOCAL = Device(name="here", runtime="onnxruntime")
SMALL = parse(
    MobileNetTable,
    {
        "name": "small",
        "resolution": [8, 12],
        "stem": {"width": [8], "stride": 1},
        "stages": [{"width": [8], "depth": [1, 2], "kernel": [3, 5], "expand": [2], "stride": 2}],
        "head": {"width": [32], "expand": 2},
    },
    "table",
).build(10)
# No retries: what drifts would be measured, and rightly be in the journal, twice.
QUICK = MeasurementProtocol(
    Rounds(4, 2),
    Rounds(4, 2),
    warmup=1,
    kept=2,
    shortest_group_s=0,
    retries=0,
    calibration_networks=3,
    held_out_networks=5,
)


@contextmanager
def server() -> Iterator[Sshd]:
    """An SSH server, and its user's home as this process's."""
    with TemporaryDirectory() as folder:
        running = Sshd(Path(folder) / "sshd")
        os.environ["HOME"] = str(running.folder / "home")
        os.environ.pop("SSH_AUTH_SOCK", None)
        running.start()
        try:
            yield running
        finally:
            running.stop()


def board(running: Sshd) -> Device:
    """The device over SSH."""
    return LOCAL.model_copy(update={"host": running.url, "python": sys.executable})


# -- timing


def report_timing(name: str, blocks: int, rounds: int) -> None:
    """Measure blocks of a space here and over SSH, in turn."""
    space = load_space(name, 10)
    chosen = dict(list(space.distinct_blocks().items())[:blocks])
    models = block_models(chosen, LOCAL)
    found: dict[str, list[dict[str, Timing]]] = {"here": [], "ssh": []}
    seconds: dict[str, list[float]] = {"here": [], "ssh": []}
    with server() as running:
        for number in range(rounds):
            order = [("here", LOCAL), ("ssh", board(running))]
            for where, device in order if number % 2 == 0 else order[::-1]:
                start = time.perf_counter()
                found[where].append(timings_of(device, models))
                seconds[where].append(time.perf_counter() - start)
    print(f"{len(models)} blocks of {name}, {rounds} times each way")
    for statistic in ("median", "undisturbed"):
        # [rounds, blocks]
        here, ssh = (
            np.array([[getattr(timing, statistic) for timing in run.values()] for run in found[where]])
            for where in ("here", "ssh")
        )
        ratios = np.median(ssh, axis=0) / np.median(here, axis=0)
        print(
            f"{statistic} over SSH / here: median {np.median(ratios):.4f}, mean {ratios.mean():.4f}, p5 and p95 ",
            end="",
        )
        print(*(f"{value:.3f}" for value in np.percentile(ratios, [5, 95])))
        print(f"the same between the last and the first time here: median {np.median(here[-1] / here[0]):.4f}")
    local, remote = (float(np.median(seconds[where])) for where in ("here", "ssh"))
    print(f"time: here {local:.1f} s, over SSH {remote:.1f} s, {100 * (remote / local - 1):+.1f} %")


def timings_of(device: Device, models: Mapping[str, Callable[[], bytes]]) -> dict[str, Timing]:
    """Timings by block, in their order, connection and all."""
    protocol = MeasurementProtocol()
    with open_runner(device) as runner:
        outcomes = [*runner.measure(models, protocol.blocks, protocol, on_visits=lambda visits: None)]
    timings = {key: outcome for some in outcomes for key, outcome in some.items() if isinstance(outcome, Timing)}
    return {key: timings[key] for key in models}


# -- losses


def measure_small(path: Path, device: Device) -> None:
    """Measure the small table, in a process of its own; the journal stays beside it, for looking at."""
    remove = Journal.remove

    def kept(journal: Journal) -> None:
        os.link(journal._path, path.with_suffix(".kept"))
        remove(journal)

    Journal.remove = kept  # type: ignore[method-assign]
    profile(SMALL, device, path, Progress(), protocol=QUICK)


def process(path: Path, device: Device) -> "subprocess.Popen[str]":
    """`measure_small` in another process."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_remote", "small", "--path", str(path)]
    return subprocess.Popen([*command, "--device", device.model_dump_json()], stderr=subprocess.PIPE, text=True)


def lines_in(path: Path) -> list[dict[str, object]]:
    """Whole lines of a journal."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def at_random_moment(path: Path, running: "subprocess.Popen[str]", draw: random.Random) -> None:
    """Wait until some of the journal is written, and a little longer."""
    journal, wanted = path.with_name(f"{path.stem}.journal.jsonl"), draw.randint(1, 4)
    while len(lines_in(journal)) < wanted and running.poll() is None:
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 0.3))


Entry = tuple[str, str, Timing]
"""Kind, key and timing."""


def entries(lines: list[dict[str, object]]) -> list[Entry]:
    """All that a journal holds."""
    found = []
    for line in lines:
        for kind in ("blocks", "networks"):
            group = line.get(kind, {})
            assert isinstance(group, dict)
            found += [(kind, key, Timing(**timing)) for key, timing in group.items()]
    return found


def is_whole(path: Path, before: list[Entry]) -> bool:
    """Whether the table has every entry, the journal each once, and what was known `before` in both."""
    table = LatencyTable.load(path)
    journal = entries(lines_in(path.with_suffix(".kept")))
    keys = [(kind, key) for kind, key, _ in journal]
    complete = table.entries.keys() == SMALL.distinct_blocks().keys() and len(table.networks) == 8
    once = len(keys) == len(set(keys)) == len(table.entries) + 8
    kept = set(before) <= set(journal)
    usual = usual_reference(timing for _, _, timing in journal)
    used = all(
        isclose(table.entries[key].median, corrected(timing, usual, table.steadied).median)
        for kind, key, timing in journal
        if kind == "blocks"
    )
    return complete and once and kept and used


def killed_here(path: Path, running: Sshd, draw: random.Random) -> bool:
    """This side is killed (-9) and the same command is given again."""
    first = process(path, board(running))
    at_random_moment(path, first, draw)
    first.kill()
    first.communicate()
    before = entries(lines_in(path.with_name(f"{path.stem}.journal.jsonl")))
    second = process(path, board(running))
    second.communicate()
    return second.returncode == 0 and is_whole(path, before)


def killed_there(victims: Callable[[Sshd], list[int]], path: Path, running: Sshd, draw: random.Random) -> bool:
    """Something on the board is killed (-9); this side goes on by itself."""
    only = process(path, board(running))
    at_random_moment(path, only, draw)
    before = entries(lines_in(path.with_name(f"{path.stem}.journal.jsonl")))
    for pid in victims(running):
        # The end of one may be the end of the next.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, said = only.communicate()
    return only.returncode == 0 and "trying again" in said and is_whole(path, before)


def disk_full(path: Path, running: Sshd, draw: random.Random) -> bool:
    """The disk with the table is full after some lines; there is space again, and the same command is given again."""
    path.parent.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", path.parent], check=True)
    try:
        filler = path.parent / "filler"
        filler.write_bytes(b"x" * 4096 * draw.randint(13, 14))
        first = process(path, board(running))
        _, said = first.communicate()
        refused = first.returncode == 2 and "disk full" in said
        before = entries(lines_in(path.with_name(f"{path.stem}.journal.jsonl")))
        filler.unlink()
        second = process(path, board(running))
        second.communicate()
        return refused and second.returncode == 0 and is_whole(path, before)
    finally:
        subprocess.run(["umount", path.parent], check=True)


def sessions(running: Sshd) -> list[int]:
    """The server's processes for its connections."""
    return [pid for pid in running.descendants() if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def report_losses(trials: int, seed: int) -> None:
    """Print how many of the trials of each kind ended in a whole table, and nothing left on the board."""
    kinds: dict[str, Callable[[Path, Sshd, random.Random], bool]] = {
        "killed here": killed_here,
        "program on the board killed": partial(killed_there, Sshd.programs),
        "connection cut (sshd's child killed)": partial(killed_there, sessions),
        "disk full": disk_full,
    }
    draw = random.Random(seed)
    with server() as running:
        for name, kind in kinds.items():
            whole = clean = 0
            for number in range(trials):
                path = running.folder / "tables" / f"{name.split()[0]}{number}" / "table.json"
                whole += kind(path, running, draw)
                clean += is_clean(running)
            print(f"{name}: {whole} of {trials} resumed whole, nothing left on the board in {clean}", flush=True)


def is_clean(running: Sshd) -> bool:
    """Whether the board is as before, within the seconds that a killed connection may take."""
    end = time.monotonic() + 10
    while running.programs() or list(running.tmp.iterdir()):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def main() -> None:
    """Report what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["timing", "losses", "small"])
    parser.add_argument("--space", default="alphanet")
    parser.add_argument("--blocks", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--device", type=Device.model_validate_json)
    arguments = parser.parse_args()
    if arguments.what == "small":
        try:
            measure_small(arguments.path, arguments.device)
        except Exception as error:
            print(error, file=sys.stderr)
            raise SystemExit(getattr(error, "exit_code", 1)) from error
        return
    if arguments.what in (None, "losses"):
        report_losses(arguments.trials, arguments.seed)
    if arguments.what in (None, "timing"):
        report_timing(arguments.space, arguments.blocks, arguments.rounds)


if __name__ == "__main__":
    main()
