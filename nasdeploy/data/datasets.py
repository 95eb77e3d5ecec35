"""Every kind of data that a recipe can name, and opening it."""

from collections.abc import Callable

from nasdeploy.data.cifar10 import open_cifar10
from nasdeploy.data.digits import open_digits
from nasdeploy.data.fashion_mnist import open_fashion_mnist
from nasdeploy.data.folder import open_folder
from nasdeploy.data.images import ImageSets
from nasdeploy.data.opened import OpenedData
from nasdeploy.data.settings import DatasetKind, DataSettings
from nasdeploy.data.shards import open_shards
from nasdeploy.data.split import sets_of, split

DATASETS: dict[DatasetKind, Callable[[DataSettings], OpenedData]] = {
    "folder": open_folder,
    "shards": open_shards,
    "digits": open_digits,
    "cifar10": open_cifar10,
    "fashion-mnist": open_fashion_mnist,
}


def read_data(settings: DataSettings) -> OpenedData:
    """The images that `settings` describe, not split yet; raises `UserError` naming what is missing or damaged."""
    return DATASETS[settings.kind](settings)


def open_data(settings: DataSettings, seed: int) -> ImageSets:
    """The images that `settings` describe, split by `seed`; raises `UserError` naming what is missing or damaged.

    Those of a run are split as it says, see `nasdeploy.workflows.same_data`.
    """
    data = read_data(settings)
    return sets_of(data, split(data, settings, seed))
