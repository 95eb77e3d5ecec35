"""What a run has for strategies that use more than the problem: its supernet, its training images, its predictor."""

from pathlib import Path

from nasdeploy.data.batches import TrainingBatches
from nasdeploy.nn.device import compute_device
from nasdeploy.searching.predictors.files import load_predictor, save_predictor
from nasdeploy.searching.predictors.predictor import Fitted
from nasdeploy.searching.strategies.means import Means, Trained
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.workflows.request import SearchRequest
from nasdeploy.workflows.run_data import open_data_of

PREDICTOR = "predictor.npz"


def means_of(request: SearchRequest, weights: Path, supernet: str) -> Means:
    """The means of a run; a predictor that a search fits is kept in it, as that of the digest `supernet`.

    Raises `UserError` if the recipe names a predictor that is damaged, or of another space or supernet.
    """
    path, file = request.run.path / PREDICTOR, request.recipe.search.predictor_file
    known = None if file is None else load_predictor(Path(file), request.space, supernet)

    def keep(fitted: Fitted) -> None:
        save_predictor(path, fitted, supernet)

    return Means(trained=lambda: _trained(request, weights), predictor=known, keep=keep)


def _trained(request: SearchRequest, weights: Path) -> Trained:
    """The supernet, and batches of the images that it was trained on, which are not those held out for the search."""
    recipe, device = request.recipe, compute_device()
    sets = open_data_of(request.run, recipe)

    batches = TrainingBatches(sets.train, recipe.images, recipe.train.batch_size, recipe.seed, device=device)
    return Trained(load_supernet(weights, request.space).to(device), batches.epoch)
