"""How the accuracy of a run's architectures is measured, the same in every step, and what it depends on."""

import json
from hashlib import sha256
from pathlib import Path

from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.batches import HeldOutImages, Memory, PreparedBatches, calibration_batches
from nasdeploy.data.images import Images, readable
from nasdeploy.nn.device import compute_device, set_threads
from nasdeploy.recipe import Recipe, recipe_of
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.workflows.run_data import open_data_of


def open_evaluator(run: Run, recipe: Recipe, space: SearchSpace, weights: Path) -> Evaluator:
    """Scores architectures of a run's supernet on the training images that are held out for the search.

    Raises `UserError` for damaged weights, and for data that is missing or not that of the run.
    """
    set_threads(recipe.train.threads)
    sets = open_data_of(run, recipe)
    settings, device = recipe.recalibration, compute_device()
    calibration = calibration_batches(
        sets.train, recipe.images, settings.batch_size, settings.search_batches, recipe.seed
    ).to(device)
    memory = Memory(int(recipe.search.cache_gib * (1 << 30)))
    # The other images, of which some may lie in memory, are not needed any more.
    search = readable(sets.search, recipe.images)
    held_out = HeldOutImages(_drawn(search.images, recipe), recipe.images, recipe.search.batch_size, device, memory)
    prepared = PreparedBatches(calibration.pixels, recipe.images, memory)
    return Evaluator(
        load_supernet(weights, space).to(device), prepared.at, held_out.at, len(held_out), search.unreadable
    )


def _drawn(images: Images, recipe: Recipe) -> Images:
    """Return the images in an order in which the first of the images stand for all, where networks are stopped after
    them."""
    if recipe.search.halving == 1:
        return images
    return images.subset(generator(recipe.seed, "held-out order").permutation(len(images)).tolist())


def supernet_of(run: Run, recipe: Recipe, weights: WeightsFacts) -> str:
    """`supernet_id` of a run's recipe as it was changed for one call.

    Where unreadable images stop a search nothing is evaluated, so that leaving them out makes no other supernet.
    """
    begun_with = recipe_of(run).images.on_unreadable
    data = recipe.images.model_copy(update={"on_unreadable": begun_with})
    return supernet_id(recipe.model_copy(update={"data": data}), weights)


def supernet_id(recipe: Recipe, weights: WeightsFacts) -> str:
    """Changes with the weights and with everything else that an accuracy depends on."""
    conditions = [
        weights.sha256,
        recipe.seed,
        # Where images lie, how many processes read them and how large they may be changes nothing, and an export's
        # batches only the export. Defaults are left out, so that a setting that is new in some version does not make
        # earlier evaluations those of another supernet.
        recipe.images.model_dump(mode="json", exclude={"path", "workers", "max_pixels"}, exclude_defaults=True),
        recipe.recalibration.model_dump(exclude={"batches"}),
    ]
    return sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
