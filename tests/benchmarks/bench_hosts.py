"""One of two hosts of a training run is killed at a random moment and started again: does it end, what is repeated?

    sudo python tests/benchmarks/bench_hosts.py

The hosts are network namespaces on a bridge, each with a torchrun of its own that meet by elastic rendezvous; the
rendezvous' store is on a third host (this one), so that either of them may die. They share the run directory. Needs
root and iproute2.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep, time_ns

import torch
import yaml

from tests.training.recipes import CONTENT

ROOT = Path(__file__).parents[2]
IP = "/usr/sbin/ip"
PORT = 29400
PATIENCE_S = 300.0
STEP_S = 0.1
"""Least duration of a step, so that a kill finds some."""


def ip(*arguments: str) -> str:
    """What iproute2 answers; raises `CalledProcessError` with its message."""
    return subprocess.run([IP, *arguments], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Network:
    """A bridge with addresses 10.213.7.x, and the namespaces on it."""

    bridge: str = f"nas{os.getpid()}"
    address: str = "10.213.7.1"

    @contextmanager
    def up(self) -> Iterator["Network"]:
        """The bridge, removed in the end."""
        ip("link", "add", self.bridge, "type", "bridge")
        try:
            ip("address", "add", f"{self.address}/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
            yield self
        finally:
            ip("link", "delete", self.bridge)

    @contextmanager
    def host(self, number: int) -> Iterator["Host"]:
        """A namespace on the bridge, removed in the end with all of its processes."""
        host = Host(f"{self.bridge}-{number}", f"10.213.7.{number + 1}")
        outside, inside = f"{self.bridge}v{number}", "eth0"
        ip("netns", "add", host.name)
        # Mounted over /etc in there: names are looked up in a file only, there is nobody to ask.
        settings = Path("/etc/netns") / host.name
        try:
            settings.mkdir(parents=True)
            (settings / "nsswitch.conf").write_text("hosts: files\n")
            ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", host.name)
            ip("link", "set", outside, "master", self.bridge, "up")
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", inside)
            ip("-n", host.name, "link", "set", inside, "up")
            ip("-n", host.name, "link", "set", "lo", "up")
            yield host
        finally:
            host.kill()
            ip("netns", "delete", host.name)
            shutil.rmtree(settings, ignore_errors=True)


@dataclass
class Host:
    """A network namespace with a launcher in it."""

    name: str
    address: str
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self, directory: Path, endpoint: str, restarts: int) -> None:
        """Begin to train in a directory that all hosts share, or go on there."""
        launcher = [
            str(Path(sys.executable).with_name("torchrun")),
            *("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", str(restarts)),
            *("--rdzv-backend", "c10d", "--rdzv-id", directory.name, "--rdzv-endpoint", endpoint),
            *("--rdzv-conf", "is_host=0", "--local-addr", self.address),
        ]
        with (directory / f"{self.address}.txt").open("ab") as said:
            self.process = subprocess.Popen(
                [IP, "netns", "exec", self.name, *launcher, __file__, "--work", str(directory)],
                cwd=directory,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": str(ROOT),
                    "GLOO_SOCKET_IFNAME": "eth0",
                    # PyTorch's launcher would keep one store for all rounds of the rendezvous, and a host that comes
                    # back is never told where it is (seen in 2.14).
                    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
                },
                stdout=said,
                stderr=said,
            )

    def kill(self) -> None:
        """End all processes of the host at once, as a power cut does, but for what the network hears of it."""
        while pids := ip("netns", "pids", self.name).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if self.process is not None:
                self.process.wait()
            sleep(0.01)


@contextmanager
def store(network: Network) -> Iterator[str]:
    """The endpoint of a rendezvous store in a process of its own."""
    script = (
        "import sys, time, torch.distributed as dist\n"
        "store = dist.TCPStore(sys.argv[1], int(sys.argv[2]), None, True, wait_for_workers=False)\n"
        "print('ready', flush=True)\n"
        "time.sleep(86400)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, network.address, str(PORT)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield f"{network.address}:{PORT}"
    finally:
        process.kill()
        process.wait()


def work(directory: Path) -> None:
    """Train as `nasdeploy train` does, and write down every step that is finished."""
    from nasdeploy.cli.main import main
    from nasdeploy.tasks.task import Batch
    from nasdeploy.training.loop import TrainingLoop

    log = directory / "steps" / f"{time_ns()}-{os.environ['RANK']}-{os.getpid()}"
    step = TrainingLoop.step

    def logged(self: TrainingLoop, batch: Batch) -> bool:
        stop, position = step(self, batch), self.state.position
        with log.open("a") as file:
            file.write(f"{position.epoch * self.trainer.steps_per_epoch + position.step}\n")
        sleep(STEP_S)
        return stop

    TrainingLoop.step = logged  # type: ignore[method-assign]
    sys.argv = ["nasdeploy", "train", "tiny.yaml"]
    main()


def attempts(directory: Path) -> list[list[int]]:
    """Steps that each first process finished, in the order in which the processes were started."""
    logs = sorted((directory / "steps").glob("*-0-*"), key=lambda path: int(path.name.split("-")[0]))
    return [[int(line) for line in log.read_text().split()] for log in logs]


def prepare(directory: Path, epochs: int, every: int) -> None:
    """A recipe with a checkpoint every so many steps."""
    (directory / "steps").mkdir(parents=True)
    train = {**CONTENT["train"], "epochs": epochs, "batch_size": 24, "checkpoint_steps": every}
    data = {**CONTENT["data"], "images_per_class": 48}
    (directory / "tiny.yaml").write_text(yaml.safe_dump({**CONTENT, "data": data, "train": train}))


def disturbed(hosts: list[Host], directory: Path, endpoint: str, kills: int, rng: random.Random) -> None:
    """Train to the end, killing hosts one after the other; raises AssertionError if it does not come to the end."""
    for host in hosts:
        host.start(directory, endpoint, kills)
    for kill in range(kills):
        wait(hosts, partial(_trains, directory, kill + 1), directory)
        sleep(rng.uniform(0.0, 3.0))
        host = rng.choice(hosts)
        host.kill()
        print(f"kill {kill + 1}: {host.address} after {reached(directory)} steps", flush=True)
        sleep(rng.uniform(0.0, 3.0))
        host.start(directory, endpoint, kills)
    wait(hosts, lambda: all(host.process is not None and host.process.poll() == 0 for host in hosts), directory)


def _trains(directory: Path, attempt: int) -> bool:
    """Whether that many attempts have finished a step."""
    return sum(map(bool, attempts(directory))) >= attempt


def wait(hosts: list[Host], until: Callable[[], bool], directory: Path) -> None:
    """Go on when that is so; raises AssertionError if a launcher has failed, or it takes too long."""
    deadline = monotonic() + PATIENCE_S
    while not until():
        failed = [host for host in hosts if host.process is not None and host.process.poll()]
        assert not failed, f"{failed[0].address}:\n" + (directory / f"{failed[0].address}.txt").read_text()
        assert monotonic() < deadline, "too long:\n" + "\n".join(
            (directory / f"{host.address}.txt").read_text() for host in hosts
        )
        sleep(0.05)


def reached(directory: Path) -> int:
    """Steps of the run that were finished, the repeated ones once."""
    return max(map(max, filter(None, attempts(directory)))) + 1


def repeated(directory: Path) -> list[int]:
    """How many finished steps were done again after each restart."""
    found, done = [], -1
    for steps in filter(None, attempts(directory)):
        if done >= 0:
            found.append(done + 1 - steps[0])
        done = max(done, *steps)
    return found


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """After the last epoch."""
    last = max((directory / "runs/tiny/checkpoints").glob("epoch-??????.pt"))
    found: dict[str, torch.Tensor] = torch.load(last, weights_only=True)["weights"]
    return found


def main() -> int:
    """Train calmly, then with kills, and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.work)
        return 0
    # Asked to stop, it takes the hosts down too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        network = stack.enter_context(Network().up())
        hosts = [stack.enter_context(network.host(number)) for number in (1, 2)]
        endpoint = stack.enter_context(store(network))
        for name, kills in (("calm", 0), ("killed", given.kills)):
            directory = Path(temporary) / name
            prepare(directory, given.epochs, given.every)
            began = monotonic()
            disturbed(hosts, directory, endpoint, kills, random.Random(given.seed))
            print(
                f"{name}: {max(map(max, filter(None, attempts(directory)))) + 1} steps in {monotonic() - began:.0f} s"
            )
        finished = json.loads((directory / "runs/tiny/manifest.json").read_text())["finished"]
        again = repeated(directory)
        calm, killed = (weights(Path(temporary) / name) for name in ("calm", "killed"))
    same = all(torch.equal(calm[name], killed[name]) for name in calm)
    print(f"training ended: {'train' in finished}; steps repeated at each restart: {again}, allowed {given.every}")
    print(f"weights equal those of the undisturbed run bit for bit: {same}")
    return 0 if "train" in finished and max(again, default=0) <= given.every and same else 1


if __name__ == "__main__":
    raise SystemExit(main())
