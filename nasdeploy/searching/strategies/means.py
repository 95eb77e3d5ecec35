"""What some strategies use beside the problem: the trained supernet, a known predictor, a listener. Torch-free."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nasdeploy.searching.predictors.predictor import Fitted
from nasdeploy.searching.strategies.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from nasdeploy.supernet.supernet import Supernet


@dataclass(frozen=True)
class Trained:
    """A trained supernet and what it was trained on."""

    supernet: "Supernet"
    batches: "Callable[[int], Iterable[tuple[Tensor, Tensor]]]"
    """Training images `[N, 3, S, S]` and labels `[N]` of an epoch, where the supernet is."""


@dataclass(frozen=True)
class Means:
    """What a strategy may use beside the problem; by default nothing."""

    trained: Callable[[], Trained] | None = None
    predictor: Fitted | None = None
    """Known from an earlier search of the same supernet."""
    say: Callable[[str], None] = lambda text: None
    """One line for the user."""
    keep: Callable[[Fitted], None] = lambda fitted: None
    """Keeps a predictor for later searches."""


@runtime_checkable
class Equippable(Protocol):
    """A strategy that uses more than the problem."""

    def equipped(self, means: Means) -> Strategy:
        """The same strategy with these means; raises `UserError` if what it cannot do without is missing."""


def needs_supernet(strategy: Strategy) -> bool:
    """Whether a strategy cannot do without a trained supernet, which it says by an attribute of this name."""
    return bool(getattr(strategy, "needs_supernet", False))


def equipped(strategy: Strategy, means: Means) -> Strategy:
    """The strategy with these means, if it uses any."""
    return strategy.equipped(means) if isinstance(strategy, Equippable) else strategy
