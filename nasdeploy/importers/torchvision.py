"""Models of torchvision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import EfficientNet, MNASNet, MobileNetV2, MobileNetV3, ResNet

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.importers.importer import ExpectedImages, Imported, Read, fetching, reader_of
from nasdeploy.importers.resnet import read_resnet
from nasdeploy.importers.torchvision_mobile import read_efficientnet, read_mnasnet, read_mobilenet

_CLASSES: Mapping[type[nn.Module], Read] = {
    EfficientNet: read_efficientnet,
    MNASNet: read_mnasnet,
    MobileNetV2: read_mobilenet,
    MobileNetV3: read_mobilenet,
    ResNet: read_resnet,
}
"""What reads models of each class."""


class Torchvision:
    """The models of torchvision whose class is one of those that can be read."""

    def names(self) -> list[str]:
        """Return the names of the models whose class can be read."""
        modules = {each.__module__ for each in _CLASSES}
        found = torchvision.models.list_models(module=torchvision.models)
        return [name for name in found if torchvision.models.get_model_builder(name).__module__ in modules]

    def model(self, name: str, *, pretrained: bool = False, classes: int | None = None) -> nn.Module:
        """Return torchvision's own model, in evaluation mode; see `Importer.model`."""
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise UserError(f"torchvision:{name}: torchvision has no such model{suggestion(name, known)}")
        with fetching(f"torchvision:{name}", _missing(name) if pretrained else None):
            model: nn.Module = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None)
        if classes is not None:
            _replace_classifier(model, classes)
        return model.eval()

    def read(self, model: nn.Module, name: str) -> Imported:
        """Return a model as rows and weights; raises `UserError` that names what no block can express."""
        full = f"torchvision:{name}"
        read = reader_of(model, full, _CLASSES)
        found = Imported(name, expected_images(name))
        read(full, model, found)
        return found


def _missing(name: str) -> str | None:
    """Return where torchvision's newest weights of a model are fetched; None if they were fetched before."""
    url = str(torchvision.models.get_model_weights(name).DEFAULT.url)
    return None if (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file() else url


def expected_images(name: str) -> ExpectedImages:
    """Return what torchvision's transforms for the newest weights of a model do to images."""
    transforms: Any = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    (crop,), (resized,) = transforms.crop_size, transforms.resize_size
    return ExpectedImages(
        crop, tuple(transforms.mean), tuple(transforms.std), crop / resized, transforms.interpolation.value
    )


def _replace_classifier(model: nn.Module, classes: int) -> None:
    """Give a model whose last layer is the classifier another one; only untrained models can be made with it."""
    path, last = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    if last.out_features != classes:
        model.set_submodule(path, nn.Linear(last.in_features, classes))
