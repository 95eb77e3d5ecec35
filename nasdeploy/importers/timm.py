"""Models of timm (Wightman 2019): EfficientNets and what is built from the same blocks."""

from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.layers.norm_act import BatchNormAct2d
from timm.models import EfficientNet
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import Tensor, nn

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.importers.importer import ExpectedImages, Imported, norm_weights

_ACTIVATIONS: Mapping[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "swish",
    nn.Hardswish: "hswish",
}


class Timm:
    """The models of timm whose class is one of those that can be read."""

    def names(self) -> list[str]:
        """Return the names of the models whose class can be read."""
        return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__ in _MODULES]

    def model(self, name: str, *, pretrained: bool = False, classes: int | None = None) -> nn.Module:
        """Return timm's own model, in evaluation mode; see `Importer.model`."""
        if not timm.is_model(name):
            raise UserError(f"timm:{name}: timm has no such model{suggestion(name, timm.list_models())}")
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
        return model.eval()

    def read(self, model: nn.Module, name: str) -> Imported:
        """Return a model as rows and weights; raises `UserError` that names what no block can express."""
        if not isinstance(model, EfficientNet):
            raise UserError(f"timm:{name}: models of class {type(model).__name__} cannot be read")
        found = Imported(name, preprocessing(model))
        _read_stem(found, model)
        stages: Any = model.blocks
        for stage in stages:
            found.add_stage()
            for block in stage:
                found.add_block(*_BLOCKS[type(block)](block))
        _read_head(found, model)
        return found


_MODULES = ("timm.models.efficientnet",)


def preprocessing(model: nn.Module) -> ExpectedImages:
    """Return what timm's configuration of a model says of its images."""
    config: Any = model.pretrained_cfg
    return ExpectedImages(
        config["input_size"][-1], config["mean"], config["std"], config["crop_pct"], config["interpolation"]
    )


def _read_stem(found: Imported, model: EfficientNet) -> None:
    conv, norm = model.conv_stem, model.bn1
    row = {
        "kind": "stem",
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size[0],
        "stride": conv.stride[0],
        "activation": _activation(norm),
        "bn_eps": norm.eps,
        "padding": _padding(conv),
    }
    found.add_stem(row, {"conv.weight": conv.weight, **norm_weights("norm", norm)})


def _read_head(found: Imported, model: EfficientNet) -> None:
    row = {
        "kind": "classifier",
        "classes": model.num_classes,
        "activation": _activation(model.bn2),
        "conv_channels": model.conv_head.out_channels,
        "bn_eps": model.bn2.eps,
    }
    weights = {"conv.weight": model.conv_head.weight, **norm_weights("conv_norm", model.bn2)}
    classifier = model.classifier
    found.add_head(row, {**weights, "classifier.weight": classifier.weight, "classifier.bias": classifier.bias})


def _inverted_residual(block: InvertedResidual) -> tuple[dict[str, Any], dict[str, Tensor]]:
    row = _row(block, block.conv_dw, block.conv_pwl.out_channels, block.bn1) | {"expansion": "always"}
    weights = {
        "expand.weight": block.conv_pw.weight,
        **norm_weights("expand_norm", block.bn1),
        "depthwise.weight": block.conv_dw.weight,
        **norm_weights("depthwise_norm", block.bn2),
        "project.weight": block.conv_pwl.weight,
        **norm_weights("project_norm", block.bn3),
    }
    return row, weights


def _separable(block: DepthwiseSeparableConv) -> tuple[dict[str, Any], dict[str, Tensor]]:
    row = _row(block, block.conv_dw, block.conv_pw.out_channels, block.bn1)
    weights = {
        "depthwise.weight": block.conv_dw.weight,
        **norm_weights("depthwise_norm", block.bn1),
        "project.weight": block.conv_pw.weight,
        **norm_weights("project_norm", block.bn2),
    }
    return row, weights


_BLOCKS: dict[type[nn.Module], Callable[[Any], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    InvertedResidual: _inverted_residual,
    DepthwiseSeparableConv: _separable,
}


def _row(block: Any, depthwise: nn.Conv2d, out_channels: int, norm: BatchNormAct2d) -> dict[str, Any]:
    return {
        "kind": "inverted-residual",
        "out_channels": out_channels,
        "kernel_size": depthwise.kernel_size[0],
        "mid_channels": depthwise.out_channels,
        "stride": depthwise.stride[0],
        "se_channels": 0,
        "activation": _activation(norm),
        "shortcut": "identity" if block.has_skip else "none",
        "bn_eps": norm.eps,
        "padding": _padding(depthwise),
    }


def _activation(norm: BatchNormAct2d) -> str:
    return _ACTIVATIONS[type(norm.act)]


def _padding(conv: nn.Conv2d) -> str:
    return "same" if type(conv) is not nn.Conv2d else "symmetric"
