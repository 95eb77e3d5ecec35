"""Augmentation policies of torchvision and timm by the names that recipes use."""

from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2

from nasdeploy.core.errors import UserError
from nasdeploy.data.settings import DataSettings

PictureTransform = Callable[[Image.Image], Image.Image]


def policy_transform(policy: str, settings: DataSettings) -> PictureTransform:
    """The policy for pictures of `settings.size`; raises `UserError` for a timm notation that timm refuses.

    `imagenet` is torchvision's AutoAugment, `trivial` its TrivialAugment Wide; the rest is timm's, which draws from
    Python's and NumPy's global generators where torchvision draws from torch's.
    """
    fill = [round(255 * value) for value in settings.mean]
    transform: PictureTransform
    if policy == "imagenet":
        transform = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, InterpolationMode.BILINEAR, fill)
    elif policy == "trivial":
        transform = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR, fill=fill)
    else:
        transform = _timm(policy, {"translate_const": int(0.45 * settings.size), "img_mean": tuple(fill)})
    return transform


def _timm(policy: str, parameters: dict[str, Any]) -> PictureTransform:
    from timm.data import auto_augment

    kind = policy.partition("-")[0]
    makers = {"rand": auto_augment.rand_augment_transform, "augmix": auto_augment.augment_and_mix_transform}
    try:
        transform: PictureTransform = makers.get(kind, auto_augment.auto_augment_transform)(policy, parameters)
    except (AssertionError, ValueError) as error:
        raise UserError(f"data.augment.policy is '{policy}': timm refuses it ({error}); correct it") from None
    for operation in _operations(transform):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return transform


def _operations(transform: Any) -> Iterator[Any]:
    if hasattr(transform, "policy"):
        for part in transform.policy:
            yield from part
    else:
        yield from transform.ops


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the upper `bits`. With 0, which timm asks for at strong magnitudes and Pillow 13 refuses, black remains."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits >= 1 else Image.new(image.mode, image.size)
