"""Accuracy predicted from the sub-networks that were evaluated: fitted, kept in files, and searched. Torch-free.

A file holds arrays in NumPy's archive with a JSON header, never pickle.

Evolution on predictions is that of OFA (section 4.1): a population of 100, a quarter of it parents, 500 generations, on
codes and all of a generation at once. Mutations are of all strengths: small ones improve what is good, large ones leave
a local optimum, and none costs an evaluation.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from nasdeploy.core.costs import Floats
from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Criterion
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.searching.predictors import KINDS
from nasdeploy.searching.predictors.models import LinearModel, Model
from nasdeploy.searching.problem import Problem
from nasdeploy.store.files import replacing
from nasdeploy.store.records import parse_record

LEAST = 10
"""Evaluated sub-networks that a predictor is fitted on at least."""
_HELD_OUT = 5
"""One in so many is held out."""


class AccuracyPredictor:
    """Accuracies of the architectures of one space."""

    def __init__(self, space: SearchSpace, kind: str, model: Model) -> None:
        self.space, self.kind, self.model = space, kind, model
        self._features = KINDS[kind].features(space)

    def __call__(self, codes: Codes) -> Floats:
        """Accuracies `[n]`, 0..1 but for errors, of codes `[n, choices]`; equal for codes of the same network."""
        return self.model(self._features(self.space.canonical(codes)))

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
    features = KINDS[kind].features(space)(space.canonical(codes))
    return AccuracyPredictor(space, kind, KINDS[kind].fit(features, accuracies, rng))


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


SCHEMA_VERSION: Literal[1] = 1
_REMEDY = "search again with `strategy=predictor-guided` to make it anew"
_HEADER = "header"
_LARGEST_BYTES = 8 << 20
"""The most bytes of a file: far more than any predictor takes, and little enough to be read by whoever was sent one."""


class Header(Settings):
    """What a predictor is of, as JSON in the archive."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: str
    space: str
    """Digest of the search space."""
    supernet: str
    """Digest of the weights, and of how accuracies were measured."""
    criterion: Criterion = "metric"
    """What the networks were ranked by, which it predicts: what is maximised of a score."""
    n: int
    """Sub-networks that it was fitted on."""
    quality: dict[str, Quality]
    """The quality of this kind and of simpler ones, on sub-networks held out."""
    sha256: str
    """The checksum of the arrays."""


def save_predictor(path: Path, fitted: FittedPredictor, supernet: str, criterion: Criterion = "metric") -> None:
    """Write a predictor of what a supernet's sub-networks are ranked by, whole or not at all."""
    predictor = fitted.predictor
    arrays: dict[str, npt.NDArray[Any]] = dict(predictor.model.arrays)
    header = Header(
        kind=predictor.kind,
        space=predictor.space.digest,
        supernet=supernet,
        criterion=criterion,
        n=fitted.n,
        quality=dict(fitted.quality),
        sha256=_checksum(arrays),
    )
    arrays[_HEADER] = np.frombuffer(json.dumps(header.model_dump(mode="json")).encode(), dtype=np.uint8)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_predictor(path: Path, space: SearchSpace, supernet: str, criterion: Criterion = "metric") -> FittedPredictor:
    """The predictor in a file; raises `UserError` if it is damaged, or of another space, supernet or criterion."""
    arrays = _read(path)
    header = _header(path, arrays.pop(_HEADER, None))
    if header.space != space.digest:
        raise UserError(
            f"{path}: predicts another search space ({header.space}, not {space.digest} as {space.name} is now); "
            "give a predictor of this run's space"
        )
    if header.supernet != supernet:
        raise UserError(
            f"{path}: predicts accuracies of another supernet ({header.supernet}, not {supernet}); {_REMEDY}"
        )
    if header.criterion != criterion:
        raise UserError(
            f"{path}: predicts what networks are ranked by with search.score {header.criterion}, and it is {criterion} "
            f"now; {_REMEDY}"
        )
    if header.sha256 != _checksum(arrays):
        raise UserError(f"{path}: damaged, its arrays do not match their checksum; {_REMEDY}")
    return FittedPredictor(
        AccuracyPredictor(space, header.kind, _model(path, header, space, arrays)), header.quality, header.n
    )


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _LARGEST_BYTES:
            raise UserError(f"{path}: no accuracy predictor, it would take {size >> 20} MiB; {_REMEDY}")
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_REMEDY}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a directory, not an accuracy predictor; {_REMEDY}") from None
    except (BadZipFile, OSError, EOFError, ValueError, LookupError, RuntimeError, MemoryError, zlib.error):
        raise UserError(f"{path}: damaged, or no accuracy predictor of nasdeploy; {_REMEDY}") from None


def _header(path: Path, text: npt.NDArray[Any] | None) -> Header:
    try:
        if text is None or text.dtype != np.uint8:
            raise ValueError("no header")
        data = json.loads(text.tobytes())
        version = data["schema_version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"{path}: damaged, or no accuracy predictor of nasdeploy; {_REMEDY}") from None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: an accuracy predictor of another version of nasdeploy; {_REMEDY}")
    return parse_record(Header, data, path, _REMEDY)


def _model(path: Path, header: Header, space: SearchSpace, arrays: Mapping[str, Floats]) -> Model:
    try:
        if header.kind not in KINDS:
            raise ValueError(f"unknown kind {header.kind}")
        model = KINDS[header.kind].restore(arrays)
        # One that is of other features than the space's says so here.
        model(np.zeros((1, KINDS[header.kind].features(space).width)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); {_REMEDY}") from None
    return model


def _checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    content = sha256()
    for name in sorted(arrays):
        values = arrays[name]
        content.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        content.update(np.ascontiguousarray(values).tobytes())
    return content.hexdigest()


_PARENTS = 0.25
_MUTATION = 0.5
"""Per choice at most; drawn for each child."""
_REPAIRS = 4


def evolve(
    problem: Problem,
    predict: Callable[[Codes], Floats],
    start: Codes,
    rng: np.random.Generator,
    generations: int = 500,
    population: int = 100,
) -> Codes:
    """Distinct feasible codes `[n, choices]` that turned up, by falling prediction.

    `start` `[m, choices]` are feasible codes to begin with. A generation is the best quarter of the one before and its
    descendants, half of them mutations and half crossovers, each made feasible by taking genes back from a parent.
    """
    codes, scores = start, predict(start)
    seen, seen_scores = [codes], [scores]
    for _ in range(generations):
        parents = codes[np.argsort(-scores, kind="stable")[: max(1, int(_PARENTS * population))]]
        children = _children(problem, parents, population - len(parents), rng)
        predicted = predict(children)
        seen.append(children)
        seen_scores.append(predicted)
        codes, scores = _survivors(np.concatenate([codes, children]), np.concatenate([scores, predicted]), population)
    every, every_score = np.concatenate(seen), np.concatenate(seen_scores)
    first = distinct(every)
    return every[first[np.argsort(-every_score[first], kind="stable")]]


def distinct(codes: Codes) -> npt.NDArray[np.intp]:
    """Places of the first of each of equal codes `[n, choices]`, ascending."""
    # As one item a row they are compared at once, ten times as fast as by columns.
    rows = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.dtype.itemsize * codes.shape[1]))).ravel()
    return np.sort(np.unique(rows, return_index=True)[1])


def _survivors(codes: Codes, scores: Floats, count: int) -> tuple[Codes, Floats]:
    """Return the best `count`, each once."""
    first = distinct(codes)
    order = first[np.argsort(-scores[first], kind="stable")[:count]]
    return codes[order], scores[order]


def _children(problem: Problem, parents: Codes, count: int, rng: np.random.Generator) -> Codes:
    space, crossed = problem.space, count // 2
    own = parents[rng.integers(len(parents), size=count)]
    drawn = space.sample_codes(count - crossed, rng)
    anew = rng.random(drawn.shape) < _MUTATION * rng.random((len(drawn), 1))
    mutated = np.where(anew, drawn, own[crossed:])
    other = parents[rng.integers(len(parents), size=crossed)]
    return repaired(problem, np.concatenate([space.crossover(own[:crossed], other, rng), mutated]), own, rng)


def repaired(problem: Problem, codes: Codes, feasible: Codes, rng: np.random.Generator) -> Codes:
    """`codes` `[n, choices]`, those beyond the budget with ever more of the genes of `feasible`, at last with all."""
    codes = codes.copy()
    for attempt in range(_REPAIRS + 1):
        beyond = np.flatnonzero(~problem.feasible(problem.costs(codes)))
        if not len(beyond):
            break
        kept = rng.random((len(beyond), codes.shape[1])) < (0.5 if attempt < _REPAIRS else 0.0)
        codes[beyond] = np.where(kept, codes[beyond], feasible[beyond])
    return codes
