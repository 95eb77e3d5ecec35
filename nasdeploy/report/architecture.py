"""Architectures as a report draws them, for a space of any kind: stages of blocks, and what each of them costs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

from nasdeploy.core.arch import Arch
from nasdeploy.core.plan import Block, Step
from nasdeploy.core.space import SearchSpace, Slot
from nasdeploy.latency.table import LatencyTable
from nasdeploy.spaces.mobilenet import Staged


@dataclass(frozen=True)
class DrawnBlock:
    """One block of a network."""

    name: str
    """The name of its slot, such as `stage2_block1`."""
    kind: str
    """The class of the block, such as `MBConv`."""
    key: str
    """The row in latency tables, which names every field of the block."""
    in_channels: int | None
    """The channels that it takes; None for what is no feature map."""
    out_channels: int | None
    """The channels that it gives, or the outputs of a head."""
    side: int | None
    """The side of the feature map that it gives, in pixels; None for what is no feature map."""
    stride: int | None
    """The factor by which the side shrinks; None for what is no feature map."""
    kernel_size: int | None
    """The largest kernel; None for a block without one."""
    expansion: float | None
    """The middle channels by the input's; None for a block without a middle."""
    macs: int
    """The multiply-accumulates for one sample."""
    params: int
    """The number of learned parameters."""
    latency_ms: Mapping[str, float]
    """The milliseconds that it adds to the predicted latency of the network, by device."""


@dataclass(frozen=True)
class DrawnStage:
    """Blocks of one stage, or what stands outside of stages: a stem, a head, or another part of the network."""

    name: str
    """`stem`, `stage 1` and so on, `head`; in other spaces the names of the slots."""
    blocks: tuple[DrawnBlock, ...]
    """The blocks in their order."""
    width: int | None
    """The channels that the stage gives."""
    kernel_sizes: tuple[int, ...]
    """The kernel sizes of the blocks that have one, in their order."""
    expansions: tuple[float, ...]
    """The expansions of the blocks that have one, in their order."""
    macs: int
    """The multiply-accumulates for one sample."""
    params: int
    """The number of learned parameters."""
    latency_ms: Mapping[str, float]
    """The milliseconds of all of its blocks by device."""
    share: Mapping[str, float]
    """The part of the blocks' latency, 0 to 1, by device."""

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self.blocks)


@dataclass(frozen=True)
class DrawnNetwork:
    """A network as a report draws it."""

    role: str
    """`smallest`, `chosen`, `largest` or `original`."""
    digest: str
    """The digest of the architecture."""
    arch: Mapping[str, Any]
    """The architecture as nested JSON."""
    names: tuple[str, ...]
    """The names that the space has for it, such as `a6`."""
    resolution: int | None
    """The side of its images in pixels; None for a network that takes no images."""
    macs: int
    """The multiply-accumulates for one sample."""
    params: int
    """The number of learned parameters."""
    predicted_ms: Mapping[str, float]
    """The predicted median in milliseconds by device."""
    offset_ms: Mapping[str, float]
    """The milliseconds of `predicted_ms` that are no block's, which may be negative, by device."""
    stages: tuple[DrawnStage, ...]
    """The stages from input to output."""


def drawn_network(role: str, arch: Arch, space: SearchSpace, tables: Mapping[str, LatencyTable]) -> DrawnNetwork:
    """Return the network of an architecture, with its latencies by each table."""
    plan = space.plan(arch)
    slots = {slot.name: slot for slot in space.slots}
    stages = tuple(
        _stage(name, [_block(step, slots[step.name], tables) for step in steps], tables)
        for name, steps in _grouped(space, plan.steps, slots)
    )
    totals = {name: sum(stage.latency_ms[name] for stage in stages) for name in tables}
    shape = plan.parts[0].inputs[0][1].shape
    return DrawnNetwork(
        role=role,
        digest=arch.digest,
        arch=arch.to_json(),
        names=tuple(name for name, named in space.named.items() if named == arch),
        resolution=shape[-1] if len(shape) == 3 else None,
        macs=plan.macs,
        params=plan.params,
        predicted_ms={name: totals[name] + 1e3 * table.calibration.offset for name, table in tables.items()},
        offset_ms={name: 1e3 * table.calibration.offset for name, table in tables.items()},
        stages=tuple(_with_shares(stage, totals) for stage in stages),
    )


def _grouped(
    space: SearchSpace, steps: Sequence[Step], slots: Mapping[str, Slot]
) -> Iterator[tuple[str, Sequence[Step]]]:
    """Yield the steps by stage, in their order; outside of stages each by itself."""

    def stage(step: Step) -> str:
        number = space.stage_of(slots[step.name]) if isinstance(space, Staged) else None
        return step.name if number is None else f"stage {number + 1}"

    for name, group in groupby(steps, key=stage):
        yield name, list(group)


def _block(step: Step, slot: Slot, tables: Mapping[str, LatencyTable]) -> DrawnBlock:
    block = step.block
    given, made = block.inputs[0].shape, block.output.shape
    is_map = len(given) == 3
    return DrawnBlock(
        name=step.name,
        kind=type(block).__name__,
        key=block.key,
        in_channels=given[0] if is_map else None,
        out_channels=made[0] if len(made) in (1, 3) else None,
        side=made[-1] if len(made) == 3 else None,
        stride=round(given[-1] / made[-1]) if is_map and len(made) == 3 else None,
        kernel_size=_kernel(block),
        expansion=_expansion(block),
        macs=slot.part.runs * block.macs,
        params=0 if slot.shares else block.params,
        latency_ms={name: 1e3 * table.calibrated_cost(slot, block) for name, table in tables.items()},
    )


def _kernel(block: Block) -> int | None:
    """Return the largest of the fields that are kernels; None without one."""
    sizes = [getattr(block, field.name) for field in fields(block) if "kernel" in field.name]
    return max((size for size in sizes if size), default=None)


def _expansion(block: Block) -> float | None:
    """Return the middle channels of a block by those of its input; None without a middle."""
    ratio = getattr(block, "expand_ratio", None)
    if isinstance(ratio, int):
        return float(ratio)
    middle, given = getattr(block, "mid_channels", None), block.inputs[0].shape
    return middle / given[0] if isinstance(middle, int) and given and given[0] else None


def _stage(name: str, blocks: Sequence[DrawnBlock], tables: Mapping[str, LatencyTable]) -> DrawnStage:
    return DrawnStage(
        name=name,
        blocks=tuple(blocks),
        width=blocks[-1].out_channels,
        kernel_sizes=tuple(block.kernel_size for block in blocks if block.kernel_size is not None),
        expansions=tuple(block.expansion for block in blocks if block.expansion is not None),
        macs=sum(block.macs for block in blocks),
        params=sum(block.params for block in blocks),
        latency_ms={device: sum(block.latency_ms[device] for block in blocks) for device in tables},
        share={},
    )


def _with_shares(stage: DrawnStage, totals: Mapping[str, float]) -> DrawnStage:
    share = {device: stage.latency_ms[device] / total if total > 0 else 0.0 for device, total in totals.items()}
    return replace(stage, share=share)
