"""What a network takes of memory: bytes of its file, and of the activations that live at once. Torch-free."""

from collections.abc import Callable

import numpy as np

from nasdeploy.core.costs import Costs, Floats, SlotCost
from nasdeploy.core.plan import Block, Part, Plan
from nasdeploy.core.space import Codes, SearchSpace, Slot
from nasdeploy.runtimes.runtime import Precision

_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}


def size_cost(precision: Precision) -> SlotCost:
    """Bytes that a slot's block adds to a model file: its parameters, and what the file says of its nodes.

    4 bytes a parameter in fp32, 2 in fp16, 1 in int8, and `_FILE_PER_BLOCK` besides. ONNX files in fp32 turned out
    smaller than that, by 5 % (0.1 MB) to 0.1 % (94 MB), because normalisation is folded into the convolutions.
    """
    width = _BYTES[precision]

    def cost(slot: Slot, block: Block) -> float:
        return float(width * block.params + _FILE_PER_BLOCK)

    return cost


_FILE_PER_BLOCK = 2900
"""About eleven nodes of 262 bytes, with their names."""


def live_elements(plan: Plan) -> int:
    """Most elements of activations that exist at once: the maximum over the steps s of each part of
    `live(block of s) + sum of the sizes of the other tensors that were made before s and are needed after it`.

    `live` is the block's own (its inputs, its output, and the largest that it holds inside). Batch 1; weights are not
    counted, and neither is what a runtime needs to run at all.
    """
    return max(_live_elements(part) for part in plan.parts)


def _live_elements(part: Part) -> int:
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


def peak_memory(space: SearchSpace, precision: Precision) -> Callable[[Codes], Floats]:
    """Bytes of peak activation memory `[n]` of codes `[n, choices]`; see `live_elements`.

    In chains nothing waits, so that the peak is the largest over slots, which is looked up for many codes at once.
    """
    width = _BYTES[precision]
    if space.is_chain:
        largest = Costs(space, [live], np.maximum)
        return lambda codes: width * largest(codes)[:, 0]
    return lambda codes: np.array([float(width * live_elements(space.plan(arch))) for arch in space.decode(codes)])


def live(slot: Slot, block: Block) -> float:
    """Most elements of activations that exist at once while a slot's block computes."""
    return float(block.live)
