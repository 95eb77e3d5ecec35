"""What a classifier makes of labelled images, before anything relies on it: is it right, or would it be otherwise read?

A classifier that was made elsewhere may expect its images normalised in another way, name its classes in another order,
or give probabilities where logits are expected. Each leaves it computing, and useless.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import monotonic

import torch
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.data.settings import IMAGENET_MEAN, IMAGENET_STD
from nasdeploy.data.transforms import ImageSample, Triple, normalise


def _natural(name: str) -> list[str | int]:
    """Return the parts of a name, every second of which is a number, so that numbers sort by their size."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", name))]


ORDERS: Mapping[str, Callable[[Sequence[str]], list[str]]] = {
    "natural": lambda classes: sorted(classes, key=_natural),
    "ignore-case": lambda classes: sorted(classes, key=str.casefold),
    "reversed": lambda classes: list(reversed(classes)),
}
"""The orders of classes by name: numbers by their size (1, 2, 10), letters without their case, and the reverse."""

ClassOrder = str | tuple[str, ...]
"""The order in which a classifier's outputs stand: a key of `ORDERS`, or the names themselves."""


def columns(order: ClassOrder | None, classes: Sequence[str]) -> list[int]:
    """Return which output is that of each class, for outputs in an order of the classes; None is their own order.

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


LONGEST_S = 3.0
"""The longest time for the images as they are read, and again for all other normalisations together, in seconds."""
_FEWEST = 64
"""The number of images that are looked at however long they take."""
_CHANCE = 0.01
"""The probability with which guessing would do as well, below which a classifier knows something."""
_GOOD_ENOUGH = 0.95
"""The part of the images from which on a classifier that is right on them expects no other normalisation."""
_FEWEST_OF_CLASS = 3
"""The number of images that a class must have before its answers show that it stands elsewhere."""

Classifier = Callable[[Tensor], Tensor]
"""A function from normalised images `[N, 3, S, S]` to numbers `[N, classes]`, the highest for the likeliest class."""


@dataclass(frozen=True)
class Normalisation:
    """The mean that is taken off pixels of 0..1, by channel, and the deviation that they are divided by."""

    mean: Triple
    std: Triple


USUAL = (
    Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    Normalisation((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    Normalisation(IMAGENET_MEAN, IMAGENET_STD),
)
"""The normalisations that networks expect most often: 0..1, 0..255, -1..1, and ImageNet's mean and deviation."""


@dataclass(frozen=True)
class Reading:
    """How a classifier's inputs and outputs are to be read."""

    normalisation: Normalisation
    order: ClassOrder | None = None
    """The order of its outputs; None for that of the data."""
    probabilities: bool = False
    """Whether it gives probabilities, and not logits."""


@dataclass(frozen=True)
class _Outputs:
    """What a classifier said of a sample, read in one way and normalised in that."""

    values: Tensor
    """The outputs, float32 `[N, classes]`, in the classifier's order."""
    sample: ImageSample

    def right(self, order: ClassOrder | None) -> Tensor:
        """Return whether each image was recognised, bool `[N]`, where outputs stand in that order."""
        chosen = self.values[:, columns(order, self.sample.classes)].argmax(1)
        return (chosen == self.sample.labels) & self.values.isfinite().all(1)

    def chance(self, order: ClassOrder | None) -> float:
        """Return how often answers so distributed would be right if they had nothing to do with the images."""
        count = len(self.sample.classes)
        answers = self.values[:, columns(order, self.sample.classes)].argmax(1).bincount(minlength=count)
        return float((answers * self.sample.labels.bincount(minlength=count)).sum()) / len(self.sample) ** 2

    @cached_property
    def assigned(self) -> ClassOrder | None:
        """The order of classes that the answers show, where they leave no doubt; None otherwise."""
        from scipy.optimize import linear_sum_assignment

        count = len(self.sample.classes)
        confusion = torch.zeros(count, count, dtype=torch.int64)
        confusion.index_put_((self.sample.labels, self.values.argmax(1)), torch.tensor(1), accumulate=True)
        of_class, output = linear_sum_assignment(confusion.numpy(), maximize=True)
        sizes = confusion.sum(1)
        moved = [(label, place) for label, place in zip(of_class, output, strict=True) if label != place]
        if not moved or any(
            sizes[label] < _FEWEST_OF_CLASS or 2 * confusion[label, place] <= sizes[label] for label, place in moved
        ):
            return None
        names = dict(zip(output.tolist(), (self.sample.classes[label] for label in of_class), strict=True))
        return tuple(names[place] for place in range(count))

    @cached_property
    def kind(self) -> str:
        """The kind of the outputs: `constant`, `probabilities` or `logits`."""
        values = self.values
        if bool((values.amax(0) - values.amin(0) <= 1e-6 * values.abs().amax()).all()):
            return "constant"
        if bool((values < 0).any()):
            return "logits"
        sums = values.sum(1)
        one_sum = bool(((sums - sums.mean()).abs() <= 0.01 * sums.mean()).all())
        return "probabilities" if one_sum or bool((values <= 1).all()) else "logits"


_Candidate = tuple[Reading, _Outputs]


@dataclass(frozen=True)
class Trial:
    """The outcome: how a classifier does as it is read, and the reading with which it would be right."""

    right: int
    images: int
    chance: float
    """The part of the images that answers so distributed would be right on by chance."""
    kind: str = "logits"
    broken: tuple[str, ...] = ()
    """The names of the images for which it gives numbers that are not finite; nothing else is known then."""
    better: Reading | None = None
    better_right: int = 0
    better_images: int = 0

    @property
    def share(self) -> float:
        """The part of the images that it is right on, 0..1."""
        return self.right / self.images

    @property
    def knows(self) -> bool:
        """Whether it is right more often than guessing would be."""
        return _above_chance(self.right, self.images, self.chance)


def try_classifier(
    classifier: Classifier, sample: ImageSample, reading: Reading, batch: int, *, normalised: bool, ordered: bool
) -> Trial:
    """Try a classifier on images, `batch` at once, in a few seconds.

    `normalised`, `ordered`: that part of the reading was chosen by someone who knows, and others are looked for only if
    the classifier knows nothing.
    """
    began = monotonic()
    outputs = _outputs(classifier, sample, reading, batch)
    broken = ~outputs.values.isfinite().all(1)
    if bool(broken.any()):
        names = tuple(outputs.sample.names[place] for place in broken.nonzero().flatten().tolist())
        return Trial(0, len(outputs.sample), 0.0, "not finite", names)
    right = outputs.right(reading.order)
    found = Trial(int(right.sum()), len(right), outputs.chance(reading.order), outputs.kind)
    candidates = [
        (replace(reading, order=order), outputs) for order in _orders(outputs, reading, ordered and found.knows)
    ]
    if max(map(_share_right, candidates)) < _GOOD_ENOUGH and not (normalised and found.knows):
        affordable = int(len(right) * LONGEST_S / len(USUAL) / max(monotonic() - began, 1e-9))
        candidates += _otherwise_normalised(classifier, sample.first(max(_FEWEST // 4, affordable)), reading, batch)
    return _with_better(found, candidates)


def _otherwise_normalised(
    classifier: Classifier, sample: ImageSample, reading: Reading, batch: int
) -> Iterator[_Candidate]:
    for normalisation in USUAL:
        if not _same(normalisation, reading.normalisation):
            changed = replace(reading, normalisation=normalisation)
            outputs = _outputs(classifier, sample, changed, batch)
            yield from ((replace(changed, order=order), outputs) for order in _orders(outputs, reading, False))


def _with_better(found: Trial, candidates: Sequence[_Candidate]) -> Trial:
    """Return what was found, with the simplest other reading that is markedly better, or the right kind of outputs."""
    present = candidates[0]
    best = max(candidates, key=_share_right)
    # The first that is as good as the best: those that change less come first.
    chosen = next(each for each in candidates if not _more(_right(best), _right(each)))
    now, chance = _right(chosen), chosen[1].chance(chosen[0].order)
    if not _better(now, _right(present)) or not _above_chance(int(now.sum()), len(now), chance):
        chosen, now = present, _right(present)
    reading = _of_its_kind(chosen)
    if reading == present[0]:
        return found
    return replace(found, better=reading, better_right=int(now.sum()), better_images=len(now))


def _of_its_kind(candidate: _Candidate) -> Reading:
    """Return the reading for what the outputs are, probabilities or logits, where that can be seen."""
    reading, outputs = candidate
    return reading if outputs.kind == "constant" else replace(reading, probabilities=outputs.kind == "probabilities")


def _right(candidate: _Candidate) -> Tensor:
    reading, outputs = candidate
    return outputs.right(reading.order)


def _share_right(candidate: _Candidate) -> float:
    return float(_right(candidate).float().mean())


def _orders(outputs: _Outputs, reading: Reading, settled: bool) -> Iterator[ClassOrder | None]:
    """Give the order of the reading first, then, if that is not settled, the data's, and others."""
    yield reading.order
    if settled:
        return
    if reading.order is not None:
        yield None
    yield from (order for order in ORDERS if order != reading.order)
    if bool(outputs.values.isfinite().all()) and (assigned := outputs.assigned) is not None:
        yield assigned


def _better(now: Tensor, before: Tensor) -> bool:
    """Return whether a reading is right on more images than by chance, and leaves at most half of the mistakes."""
    before = before[: len(now)]
    return _more(now, before) and 2 * int((~now).sum()) <= int((~before).sum())


def _more(now: Tensor, before: Tensor) -> bool:
    """Return whether a sign test on the images that both saw and on which they differ says so (McNemar's, exact)."""
    from scipy.stats import binomtest

    seen = min(len(now), len(before))
    gained, lost = int((now[:seen] & ~before[:seen]).sum()), int((~now[:seen] & before[:seen]).sum())
    return gained + lost > 0 and binomtest(gained, gained + lost, 0.5, "greater").pvalue < _CHANCE


def _above_chance(right: int, images: int, chance: float) -> bool:
    """Return whether more are right than by guessing; of so few that all would prove nothing, more than the average."""
    from scipy.stats import binomtest  # Takes a second to import, and most trainings have no teacher to try.

    chance = min(1.0, chance)
    if binomtest(images, images, chance, "greater").pvalue >= _CHANCE:
        return right > chance * images
    return bool(binomtest(right, images, chance, "greater").pvalue < _CHANCE)


def _same(a: Normalisation, b: Normalisation) -> bool:
    pairs = zip((*a.mean, *a.std), (*b.mean, *b.std), strict=True)
    return all(abs(x - y) < 1e-3 * max(abs(y), 1e-3) for x, y in pairs)


def _outputs(classifier: Classifier, sample: ImageSample, reading: Reading, batch: int) -> _Outputs:
    """Return what it says of the first images, in equal parts of at most `batch`, for as long as that."""
    began, found = monotonic(), []
    parts = torch.chunk(torch.arange(len(sample)), -(-len(sample) // batch))
    seen = 0
    for part in parts:
        if seen >= _FEWEST and monotonic() - began > LONGEST_S:
            break
        images = normalise(sample.pixels[part], reading.normalisation.mean, reading.normalisation.std)
        found.append(classifier(images).float().cpu())
        seen += len(part)
    return _Outputs(torch.cat(found), sample.first(seen))
