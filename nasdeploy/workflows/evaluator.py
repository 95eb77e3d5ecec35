"""How the architectures of a run are scored, the same in every step, and what a score depends on."""

import json
from hashlib import sha256
from pathlib import Path

from nasdeploy.core.space import SearchSpace
from nasdeploy.data.batches import Memory
from nasdeploy.data.settings import DataSettings
from nasdeploy.nn.device import compute_device, set_threads
from nasdeploy.recipe import Recipe, recipe_of
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.tasks import task_of


def open_evaluator(run: Run, recipe: Recipe, space: SearchSpace, weights: Path) -> Evaluator:
    """Return what scores architectures of a run's supernet on the training samples that are held out for the search.

    Raises `UserError` for damaged weights, and for data that is missing or not that of the run.
    """
    set_threads(recipe.train.threads)
    task, settings, device = task_of(recipe.task), recipe.recalibration, compute_device()
    data = task.open(recipe.data, recipe.seed, run)
    memory = Memory(int(recipe.search.cache_gib * (1 << 30)))
    calibration = data.calibration(settings.batch_size, settings.search_batches, recipe.seed, device, memory)
    # Where networks are stopped after some samples, the first ones have to stand for all.
    seed = None if recipe.search.halving == 1 else recipe.seed
    held_out = data.held_out(recipe.search.batch_size, seed, device, memory)
    samples = len(held_out) if task.metric.is_mean else 0
    supernet = load_supernet(weights, space).to(device)
    return Evaluator(supernet, task, calibration, held_out, samples, held_out.unreadable)


def supernet_of(run: Run, recipe: Recipe, weights: WeightsFacts) -> str:
    """Return the `supernet_id` of a run's recipe as it was changed for one call.

    Where unreadable images stop a search nothing is evaluated, so that leaving them out makes no other supernet.
    """
    begun_with, data = recipe_of(run).data, recipe.data
    if isinstance(data, DataSettings) and isinstance(begun_with, DataSettings):
        data = data.model_copy(update={"on_unreadable": begun_with.on_unreadable})
    return supernet_id(recipe.model_copy(update={"data": data}), weights)


def supernet_id(recipe: Recipe, weights: WeightsFacts) -> str:
    """Return a digest that changes with the weights and with everything else that a score depends on."""
    conditions = [
        weights.sha256,
        recipe.seed,
        # Where samples lie, how many processes read them and how large they may be changes nothing, and an export's
        # batches only the export. Defaults are left out, so that a setting that is new in some version does not make
        # earlier evaluations those of another supernet.
        recipe.data.model_dump(mode="json", exclude={"path", "workers", "max_pixels"}, exclude_defaults=True),
        recipe.recalibration.model_dump(exclude={"batches"}),
    ]
    return sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]
