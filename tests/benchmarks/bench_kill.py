"""`kill -9` at random moments of a training run, each resumed by the same command: all must end as the undisturbed run.

    python tests/benchmarks/bench_kill.py

Of every four kills one waits for the next half-written file. Checkpoints are written at every step.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import torch
import yaml

from nasdeploy.training.checkpoint import Checkpoints
from tests.forked import ForkedProcess, nasdeploy
from tests.training.recipes import CONTENT

MACHINE = ("images_per_s", "peak_memory_gib")
STEPS_PER_EPOCH = 4
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Command:
    """The same command in a directory of its own."""

    directory: Path
    epochs: int
    phased: bool = False
    """Whether its first half is a phase of the largest network alone, which teaches all of them in its second half."""

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.directory / "runs" / "tiny"

    def start(self) -> ForkedProcess:
        """A process of it, in a process group of its own."""
        self.directory.mkdir(parents=True, exist_ok=True)
        train = {**CONTENT["train"], "epochs": self.epochs, "checkpoint_steps": 1, "ema": 0.9}
        if self.phased:
            half = (self.epochs + 1) // 2
            taught = {"kind": "kl", "teacher": "original"}
            train["phases"] = [
                {"name": "original", "epochs": half, "sampling": {"kind": "largest"}},
                {
                    "name": "elastic",
                    "epochs": self.epochs - half,
                    "sort_channels": "activation",
                    "distillation": taught,
                },
            ]
        (self.directory / "tiny.yaml").write_text(yaml.safe_dump({**CONTENT, "train": train}))
        return nasdeploy("train", "tiny.yaml", "--quiet", cwd=self.directory)

    def finish(self) -> None:
        """Go on to the end; raises `CalledProcessError` if that fails."""
        process = self.start()
        if status := process.wait(PATIENCE_S):
            raise subprocess.CalledProcessError(status, process.args)

    def seconds(self) -> float:
        """Time from the manifest to the end of an undisturbed run."""
        process = self.start()
        self.wait(process, lambda: (self.run / "manifest.json").exists())
        began = monotonic()
        assert process.wait(PATIENCE_S) == 0
        return monotonic() - began

    def wait(self, process: ForkedProcess, until: Callable[[], bool]) -> None:
        """Go on when that is so, or the process has ended."""
        while process.poll() is None and not until():
            sleep(0.0005)

    def steps(self) -> int:
        """Steps in the newest checkpoint; -1 before there is a run."""
        files = Checkpoints(self.run / "checkpoints").all()
        epoch, step = ([int(number) for number in re.findall(r"\d+", files[-1].name)] + [0])[:2] if files else (0, 0)
        return epoch * STEPS_PER_EPOCH + step if (self.run / "manifest.json").exists() else -1

    def killed(self, steps: float, seconds_a_step: float, writing: bool) -> bool:
        """Kill it after a number of steps (and part of one), or at the next write from then; False if it had ended."""
        process = self.start()
        self.wait(process, lambda: self.steps() >= int(steps))
        sleep((steps % 1) * seconds_a_step)
        if writing:
            self.wait(process, lambda: any(self.run.glob("checkpoints/.*.partial/*")))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return not json.loads((self.run / "manifest.json").read_text())["finished"]

    def outcome(self) -> tuple[Any, Any, bytes, list[dict[str, Any]]]:
        """The last checkpoint, the best one, the weights handed on, and the metrics but for speed and memory."""
        files = (self.run / "checkpoints" / name for name in (f"epoch-{self.epochs:06d}.pt", "best.pt"))
        last, best = (torch.load(file, weights_only=True) for file in files)
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        handed_on = (self.run / "supernet.safetensors").read_bytes()
        return (
            last,
            best,
            handed_on,
            [{key: value for key, value in line.items() if key not in MACHINE} for line in lines],
        )


def same(a: Any, b: Any) -> bool:
    """Equality of nested containers, bit for bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def half_written(run: Path) -> int:
    """Files that a killed process left unfinished."""
    return sum(1 for _ in run.rglob(".*.partial"))


def survived(directory: Path, kills: int, epochs: int, seed: int, phased: bool = False) -> int:
    """How many of some killed and resumed runs ended as the undisturbed one did; prints a line for each."""
    calm, moments, steps = Command(directory / "calm", epochs, phased), random.Random(seed), epochs * STEPS_PER_EPOCH
    seconds, equal = calm.seconds(), 0
    print(f"undisturbed: {seconds:.1f} s")
    for kill in range(kills):
        attempt, moment = 0, moments.uniform(0.0, steps)
        while not (command := Command(directory / f"kill-{kill}-{attempt}", epochs, phased)).killed(
            moment, seconds / steps, writing=kill % 4 == 2
        ):
            attempt, moment = attempt + 1, moments.uniform(0.0, steps)
        left, reached = half_written(command.run), command.steps()
        command.finish()
        good = same(command.outcome(), calm.outcome()) and half_written(command.run) == 0
        equal += good
        print(
            f"kill {kill + 1:2} at step {moment:6.2f} of {steps}, newest checkpoint of step {reached}, {left} files "
            f"half-written: {'the same' if good else 'DIFFERENT'}"
        )
    return equal


def main() -> int:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phased", action="store_true")
    given = parser.parse_args()
    with TemporaryDirectory() as directory:
        equal = survived(Path(directory), given.kills, given.epochs, given.seed, given.phased)
    print(
        f"{equal} of {given.kills} ended as the undisturbed run: weights, optimizer, best.pt and metrics, bit for bit"
    )
    return 0 if equal == given.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
