"""Classifiers are tried: what is wrong with how they are read is found, and what is right is left alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nasdeploy.data.settings import IMAGENET_MEAN, IMAGENET_STD
from nasdeploy.data.transforms import ImageSample, normalise
from nasdeploy.training.trial import USUAL, Normalisation, Reading, Trial, try_classifier

UNIT, BYTES, SYMMETRIC, IMAGENET = USUAL
AS_DATA = Reading(IMAGENET)


def sample(count: int = 120, classes: int = 6, names: Sequence[str] | None = None) -> ImageSample:
    """Pictures of a grey that tells the class, with noise."""
    labels = torch.arange(count) % classes
    levels = 20 + 215 * labels / (classes - 1)
    noise = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels = (levels[:, None, None, None] + 4 * noise).clamp(0, 255).to(torch.uint8)
    found = tuple(names or (f"class {number}" for number in range(classes)))
    return ImageSample(pixels, labels, [f"{number}.png" for number in range(count)], found)


def knowing(
    normalisation: Normalisation = IMAGENET,
    order: Sequence[int] | None = None,
    classes: int = 6,
    wrong: float = 0.0,
    then: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> Callable[[Tensor], Tensor]:
    """A classifier of the pictures above whose output j is for class `order[j]`; of some it says anything."""
    levels = 20 + 215 * torch.tensor(list(order or range(classes))) / (classes - 1)
    draws = torch.Generator().manual_seed(1)

    def classify(images: Tensor) -> Tensor:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalisation.mean, normalisation.std))
        grey = 255 * (images * std + mean).mean((1, 2, 3))
        logits = -((grey[:, None] - levels) ** 2) / 100
        mistaken = torch.rand(len(images), generator=draws) < wrong
        logits[mistaken] = torch.randn(int(mistaken.sum()), classes, generator=draws)
        return then(logits)

    return classify


def tried(
    classifier: Callable[[Tensor], Tensor],
    of: ImageSample | None = None,
    reading: Reading = AS_DATA,
    normalised: bool = False,
    ordered: bool = False,
) -> Trial:
    return try_classifier(classifier, of or sample(), reading, 32, normalised=normalised, ordered=ordered)


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.7])
def test_a_classifier_that_is_often_right_is_left_alone(wrong: float) -> None:
    found = tried(knowing(wrong=wrong))
    assert found.knows and found.better is None
    assert found.share == pytest.approx(1 - wrong * 5 / 6, abs=0.12)


def test_one_that_guesses_knows_nothing_however_it_guesses() -> None:
    unequal = sample()
    unequal = replace(unequal, labels=torch.where(torch.arange(120) % 10 < 9, 0, unequal.labels))
    for of in (sample(), unequal):
        for says in (lambda n: torch.zeros(n, 6), lambda n: torch.tensor([3.0, 0, 0, 0, 0, 0]).repeat(n, 1)):
            found = tried(lambda images, says=says: says(len(images)), of)
            assert (found.knows, found.better, found.kind) == (False, None, "constant")
        noise = torch.Generator().manual_seed(3)
        found = tried(lambda images, noise=noise: torch.randn(len(images), 6, generator=noise), of)
        assert (found.knows, found.better, found.kind) == (False, None, "logits")
    assert tried(lambda images: torch.zeros(len(images), 6), unequal).share == 0.9


def test_orders_that_have_a_name() -> None:
    names = [str(number) for number in (1, 10, 11, 12, 2, 3)]
    found = tried(knowing(order=[0, 4, 5, 1, 2, 3]), sample(names=names))
    assert not found.knows and found.better == Reading(IMAGENET, "natural")
    assert found.better_right == found.better_images == 120
    assert tried(knowing(order=[5, 4, 3, 2, 1, 0])).better == Reading(IMAGENET, "reversed")
    mixed = ["B", "D", "a", "c", "e", "f"]
    assert tried(knowing(order=[2, 0, 3, 1, 4, 5]), sample(names=mixed)).better == Reading(IMAGENET, "ignore-case")


def test_any_order_that_the_answers_show() -> None:
    order = [2, 0, 1, 5, 3, 4]
    found = tried(knowing(order=order, wrong=0.2))
    assert found.better == Reading(IMAGENET, tuple(f"class {label}" for label in order))


def test_two_classes_exchanged_in_one_that_is_right_otherwise() -> None:
    found = tried(knowing(order=[0, 1, 3, 2, 4, 5]))
    assert found.knows and found.share == pytest.approx(4 / 6)
    assert found.better == Reading(IMAGENET, ("class 0", "class 1", "class 3", "class 2", "class 4", "class 5"))
    assert tried(knowing(order=[0, 1, 3, 2, 4, 5]), ordered=True).better is None


def test_no_order_where_the_answers_leave_a_doubt() -> None:
    """Everything is taken for one of two classes: an assignment of the others would be arbitrary."""
    assert tried(knowing(then=lambda logits: logits[:, [0, 0, 0, 5, 5, 5]] - torch.arange(6))).better is None
    few = sample(count=12)
    assert tried(knowing(order=[2, 0, 1, 5, 3, 4]), few).better is None


@pytest.mark.parametrize("expected", [UNIT, BYTES, SYMMETRIC])
def test_another_normalisation(expected: Normalisation) -> None:
    found = tried(knowing(expected))
    assert found.better == Reading(expected)
    assert found.better_right == found.better_images
    assert tried(knowing(expected), reading=Reading(expected)).better is None


def test_a_normalisation_that_was_chosen_stands_unless_it_leaves_nothing() -> None:
    slightly = Normalisation(IMAGENET_MEAN, (0.34, 0.34, 0.34))
    assert tried(knowing(), reading=Reading(slightly)).knows
    assert tried(knowing(), reading=Reading(slightly)).better == AS_DATA
    assert tried(knowing(), reading=Reading(slightly), normalised=True).better is None
    assert tried(knowing(BYTES), normalised=True).better == Reading(BYTES)


def test_several_at_once() -> None:
    found = tried(knowing(BYTES, order=[5, 4, 3, 2, 1, 0], then=lambda logits: logits.softmax(1)))
    assert found.better == Reading(BYTES, "reversed", probabilities=True)


@pytest.mark.parametrize(
    "then",
    [
        lambda logits: logits.softmax(1),
        lambda logits: 100 * logits.softmax(1),
        lambda logits: logits.softmax(1).half().float(),
        lambda logits: logits.sigmoid(),
        lambda logits: (logits == logits.amax(1, keepdim=True)).float(),
    ],
)
def test_probabilities(then: Callable[[Tensor], Tensor]) -> None:
    found = tried(knowing(then=then))
    assert found.kind == "probabilities" and found.knows
    assert found.better == Reading(IMAGENET, probabilities=True)
    assert tried(knowing(then=then), reading=Reading(IMAGENET, probabilities=True)).better is None


def test_logarithms_of_probabilities_are_logits_and_logits_no_probabilities() -> None:
    assert tried(knowing(then=lambda logits: logits.log_softmax(1))).better is None
    found = tried(knowing(), reading=Reading(IMAGENET, probabilities=True))
    assert found.better == AS_DATA


def test_images_without_finite_answers_are_named() -> None:
    def classify(images: Tensor) -> Tensor:
        logits = knowing()(images)
        logits[logits[:, 5] > -2] = float("nan")
        return logits

    found = tried(classify)
    assert found.broken == tuple(f"{number}.png" for number in range(5, 120, 6))


def test_pixels_are_normalised_as_the_reading_says() -> None:
    seen: list[Tensor] = []

    def classify(images: Tensor) -> Tensor:
        seen.append(images)
        return knowing()(images)

    of = sample(count=50)
    tried(classify, of)
    assert [len(images) for images in seen] == [25, 25]
    assert torch.equal(torch.cat(seen), normalise(of.pixels, IMAGENET_MEAN, IMAGENET_STD))
