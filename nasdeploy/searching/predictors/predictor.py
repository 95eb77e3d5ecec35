"""Predicting the accuracy of sub-networks from those that were evaluated. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.searching.predictors import KINDS
from nasdeploy.searching.predictors.models import LinearModel, Model, OneHot

LEAST = 10
"""Evaluated sub-networks that a predictor is fitted on at least."""
_HELD_OUT = 5
"""One in so many is held out."""


class AccuracyPredictor:
    """Accuracies of the architectures of one space."""

    def __init__(self, space: SearchSpace, kind: str, model: Model) -> None:
        self.space, self.kind, self.model = space, kind, model
        self._features = OneHot(space)

    def __call__(self, codes: Codes) -> Floats:
        """Accuracies `[n]`, 0..1 but for errors, of codes `[n, choices]`."""
        return self.model(self._features(codes))

    @property
    def terms(self) -> list[Floats] | None:
        """What each value of each choice adds, `[values]` by choice, if nothing else matters; else None."""
        return self._features.parts(self.model.weights) if isinstance(self.model, LinearModel) else None


@dataclass(frozen=True)
class Quality:
    """Errors of predictions for sub-networks that a predictor was not fitted on."""

    rmse: float
    """Root of the mean squared error, in the accuracy's unit."""
    tau: float
    """Kendall's tau-b between predicted and true accuracies; 0 if either is the same for all."""
    n: int

    def __str__(self) -> str:
        return f"RMSE {100 * self.rmse:.2f} points, Kendall tau {self.tau:.3f}"


@dataclass(frozen=True)
class FittedPredictor:
    """A predictor, fitted on all that is known, and how well its kind and simpler ones did on a part held out."""

    predictor: AccuracyPredictor
    quality: Mapping[str, Quality]
    """The quality by kind; of models that were fitted without the part that they are judged on."""
    n: int
    """Sub-networks that were evaluated."""

    def __str__(self) -> str:
        kind, held_out = self.predictor.kind, next(iter(self.quality.values())).n
        others = [f"{name}: {quality}" for name, quality in self.quality.items() if name != kind]
        return (
            f"accuracy predictor ({kind}) from {self.n} networks, on {held_out} of them held out: "
            f"{'; '.join([str(self.quality[kind]), *others])}"
        )


def fit_predictor(
    space: SearchSpace, kind: str, codes: Codes, accuracies: Sequence[float] | Floats, rng: np.random.Generator
) -> FittedPredictor:
    """The predictor of a `kind` for codes `[n, choices]` of evaluated sub-networks and their accuracies `[n]`.

    Raises `UserError` for accuracies that are no numbers, and for fewer than `LEAST`.
    """
    known = np.asarray(accuracies, dtype=np.float64)
    _require_usable(known)
    drawn = rng.permutation(len(known))
    held_out, rest = np.split(drawn, [len(known) // _HELD_OUT])
    quality = {}
    for name in dict.fromkeys(("mean", "linear", kind)):
        judged = fit(space, name, codes[rest], known[rest], rng)
        quality[name] = quality_of(judged(codes[held_out]), known[held_out])
    return FittedPredictor(fit(space, kind, codes, known, rng), quality, len(known))


def fit(space: SearchSpace, kind: str, codes: Codes, accuracies: Floats, rng: np.random.Generator) -> AccuracyPredictor:
    """The predictor of a `kind` on all of the codes `[n, choices]` and accuracies `[n]`."""
    return AccuracyPredictor(space, kind, KINDS[kind].fit(OneHot(space)(codes), accuracies, rng))


def quality_of(predicted: Floats, true: Floats) -> Quality:
    """The errors of predictions `[n]`."""
    from scipy.stats import kendalltau

    rmse = float(np.sqrt(np.mean((predicted - true) ** 2)))
    constant = np.ptp(predicted) == 0 or np.ptp(true) == 0
    return Quality(rmse, 0.0 if constant else float(kendalltau(predicted, true).statistic), len(true))


def _require_usable(accuracies: Floats) -> None:
    if len(accuracies) < LEAST:
        raise UserError(
            f"accuracy predictor: {len(accuracies)} evaluated networks are too few, it takes {LEAST}; "
            "raise search.parents"
        )
    if not np.isfinite(accuracies).all():
        raise UserError("accuracy predictor: an accuracy is no number; evaluate that network again")
