"""A space of 19,683 architectures with a made-up accuracy whose best architecture under any budget is known.

Accuracy is concave in MACs (their logarithm) plus an NK landscape (Kauffman and Weinberger 1989; Kauffman, The Origins
of Order, 1993) with K = 2: each choice adds a random number that depends on it and on two other choices.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product

import numpy as np

from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.costs import Floats
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.score import Score
from nasdeploy.core.space import Codes, SearchSpace, Slot
from nasdeploy.searching.budget import Budget
from nasdeploy.searching.problem import Problem
from nasdeploy.store.evaluations import Evaluation
from nasdeploy.tasks.metrics import TOP1
from tests.searching.budgets import budget_of
from tests.small_spaces import Square

STAGES = 4
IMAGES = 1000
_INTERACTING = 2


class Stages(SearchSpace):
    """A resolution and four stages of a width and a kernel each; all choices count in every architecture."""

    name = "stages"
    choices = (
        Choice("resolution", (4, 5, 6)),
        *(Choice(f"width.{stage}", (4, 6, 8)) for stage in range(STAGES)),
        *(Choice(f"kernel.{stage}", (1, 2, 3)) for stage in range(STAGES)),
    )
    slots = (
        Slot("stage0", ("resolution", "width.0", "kernel.0")),
        *(
            Slot(f"stage{stage}", ("resolution", f"width.{stage - 1}", f"width.{stage}", f"kernel.{stage}"))
            for stage in range(1, STAGES)
        ),
    )

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block:
        *inside, outside = (value for name, value in values.items() if name.startswith("width"))
        kernel = next(value for name, value in values.items() if name.startswith("kernel"))
        return Square(inside[0] if inside else 3, outside, kernel * values["resolution"] ** 2)

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        return (("input", TensorType((3,))),)


SPACE = Stages()


class Landscape:
    """Accuracies of all architectures of the space, between 0.65 and 0.85."""

    RUGGEDNESS = 0.05
    """Leaves networks of equal MACs a standard deviation of about half a point."""

    def __init__(self, seed: int, ruggedness: float = RUGGEDNESS) -> None:
        """`ruggedness` is what the interactions may add to top-1, from the worst of all to the best of all."""
        self._ruggedness = ruggedness
        rng = np.random.default_rng(seed)
        choices = len(SPACE.choices)
        others = [rng.permutation(np.delete(np.arange(choices), place))[:_INTERACTING] for place in range(choices)]
        self._met = [[place, *rest.tolist()] for place, rest in enumerate(others)]
        self._tables = rng.random([choices, *[3] * (1 + _INTERACTING)])
        self.evaluated: list[Arch] = []

    def accuracy(self, codes: Codes) -> Floats:
        """Top-1 `[n]` of codes `[n, choices]`: 10 points between the fewest and the most MACs, and interactions."""
        macs = _macs(codes)
        least, most = np.log(_macs(np.zeros_like(codes[:1]))), np.log(_macs(np.full_like(codes[:1], 2)))
        added = [
            table[tuple(codes[:, place] for place in met)] for table, met in zip(self._tables, self._met, strict=True)
        ]
        rugged: Floats = self._ruggedness * (np.mean(added, axis=0) - 0.5)
        found: Floats = 0.7 + 0.1 * (np.log(macs) - least) / (most - least) + rugged
        return found

    def evaluate(self, archs: Sequence[Arch]) -> list[Evaluation]:
        """What a strategy is given; keeps what it was asked for."""
        self.evaluated.extend(archs)
        return [
            Evaluation(arch.digest, arch.text, Score(TOP1, float(top1), 0.0, IMAGES, float(1 - top1)), 0.0)
            for arch, top1 in zip(archs, self.accuracy(SPACE.encode(archs)), strict=True)
        ]

    def found(self) -> Floats:
        """Accuracies of what was evaluated, in its order."""
        return self.accuracy(SPACE.encode(self.evaluated))

    @cached_property
    def all(self) -> Floats:
        """Accuracies of `CODES`."""
        return self.accuracy(CODES)


def problem_at(part: float) -> Problem:
    """The space under a budget of MACs that this part of the architectures meets."""
    return Problem(SPACE, budget_of(macs=float(np.quantile(_macs(CODES), part))))


def _macs(codes: Codes) -> Floats:
    return Problem(SPACE, Budget()).costs(codes)[:, 0]


CODES: Codes = np.array(list(product(range(3), repeat=len(SPACE.choices))), dtype=np.int16)
"""Every architecture, once."""
