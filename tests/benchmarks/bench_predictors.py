"""Which way of predicting a whole network's latency is best? All on the same networks held out.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_predictors FOLDER [--space digits] [--classes 10] [--device cpu]

Measures once, into FOLDER, and goes on there if it was stopped: the table (blocks and whole networks), the held-out
networks once more (what two measurements differ by is the least that any prediction can miss by), and with ONNX Runtime
its profile of networks that together hold every block several times. Compares from these files as often as it is
called. Needs a quiet machine while it measures.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import held_out_error
from nasdeploy.latency.profile import block_models, network_model, profile, reference_model
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.runners.open_runner import open_runner
from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.spaces import SPACES, load_space
from nasdeploy.store.files import write_text
from tests.benchmarks.predictors import Networks, methods

OCCURRENCES = 2
"""Of each key in the profiled networks."""
PROFILED_RUNS = 10
_MARK = "|"
_CANDIDATES = 20


STATISTICS = ("undisturbed", "median")
"""Of a timing's runs."""


def networks_of(table: LatencyTable, space: SearchSpace, role: str, statistic: str) -> tuple[Networks, Floats]:
    """Networks with a role, and their measured seconds `[n]`."""
    found = [network for network in table.networks if network.role == role]
    seconds = np.array([getattr(n.timing, statistic) for n in found])
    return Networks(space, [space.arch(n.arch) for n in found]), seconds


# -- measuring


def measure_again(table: LatencyTable, space: SearchSpace, progress: Progress) -> dict[str, dict[str, float]]:
    """Seconds of the held-out networks, by `Arch.text` and statistic, once more and corrected as the table is."""
    device, protocol = table.conditions.device, table.conditions.protocol
    archs = networks_of(table, space, "held-out", "median")[0].archs
    models = {arch.text: partial(network_model, space.plan(arch), device) for arch in archs}
    reference = partial(reference_model, space, device)
    found: dict[str, dict[str, float]] = {}
    with (
        open_runner(device, progress.say) as runner,
        progress.task("measuring held-out networks again, visits", len(models) * protocol.networks.visits) as task,
    ):
        measured = runner.measure(models, protocol.networks, protocol, reference=reference, on_visits=task.advance)
        for group in measured:
            for key, timing in group.items():
                assert isinstance(timing, Timing)
                steady = table.at_usual_speed(timing)
                found[key] = {statistic: getattr(steady, statistic) for statistic in STATISTICS}
    return {key: found[key] for key in models}


def covering(space: SearchSpace, occurrences: int = OCCURRENCES) -> list[Arch]:
    """Networks that hold every key at least so often: each holds one of the rarest, and more that are still missing."""
    rng = generator(0, "networks that hold every block")
    places = {
        block.key: (slot, values)
        for slot in space.slots
        for values in product(*(space.values_of[name] for name in slot.reads))
        if (block := space.block_at(slot, dict(zip(slot.reads, values, strict=True)))) is not None
    }
    times = dict.fromkeys(places, 0)
    chosen: list[Arch] = []
    while missing := {key for key, number in times.items() if number < occurrences}:
        slot, values = places[min(missing, key=lambda key: times[key])]
        forced = dict(zip(slot.reads, values, strict=True))
        candidates = [space.arch({**space.sample(rng), **forced}) for _ in range(_CANDIDATES)]
        chosen.append(max(candidates, key=lambda arch: len(missing.intersection(space.plan(arch).keys))))
        for key in space.plan(chosen[-1]).keys:
            times[key] += 1
    return chosen


def measure_steps(plan: Plan, device: Device, folder: Path) -> dict[str, float]:
    """Seconds of each step inside the whole network, by ONNX Runtime's profiler: the median of several runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = device.threads, 3
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    model = marked(plan, device)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
    for _ in range(PROFILED_RUNS + 1):
        session.run(None, feeds)
    file = Path(session.end_profiling())
    events = json.loads(file.read_text())
    file.unlink()
    # The first run is cold.
    return {step: median(times[1:]) for step, times in step_times(events, plan).items()}


def marked(plan: Plan, device: Device) -> bytes:
    """The network's model, in which names of nodes and of their outputs begin with that of their step.

    A step's nodes follow each other in the order of the plan, and they are as many as in the block's own model.
    """
    content = network_model(plan, device)
    assert isinstance(content, bytes)
    graph = (model := onnx.load_from_string(content)).graph
    steps = [step.name for step in plan.steps for _ in range(_nodes(step.block, device))]
    assert len(steps) == len(graph.node), f"{len(graph.node)} nodes, {len(steps)} in the blocks of {plan}"
    renamed = {
        output: f"{step}{_MARK}{output}"
        for step, node in zip(steps, graph.node, strict=True)
        for output in node.output
        if output not in {o.name for o in graph.output}
    }
    for step, node in zip(steps, graph.node, strict=True):
        node.name = f"{step}{_MARK}{node.name}"
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    marked_model: bytes = model.SerializeToString()
    return marked_model


_known_nodes: dict[str, int] = {}


def _nodes(block: Any, device: Device) -> int:
    if block.key not in _known_nodes:
        content = block_models({block.key: block}, device)[block.key]()
        assert isinstance(content, bytes)
        _known_nodes[block.key] = len(onnx.load_from_string(content).graph.node)
    return _known_nodes[block.key]


def step_times(events: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, list[float]]:
    """Seconds of each step in each run; what the runtime adds between steps counts for the step before."""
    names = {step.name for step in plan.steps}
    nodes = sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: e["ts"])
    runs = sorted(e["ts"] for e in events if e["name"] == "model_run")
    found = {name: [0.0] * len(runs) for name in names}
    for run, (start, end) in enumerate(zip(runs, [*runs[1:], float("inf")], strict=True)):
        current = plan.steps[0].name
        for event in nodes:
            if start <= event["ts"] < end and event["name"].endswith("_kernel_time"):
                step = event["name"].partition(_MARK)[0]
                current = step if step in names else current
                found[current][run] += 1e-6 * event["dur"]
    return found


def measure_in_context(space: SearchSpace, device: Device, folder: Path, progress: Progress) -> dict[str, float]:
    """Seconds by key: the mean over all places where the profiled networks hold it."""
    archs = covering(space)
    seconds: dict[str, list[float]] = {}
    with progress.task("profiling networks", len(archs)) as task:
        for arch in archs:
            plan = space.plan(arch)
            times = measure_steps(plan, device, folder)
            for step in plan.steps:
                seconds.setdefault(step.block.key, []).append(times[step.name])
            task.advance()
    return {key: sum(values) / len(values) for key, values in seconds.items()}


def kept(path: Path, measured: Any) -> dict[str, Any]:
    """What the file holds, measured now if there is none."""
    if not path.exists():
        write_text(path, json.dumps(measured(), indent=0))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# -- comparing


def compare(
    table: LatencyTable,
    again: Mapping[str, Mapping[str, float]],
    context: Mapping[str, float] | None,
    space: SearchSpace,
    statistic: str,
) -> None:
    """Print each method's error on the held-out networks' medians, or on their undisturbed seconds."""
    keys = list(space.distinct_blocks())
    isolated = np.array([getattr(table.entries[key], statistic) for key in keys])
    in_context = None if context is None else np.array([context[key] for key in keys])
    known, seconds = networks_of(table, space, "calibration", statistic)
    wanted, measured = networks_of(table, space, "held-out", statistic)
    print(f"{len(seconds)} networks for fitting, {len(measured)} held out, {table.noise or 'no'} noise, {statistic}")
    print(f"{'':46} mean  p95   fast  mid.  slow  Spearman Kendall")
    second = np.array([again[arch.text][statistic] for arch in wanted.archs])
    report("the same networks measured again", second, measured)
    share = 1.0 if statistic == "median" else 1 / table.median_ratio
    predicted = np.array([table.predict(space.plan(arch)).seconds for arch in wanted.archs])
    report("the table's prediction", share * predicted, measured)
    for name, method in methods(isolated, in_context).items():
        report(name, method(known, seconds, wanted), measured)


def report(name: str, predicted: Floats, measured: Floats) -> None:
    """Print one line."""
    error = held_out_error(predicted.tolist(), measured.tolist())
    if error is None:
        print(f"{name:44} too few networks")
        return
    numbers = [error.mean_absolute, error.p95, *error.mean_absolute_by_third]
    percent = " ".join(f"{100 * number:5.2f}" for number in numbers)
    print(f"{name:44} {percent}  {error.spearman:.4f}   {error.kendall:.4f}")


def main() -> None:
    """Measure what is missing, then compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--space", default="alphanet", choices=sorted(SPACES))
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", type=int, default=60, help="for fitting, and as many held out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space, device = load_space(arguments.space, arguments.classes), load_device(arguments.device)
    folder, progress = arguments.folder, Progress()
    folder.mkdir(parents=True, exist_ok=True)
    protocol = MeasurementProtocol(calibration_networks=arguments.networks, held_out_networks=arguments.networks)
    path = folder / "table.json"
    table = LatencyTable.load(path) if path.exists() else profile(space, device, path, progress, protocol=protocol)
    table.require_space(space)
    again = kept(folder / "again.json", partial(measure_again, table, space, progress))
    context = None
    if device.runtime == "onnxruntime":
        context = kept(folder / "context.json", partial(measure_in_context, space, device, folder, progress))
    print(f"steadied by the power {table.steadied:g}; p50/p10 {table.median_ratio:.3f}")
    for statistic in STATISTICS:
        compare(table, again, context, space, statistic)
    tails = [n.timing.p95 / (table.p95_ratio * n.timing.median) - 1 for n in table.networks if n.role == "held-out"]
    print(f"p95 by the median's ratio {table.p95_ratio:.3f}: mean absolute error {100 * np.abs(tails).mean():.2f} %")


if __name__ == "__main__":
    main()
