"""The expected cost of architectures whose choices are drawn independently, as a differentiable function."""

import torch
from torch import Tensor

from nasdeploy.core.costs import cost_tables
from nasdeploy.core.space import SearchSpace
from nasdeploy.searching.problem import Quantity
from nasdeploy.supernet.relaxed import Probabilities


class ExpectedCost:
    """The exact expectation of a cost that is a sum over slots (ProxylessNAS, section 3.3, for tables of blocks).

    Each table is contracted with the probabilities of the choices that it reads, which are independent.
    """

    def __init__(self, space: SearchSpace, quantity: Quantity) -> None:
        """Raises `ValueError` for a quantity that is no sum over slots."""
        if not quantity.is_sum:
            raise ValueError(f"{quantity} is no sum over slots")
        tables = cost_tables(space, space.slots, [quantity.slot_cost])
        self._tables = [(table.reads, torch.from_numpy(table.values[..., 0])) for table in tables]
        self._offset = quantity.offset

    def __call__(self, probabilities: Probabilities) -> Tensor:
        """The expected cost `[]`, in float64, for probabilities of each choice."""
        total = torch.tensor(self._offset, dtype=torch.float64)
        for reads, values in self._tables:
            for name in reversed(reads):
                values = values @ probabilities[name].double()
            total = total + values
        return total
