"""The order in which a classifier's outputs stand, where it is not that of the data. Torch-free."""

import re
from collections.abc import Callable, Mapping, Sequence

from nasdeploy.core.errors import UserError


def _natural(name: str) -> list[str | int]:
    """Numbers in a name by their size: every second part is one."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))]


ORDERS: Mapping[str, Callable[[Sequence[str]], list[str]]] = {
    "natural": lambda classes: sorted(classes, key=_natural),
    "ignore-case": lambda classes: sorted(classes, key=str.casefold),
    "reversed": lambda classes: list(reversed(classes)),
}
"""Orders of the same classes by name: numbers by their size (1, 2, 10), letters without their case, and the reverse."""

ClassOrder = str | tuple[str, ...]
"""A key of `ORDERS`, or the names themselves."""


def columns(order: ClassOrder | None, classes: Sequence[str]) -> list[int]:
    """Which output is that of each class, for outputs in an order of the classes' names; None for their own order.

    Raises `UserError` if the names are not those of the classes.
    """
    if order is None:
        return list(range(len(classes)))
    names = ORDERS[order](classes) if isinstance(order, str) else list(order)
    if sorted(names) != sorted(classes):
        missing = [name for name in classes if name not in names]
        foreign = [name for name in names if name not in classes]
        what = f"'{missing[0]}' is missing" if missing else f"'{foreign[0]}' is none" if foreign else "a name is twice"
        raise UserError(
            f"train.distillation.teacher_classes: not the {len(classes)} classes of the data in some order ({what}); "
            "each of their names stands there once, in the teacher's order"
        )
    place = {name: number for number, name in enumerate(names)}
    return [place[name] for name in classes]
