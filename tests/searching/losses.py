"""Tables of loss of made-up networks."""

from collections.abc import Callable

from nasdeploy.core.arch import Arch
from nasdeploy.core.space import SearchSpace
from nasdeploy.searching.loss_table import LossTable


def loss_table_of(space: SearchSpace, accuracy: Callable[[Arch], float]) -> LossTable:
    """What each cut alone costs in accuracy, as far as it costs any."""
    table, whole = LossTable(space=space.digest, supernet="made-up", samples=1000), accuracy(space.largest())
    for cut in table.missing(space):
        table = table.with_loss(cut.arch, whole - accuracy(cut.arch))
    return table
