"""The part of a search space that may be drawn from at a time: coarse schedules widen it over the epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.registry import suggestion
from nasdeploy.core.space import SearchSpace
from nasdeploy.training.sampling.settings import StageSettings


@dataclass(frozen=True)
class Allowed:
    """Architectures of a space whose choices have some of their values, ascending, by name."""

    space: SearchSpace
    values: Mapping[str, tuple[int, ...]]

    def largest(self) -> Arch:
        """The architecture with the largest value of every choice."""
        return self.space.arch({name: values[-1] for name, values in self.values.items()})

    def sample(self, rng: np.random.Generator) -> Arch:
        """An architecture with each choice uniform over the allowed values."""
        return self.space.arch({name: values[rng.integers(len(values))] for name, values in self.values.items()})

    def smallest(self) -> Arch:
        """The architecture with the smallest allowed value of every choice."""
        return self.space.arch({name: values[0] for name, values in self.values.items()})


def allowed_from(space: SearchSpace, stages: Sequence[StageSettings]) -> list[tuple[int, Allowed]]:
    """The first epoch of each stage with what it allows, in order; everything from epoch 0 on if there are no stages.

    Raises `UserError` for a name that is no choice of the space, or more values than it has.
    """
    return [(stage.from_epoch, _allowed(space, stage)) for stage in stages or (StageSettings(from_epoch=0),)]


def _allowed(space: SearchSpace, stage: StageSettings) -> Allowed:
    values = dict(space.values_of)
    for key, count in stage.largest.items():
        names = [name for name in values if name == key or name.partition(".")[0] == key]
        if not names:
            raise UserError(
                f"train.sampling.stages: '{key}' is no choice of space {space.name}"
                f"{suggestion(key, {name.partition('.')[0] for name in values} | values.keys())}"
            )
        for name in names:
            values[name] = values[name][-count:]
    return Allowed(space, values)
