"""The costs of a network that a search reports and may bound, by name. Torch-free.

A new cost is one entry of `COSTS`: budgets, the columns of a search, its report, its result as JSON, its forecast and
the options of the command line derive from the entries. `nasdeploy.core.costs` scores many networks at once. Nothing is
imported here: the command line's help has to be there at once.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nasdeploy.core.plan import Block, Part, Plan
    from nasdeploy.core.space import Slot

SlotCost = Callable[["Slot", "Block"], float]
"""What the block in a slot costs."""
WidthCost = Callable[[int], SlotCost]
"""The cost of a slot's block in networks whose numbers take so many bytes."""


@dataclass(frozen=True)
class Cost:
    """One cost of a network, and how that of a network comes from those of its blocks.

    One with `of_block` and `add` is the sum over slots; with `of_block` and not `add` it is the largest of them, in a
    network that is a chain, and that of `of_plan` in any other. One without `of_block` is a device's: its latency table
    says what a block costs there.
    """

    title: str
    """The name in sentences, such as `file size`."""
    label: str
    """The unit and the name in headings, such as `MB file`."""
    unit: str
    scale: float
    """The factor from the cost's own unit (operations, bytes, seconds) to `unit`."""
    key: str
    """The name in JSON, whose values are in `unit`; with dashes for underscores that of the option that bounds it."""
    help: str
    """The option's help text."""
    of_block: WidthCost | None = None
    add: bool = True
    of_plan: Callable[["Plan", int], float] | None = None
    """The cost of any plan, in numbers of so many bytes."""

    @property
    def of_device(self) -> bool:
        """Whether a network has one on each device rather than one."""
        return self.of_block is None

    @property
    def is_count(self) -> bool:
        """Whether it counts something, which JSON holds as a whole number."""
        return self.unit == "M"

    def text(self, value: float) -> str:
        """Return a value in `unit`, such as `2.5 ms`."""
        return f"{self.scale * value:.4g} {self.unit}"


def macs(slot: "Slot", block: "Block") -> float:
    """Return the multiply-accumulate operations of a slot's block for one sample."""
    return float(slot.part.runs * block.macs)


def params(slot: "Slot", block: "Block") -> float:
    """Return the parameters of a slot's block, which count where the slot has weights of its own."""
    return 0.0 if slot.shares else float(block.params)


def live_elements(plan: "Plan") -> int:
    """Return the most elements of activations that exist at once: the maximum over the steps s of each part of
    `live(block of s) + sum of the sizes of the other tensors that were made before s and are needed after it`.

    `live` is the block's own (its inputs, its output, and the largest that it holds inside). Batch 1; weights are not
    counted, and neither is what a runtime needs to run at all.
    """
    return max(_live_elements(part) for part in plan.parts)


def _live_elements(part: "Part") -> int:
    sizes = {name: tensor.elements for name, tensor in part.inputs}
    sizes |= {step.name: step.block.output.elements for step in part}
    needed = {name: len(part.steps) for name in part.outputs}
    for place, step in enumerate(part):
        for name in step.takes:
            needed[name] = max(needed.get(name, place), place)
    made = [name for name, _ in part.inputs]
    most = 0
    for place, step in enumerate(part):
        waiting = [name for name in made if needed.get(name, -1) > place and name not in step.takes]
        most = max(most, step.block.live + sum(sizes[name] for name in waiting))
        made.append(step.name)
    return most


_FILE_PER_BLOCK = 2900
"""The bytes of about eleven nodes of a model file, 262 each with their names."""


def _file_bytes(width: int) -> SlotCost:
    """Return what a block adds to a model file: its parameters, and what the file says of its nodes.

    ONNX files in fp32 turned out smaller than that, by 5 % (0.1 MB) to 0.1 % (94 MB), because normalisation is folded
    into the convolutions.
    """
    return lambda slot, block: width * params(slot, block) + _FILE_PER_BLOCK


COSTS: Mapping[str, Cost] = {
    "latency": Cost(
        title="latency",
        label="ms",
        unit="ms",
        scale=1e3,
        key="latency_ms",
        help="Latency budget in milliseconds, e.g. 5; several for several devices, e.g. cpu=5.",
    ),
    "latency_p95": Cost(
        title="latency in 95 % of calls",
        label="ms (p95)",
        unit="ms in 95 % of calls",
        scale=1e3,
        key="latency_p95_ms",
        help="The same for the 95th percentile of calls.",
    ),
    "macs": Cost(
        title="MACs",
        label="M MACs",
        unit="M",
        scale=1e-6,
        key="macs_m",
        help="At most so many million MACs, or a range: 100..200.",
        of_block=lambda width: macs,
    ),
    "params": Cost(
        title="parameters",
        label="M parameters",
        unit="M",
        scale=1e-6,
        key="params_m",
        help="At most so many million parameters, or a range.",
        of_block=lambda width: params,
    ),
    "size": Cost(
        title="file size",
        label="MB file",
        unit="MB",
        scale=1e-6,
        key="size_mb",
        help="Megabytes of the exported file, or a range.",
        of_block=_file_bytes,
    ),
    "memory": Cost(
        title="peak activation memory",
        label="MB activations",
        unit="MB",
        scale=1e-6,
        key="memory_mb",
        help="Megabytes of activations at once, or a range.",
        of_block=lambda width: lambda slot, block: float(width * block.live),
        add=False,
        of_plan=lambda plan, width: float(width * live_elements(plan)),
    ),
    "weights": Cost(
        title="weights",
        label="MB weights",
        unit="MB",
        scale=1e-6,
        key="weights_mb",
        help="Megabytes of the parameters alone, or a range.",
        of_block=lambda width: lambda slot, block: width * params(slot, block),
    ),
}
"""The costs by the names that they have in budgets; the columns of a search are in this order."""

NETWORK_COSTS: Mapping[str, Cost] = {name: cost for name, cost in COSTS.items() if not cost.of_device}
"""The costs that a network has whatever the device."""


def on_device(name: str, device: str) -> str:
    """Return the name in a budget of a device's cost, such as `latency on cpu`."""
    return f"{name} on {device}"


def split_name(name: str) -> tuple[str, str | None]:
    """Return the cost and the device that a name in a budget stands for; None for a cost of the network alone."""
    cost, on, device = name.partition(" on ")
    return cost, device if on else None


def front_axis(bounded: Collection[str]) -> str:
    """Return the network's cost that a Pareto front is drawn over: the first sum that is bounded, else MACs."""
    return next((name for name, cost in NETWORK_COSTS.items() if cost.add and name in bounded), "macs")
