"""An exponential moving average of the weights, which is what is validated and handed on."""

from typing import Any

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nasdeploy.supernet.supernet import Supernet


class MovingAverage:
    """A second supernet: after each step `average = decay * average + (1 - decay) * weights`, first the weights."""

    def __init__(self, supernet: Supernet, decay: float) -> None:
        self._model = AveragedModel(supernet, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    @property
    def supernet(self) -> Supernet:
        """The supernet with the averaged weights."""
        module = self._model.module
        assert isinstance(module, Supernet)
        return module

    def update(self, supernet: Supernet) -> None:
        """Take in the weights after a step."""
        self._model.update_parameters(supernet)

    def to_plain(self, supernet: Supernet) -> dict[str, Any]:
        """For a checkpoint that has the averaged weights as its own: those that are trained, and the steps averaged."""
        return {"trained": supernet.state_dict(), "averaged_steps": int(self._model.n_averaged)}

    def from_plain(self, plain: dict[str, Any], supernet: Supernet) -> None:
        """Give back what `to_plain` kept; raises KeyError, RuntimeError, TypeError or ValueError if it is damaged."""
        supernet.load_state_dict(plain["trained"])
        self._model.n_averaged.fill_(int(plain["averaged_steps"]))


def average_of(supernet: Supernet, decay: float | None) -> MovingAverage | None:
    """The moving average that a recipe asks for; None without a decay."""
    return None if decay is None else MovingAverage(supernet, decay)


def averaged_supernet(supernet: Supernet, average: MovingAverage | None) -> Supernet:
    """What is validated and handed on: the averaged weights, if there are any."""
    return supernet if average is None else average.supernet
