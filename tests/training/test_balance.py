"""Folders with classes of unequal size."""

from functools import partial
from math import log
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nasdeploy.core.progress import Progress
from nasdeploy.recipe import Recipe, parse_recipe
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.sandwich import Sandwich, SandwichStep
from nasdeploy.workflows import train as step
from tests.data.pictures import write_folder
from tests.small_spaces import two_stages
from tests.training.recipes import tiny_recipe


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(12, 3), torch.arange(12) % 3, torch.tensor([0.5, 1.0, 4.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_losses_are_averaged_over_images(smoothing: float) -> None:
    logits, labels, weights = batch()
    each = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="none")
    assert label_loss(logits, labels, smoothing, weights).item() == pytest.approx(each.mean().item(), rel=1e-6)
    # Each class is as frequent here: dividing by the weights, as torch does, differs by their mean only.
    by_torch = F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    found = label_loss(logits, labels, smoothing, weights / weights.mean())
    assert found.item() == pytest.approx(by_torch.item(), rel=1e-6)


def test_parts_of_a_batch_average_to_the_whole() -> None:
    logits, labels, weights = batch()
    order = labels.argsort()
    parts = [label_loss(logits[part], labels[part], 0.1, weights) for part in order.chunk(2)]
    assert torch.stack(parts).mean().item() == pytest.approx(label_loss(logits, labels, 0.1, weights).item(), rel=1e-6)


def test_only_the_label_loss_is_weighted() -> None:
    torch.manual_seed(0)
    supernet = Supernet(two_stages())
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    largest = supernet.space.largest()
    sandwich = Sandwich({"largest": (largest,), "smallest": (supernet.space.smallest(),)})

    def losses(weights: torch.Tensor | None) -> tuple[float, float]:
        objective = Objective(partial(label_loss, smoothing=0.0, class_weights=weights), F.mse_loss)
        made = SandwichStep(supernet, Classification(), objective, {})(sandwich, (images,), labels).by_role
        return made["largest"], made["smallest"]

    weights = torch.linspace(0.5, 2.0, 3)
    expected = F.cross_entropy(supernet(images, largest), labels, weights, reduction="none").mean().item()
    plain, weighed = losses(None), losses(weights)
    assert weighed[0] == pytest.approx(expected, rel=1e-5)
    assert weighed[0] != pytest.approx(plain[0], rel=1e-3)
    assert weighed[1] == plain[1]


def unbalanced(balance: str, name: str) -> Recipe:
    write_folder(Path("photos"), {"train": {"ant": 40, "bee": 10}, "test": {"ant": 2, "bee": 2}}, side=8)
    content = tiny_recipe("train.epochs=2", "train.batch_size=9", "data.images_per_class=null").to_json()
    content["name"] = name
    content["data"] |= {"kind": "folder", "path": "photos", "balance": balance}
    return parse_recipe(content, "recipe")


def trained(recipe: Recipe) -> Run:
    run = step.train(recipe, step.default_directory(recipe), Progress(quiet=True))
    assert run is not None
    return run


def weights_in(objective: Objective) -> tuple[float, float]:
    """The weights of two classes in a label loss with a smoothing of 0.1, found out from logits that are all alike."""
    losses = [objective.label(torch.zeros(1, 2), torch.tensor([label])).item() / log(2) for label in (0, 1)]
    total, difference = sum(losses), (losses[1] - losses[0]) / 0.9
    return (total - difference) / 2, (total + difference) / 2


def test_a_folder_is_balanced_by_loss_or_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[str, list[tuple[list[int], tuple[float, float]]]] = {}
    call = SandwichStep.__call__
    for balance in ("none", "loss", "sampling"):
        steps = seen.setdefault(balance, [])

        def recording(self: SandwichStep, *given: object, steps: list = steps) -> object:
            steps.append((given[2].tolist(), weights_in(self.objective)))
            return call(self, *given)

        monkeypatch.setattr(SandwichStep, "__call__", recording)
        trained(unbalanced(balance, balance))
    # 34 ants and 8 or 9 bees are left to train on; an epoch has four batches of nine.
    share = {name: sum(sum(labels) for labels, _ in steps) / 72 for name, steps in seen.items()}
    assert share["loss"] == share["none"] < 0.3 < share["sampling"] < 0.7
    assert all(weights == pytest.approx((1, 1)) for name in ("none", "sampling") for _, weights in seen[name])
    ants, bees = seen["loss"][0][1]
    assert 0.6 < ants < 0.65 and 2.5 < bees < 2.9
