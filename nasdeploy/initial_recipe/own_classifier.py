"""Whether a pretrained network's own classifier, of as many classes as the images have, knows these classes."""

from dataclasses import replace

import torch
from torch import Tensor

from nasdeploy.data.transforms import draw_sample
from nasdeploy.importers.importer import Imported
from nasdeploy.initial_recipe.pretrained import PretrainedDraft
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.recipe import Recipe
from nasdeploy.spaces import load_space
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import ImageData
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.training.trial import Normalisation, Reading, Trial, try_classifier

_BATCH = 32


def with_classifier_tried(draft: PretrainedDraft, imported: Imported, recipe: Recipe) -> tuple[PretrainedDraft, str]:
    """Return the draft with the imported network's own classifier, or with a new one if it does not know the classes.

    Also a line that says how it did on some training images. A classifier no better than guessing has other classes, or
    the same in another order.
    """
    data = Classification().open(recipe.images, recipe.seed)
    assert isinstance(data, ImageData)
    network, side = _original(draft, imported), draft.size

    def classifier(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = network(rescale(images, side))
            return logits

    sample = draw_sample(data.sets.train, data.sets.classes, recipe.images, recipe.seed)
    reading = Reading(Normalisation(recipe.images.mean, recipe.images.std))
    trial = try_classifier(classifier, sample, reading, _BATCH, normalised=True, ordered=False)
    if trial.knows and trial.better is None:
        return draft, f"its own classifier is kept: {_accuracy(trial)}"
    start = draft.start.model_copy(update={"classifier": "new"})
    return replace(
        draft, start=start
    ), f"its own classifier has {_accuracy(trial)}: {_reason(trial)}; a new one is begun"


def _original(draft: PretrainedDraft, imported: Imported) -> Network:
    space = load_space(draft.space, imported.classes)
    supernet = Supernet(space)
    supernet.load_state_dict(imported.weights)
    return extract(supernet, space.largest()).eval()


def _accuracy(trial: Trial) -> str:
    metric = replace(TOP1, decimals=1)
    return f"{metric.name} {metric.text(trial.share)} on {trial.images} training {metric.samples}"


def _reason(trial: Trial) -> str:
    if trial.better is None or trial.better.order is None:
        return "no more than guessing, so its classes are others than those of the folder, or in another order"
    order = trial.better.order
    names = order if isinstance(order, str) else ", ".join(order[:5]) + (", ..." if len(order) > 5 else "")
    right = TOP1.text(trial.better_right / trial.better_images)
    return f"its classes stand in another order ({names}), in which it has {right}"
