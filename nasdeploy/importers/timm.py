"""Models of timm (Wightman 2019)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from timm.models import EfficientNet, MobileNetV3, ResNet
from torch import nn

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.importers.importer import ExpectedImages, Imported, Read, fetching, no_weights, reader_of
from nasdeploy.importers.resnet import read_resnet
from nasdeploy.importers.timm_efficientnet import read_efficientnet, read_mobilenet_v3


class Timm:
    """The models of timm whose class is one of those that can be read."""

    def names(self) -> list[str]:
        """Return the names of the models whose class can be read."""
        return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__ in _MODULES]

    def model(self, name: str, *, pretrained: bool = False, classes: int | None = None) -> nn.Module:
        """Return timm's own model, in evaluation mode; see `Importer.model`."""
        if not timm.is_model(name):
            raise UserError(f"timm:{name}: timm has no such model{suggestion(name, timm.list_models())}")
        _require_weights(name, pretrained)
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        with fetching(f"timm:{name}", _missing(name) if pretrained else None):
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
        return model.eval()

    def read(self, model: nn.Module, name: str) -> Imported:
        """Return a model as rows and weights; raises `UserError` that names what no block can express."""
        full = f"timm:{name}"
        read = reader_of(model, full, _CLASSES)
        found = Imported(name, expected_images(model))
        read(full, model, found)
        return found


_CLASSES: Mapping[type[nn.Module], Read] = {
    EfficientNet: read_efficientnet,
    MobileNetV3: read_mobilenet_v3,
    ResNet: read_resnet,
}
"""What reads models of each class."""
_MODULES = ("timm.models.efficientnet", "timm.models.hardcorenas", "timm.models.mobilenetv3", "timm.models.resnet")
"""The modules of timm that make models of these classes."""


def _require_weights(name: str, pretrained: bool) -> None:
    """Raise `UserError` if timm has no trained weights of a model, or not those that its name has after a point."""
    arch, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{arch}.*") if pretrained or tag else []
    if tag and name not in tagged:
        raise UserError(f"timm:{name}: timm has no such weights{suggestion(name, tagged)}")
    if pretrained and not tagged:
        raise no_weights(f"timm:{name}")


def _missing(name: str) -> str | None:
    """Return where timm's weights of a model are fetched; None if they were fetched before."""
    config: Any = timm.get_pretrained_cfg(name)
    if config.hf_hub_id:
        found = any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in _HUB_FILES)
        return None if found else hf_hub_url(config.hf_hub_id, _HUB_FILES[0])
    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url).name
    return None if kept.is_file() else str(config.url)


_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The files that timm looks for, in this order."""


def expected_images(model: nn.Module) -> ExpectedImages:
    """Return what timm's configuration of a model says of its images.

    The size is that of the training. For some models timm also knows a larger one that is better in evaluation; a start
    is trained further, and larger images cost more.
    """
    config: Any = model.pretrained_cfg
    return ExpectedImages(
        config["input_size"][-1], config["mean"], config["std"], config["crop_pct"], config["interpolation"]
    )
