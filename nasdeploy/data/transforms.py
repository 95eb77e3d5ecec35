"""From pictures to tensors: fetching, normalising, random changes in training, and a sample of all classes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from nasdeploy.core.errors import UserError
from nasdeploy.core.randomness import generator
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.images import Images, Indices
from nasdeploy.data.settings import AugmentSettings, DataSettings, Preprocessing
from nasdeploy.nn.functional import rescale

Triple = tuple[float, float, float]


def fetch(image: Image.Image, shorter_side: int, size: int) -> Image.Image:
    """Return steps 2 and 3 of `Preprocessing`: the centre `size` x `size` of the image resized to `shorter_side`."""
    resized = F.resize(image, [shorter_side], interpolation=InterpolationMode.BICUBIC, antialias=True)
    cropped: Image.Image = F.center_crop(resized, [size, size])
    return cropped


def normalise(pixels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return step 4 of `Preprocessing`: float32 from uint8 `[..., 3, H, W]`, on the device where they are."""
    scaled = pixels.to(torch.float32).div_(255)
    return scaled.sub_(_channels(mean, pixels.device)).div_(_channels(std, pixels.device))


def _channels(values: Triple, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


def prepare(preprocessing: Preprocessing, images: Sequence[Image.Image]) -> Tensor:
    """Return the input `[N, 3, resolution, resolution]` of an exported model for RGB pictures (`decode.read_rgb`)."""
    fetched = [F.pil_to_tensor(fetch(image, preprocessing.resize, preprocessing.crop)) for image in images]
    return rescale(normalise(torch.stack(fetched), preprocessing.mean, preprocessing.std), preprocessing.resolution)


def training_transform(settings: DataSettings) -> Callable[[Image.Image], Tensor]:
    """Return a function from an RGB picture to uint8 `[3, size, size]`, random by the global generators.

    A random resized crop takes the picture as it is; otherwise it has to be fetched before.
    """
    augment = settings.augment
    steps = _crop(settings.size, augment)
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augment.policy != "none":
        steps.append(policy_transform(augment.policy, settings))
    transform: Callable[[Image.Image], Tensor] = v2.Compose([*steps, v2.PILToTensor()])
    return transform


def _crop(size: int, augment: AugmentSettings) -> list[Callable[[Image.Image], Image.Image]]:
    if augment.crop == "random-resized":
        bicubic = InterpolationMode.BICUBIC
        return [v2.RandomResizedCrop(size, augment.scale, augment.ratio, interpolation=bicubic, antialias=True)]
    if augment.crop == "pad":
        return [v2.RandomCrop(size, padding=augment.pad)]
    return []


PictureTransform = Callable[[Image.Image], Image.Image]


def policy_transform(policy: str, settings: DataSettings) -> PictureTransform:
    """Return the policy for pictures of `settings.size`; raises `UserError` for a timm notation that timm refuses.

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


_MOST = 512
_LONGEST_S = 3.0
_FEWEST = 64
"""Images that are read however long that takes."""


@dataclass(frozen=True)
class ImageSample:
    """Labelled images; any first part of them has as many of each class as there are."""

    pixels: Tensor
    """uint8 `[N, 3, S, S]`"""
    labels: Tensor
    """`[N]`"""
    names: Sequence[str]
    """The names of the images, for messages."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "ImageSample":
        """Return the first images."""
        return ImageSample(self.pixels[:count], self.labels[:count], self.names[:count], self.classes)


def draw_sample(images: Images, classes: tuple[str, ...], settings: DataSettings, seed: int) -> ImageSample:
    """Draw at most 512 images, read in a few seconds, `settings.size` wide; those that cannot be read are left out.

    Raises `UnreadableImage` if that leaves none.
    """
    began = monotonic()
    pixels: list[Tensor] = []
    indices: list[int] = []
    for index in _turn_by_turn(images.labels, generator(seed, "sample"))[:_MOST].tolist():
        if len(indices) >= _FEWEST and monotonic() - began > _LONGEST_S:
            break
        try:
            pixels.append(F.pil_to_tensor(fetch(images.image(index), settings.shorter_side, settings.size)))
            indices.append(index)
        except UnreadableImage as error:
            # Training says what becomes of it.
            unreadable = error
    if not pixels:
        raise unreadable
    return ImageSample(
        torch.stack(pixels),
        torch.from_numpy(images.labels[np.asarray(indices, dtype=np.int64)]),
        [images.name_of(index, classes) for index in indices],
        classes,
    )


def _turn_by_turn(labels: Indices, rng: np.random.Generator) -> Indices:
    """Return indices of all images at random, one of each class before a second of any."""
    drawn = rng.permutation(len(labels))
    by_class = np.argsort(labels[drawn], kind="stable")
    _, sizes = np.unique(labels, return_counts=True)
    turn = np.empty(len(drawn), dtype=np.int64)
    turn[by_class] = np.concatenate([np.arange(size) for size in sizes]) if len(sizes) else 0
    return drawn[np.argsort(turn, kind="stable")]
