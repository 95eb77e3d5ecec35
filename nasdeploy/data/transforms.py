"""From pictures to tensors: fetching, normalising, and random changes in training."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from nasdeploy.data.policy import policy_transform
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.data.settings import AugmentSettings, DataSettings
from nasdeploy.nn.rescale import rescale

Triple = tuple[float, float, float]


def fetch(image: Image.Image, shorter_side: int, size: int) -> Image.Image:
    """Steps 2 and 3 of `Preprocessing`: the centre `size` x `size` of the image resized to `shorter_side`."""
    resized = F.resize(image, [shorter_side], interpolation=InterpolationMode.BICUBIC, antialias=True)
    cropped: Image.Image = F.center_crop(resized, [size, size])
    return cropped


def normalise(pixels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Step 4 of `Preprocessing`: float32 from uint8 `[..., 3, H, W]`, on the device where they are."""
    scaled = pixels.to(torch.float32).div_(255)
    return scaled.sub_(_channels(mean, pixels.device)).div_(_channels(std, pixels.device))


def _channels(values: Triple, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)


def prepare(preprocessing: Preprocessing, images: Sequence[Image.Image]) -> Tensor:
    """The input `[N, 3, resolution, resolution]` of an exported model for RGB pictures (`decode.read_rgb`)."""
    fetched = [F.pil_to_tensor(fetch(image, preprocessing.resize, preprocessing.crop)) for image in images]
    return rescale(normalise(torch.stack(fetched), preprocessing.mean, preprocessing.std), preprocessing.resolution)


def training_transform(settings: DataSettings) -> Callable[[Image.Image], Tensor]:
    """A function from an RGB picture to uint8 `[3, size, size]`, random by the global generators.

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
