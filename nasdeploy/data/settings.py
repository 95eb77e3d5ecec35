"""What a recipe says about its data, and what a deployed model's input is made of. Torch-free.

The first is where the images are, how they are fetched, augmented and split; the second is every step from an image
file to the tensor, as JSON.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Optional, Protocol

from pydantic import AfterValidator, Field, PrivateAttr, field_validator, model_validator

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings, refuse_unused

if TYPE_CHECKING:
    from nasdeploy.data.inventory import OpenedData


DatasetKind = Literal["folder", "shards", "digits", "cifar10", "fashion-mnist", "python"]

KNOWN_CLASSES: Mapping[DatasetKind, int] = {"digits": 10, "cifar10": 10, "fashion-mnist": 10}
"""Number of classes of the kinds that are always the same images."""

Mean = Annotated[float, Field(ge=0.0, le=1.0)]
Deviation = Annotated[float, Field(gt=0.0, le=1.0)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Where data sets that torchvision fetches are looked for unless the recipe names a path.
DOWNLOADS = "~/.cache/nasdeploy"

_TIMM_POLICY = re.compile(r"(original|originalr|v0|v0r|3a|rand|augmix)(-[a-z]+[0-9.]+)*")


MOST_PIXELS = 178_956_970
"""The most pixels of a picture unless the recipe allows more: where Pillow takes it for an attack on the memory."""


ValueBounds = tuple[float, float]


class Decoding(NamedTuple):
    """How pictures are decoded.

    `range`: values of black and white of pictures with more than 8 bits, known before any is decoded; None for the
    upper 8 bits. `max_pixels`: most pixels of one.
    """

    range: ValueBounds | Literal["measured"] | None = None
    max_pixels: int = MOST_PIXELS


def _black_and_white(bounds: ValueBounds) -> ValueBounds:
    if bounds[0] >= bounds[1]:
        raise ValueError("the first number, that of black, must be below the second, that of white")
    return bounds


ValueRange = Annotated[ValueBounds, AfterValidator(_black_and_white)]
"""Values of pixels that become black and white."""


class AugmentSettings(Settings):
    """Random changes to training images, in this order: crop, horizontal flip, policy.

    `crop`: `random-resized` (a random part of `scale` of the area and of aspect `ratio`, resized), `pad` (`pad` black
    pixels on each side, then a random crop) or `none`. `policy`: `none`, torchvision's `imagenet` (AutoAugment) and
    `trivial` (TrivialAugment Wide), or timm's notation, e.g. `v0-mstd0.5`, `rand-m9-mstd0.5`.
    """

    crop: Literal["random-resized", "pad", "none"] = "random-resized"
    scale: tuple[Annotated[float, Field(gt=0.0, le=1.0)], Annotated[float, Field(gt=0.0, le=1.0)]] = (0.08, 1.0)
    ratio: tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]] = (3 / 4, 4 / 3)
    pad: int = Field(default=4, ge=1, le=256)
    flip: bool = True
    policy: str = "none"

    @field_validator("scale", "ratio")
    @classmethod
    def _ascending(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] > bounds[1]:
            raise ValueError("the first number must not be above the second")
        return bounds

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        if policy not in ("none", "imagenet", "trivial") and not _TIMM_POLICY.fullmatch(policy):
            raise ValueError("write none, imagenet, trivial, or timm's notation such as v0-mstd0.5 or rand-m9-mstd0.5")
        return policy

    @model_validator(mode="after")
    def _used(self) -> "AugmentSettings":
        users = {"scale": ("random-resized",), "ratio": ("random-resized",), "pad": ("pad",)}
        refuse_unused(self, "crop", users)
        return self


class LabelledDataset(Protocol):
    """What `torch.utils.data.Dataset` gives where it has a length: a picture and its label (a class index) each.

    A picture is a Pillow image, or bytes: a tensor `[3, H, W]` or an array `[H, W, 3]` or `[H, W]`, both uint8.
    """

    def __len__(self) -> int:
        """Return the number of pictures."""

    def __getitem__(self, index: int, /) -> Any:
        """Return one picture and its label."""


class DataSettings(Settings):
    """Images of a run.

    `size`: side in pixels that images are fetched at (the model rescales from there to its own resolution).
    `resize`: length of the shorter side before the centre crop of `size` in evaluation; `size` if left out.
    `holdout`: fraction of the training images kept apart for the search's accuracy. `test`: fraction of all images
    kept for testing where the data brings no test part. `images_per_class`: train on a random part of this many.
    `balance`: for classes of unequal size, `sampling` draws each class as often, with replacement, so that images of
    small classes come several times an epoch; `loss` weighs the label loss by the inverse of the class's size, with a
    mean of 1 over the training images (distillation is not weighed); `none`, each image counts as much.
    `duplicates`: of a picture that is there several times, byte for byte, `leave-out` uses one copy, a training image
    if there is one, and none if they lie under several classes; `keep` uses all.
    `workers`: processes that read images; as many as the machine and the data call for if left out.
    `range`: of pictures with more than 8 bits, the values that become black and white; `measured`, those of the
    training images when a run is begun, which the run keeps; if left out, the upper 8 bits are taken. `max_pixels`: of
    one picture, so that a damaged or hostile file cannot fill the memory.
    """

    kind: DatasetKind
    path: str | None = None
    size: int = Field(ge=4, le=2048)
    resize: int | None = Field(default=None, ge=4, le=4096)
    mean: tuple[Mean, Mean, Mean] = IMAGENET_MEAN
    std: tuple[Deviation, Deviation, Deviation] = IMAGENET_STD
    augment: AugmentSettings = AugmentSettings()
    holdout: Fraction = 0.1
    test: Fraction = 0.2
    images_per_class: int | None = Field(default=None, ge=2)
    balance: Literal["none", "sampling", "loss"] = "none"
    duplicates: Literal["keep", "leave-out"] = "keep"
    on_unreadable: Literal["stop", "skip"] = "stop"
    workers: int | None = Field(default=None, ge=0, le=256)
    range: ValueRange | Literal["measured"] | None = None
    max_pixels: int = Field(default=MOST_PIXELS, ge=1, le=1 << 40)
    _given: Optional["OpenedData"] = PrivateAttr(default=None)

    def holding(self, data: "OpenedData") -> "DataSettings":
        """Return a copy that names no files: the images are `data`, which a recipe in a file cannot hold."""
        copy = self.model_copy(update={"kind": "python", "path": None})
        copy._given = data
        return copy

    @property
    def given(self) -> "OpenedData":
        """The images of kind `python`; raises `UserError` where the settings were read from a file."""
        if self._given is None:
            raise UserError("data: the images are Python objects and in no file; pass them from Python once more")
        return self._given

    @property
    def decoding(self) -> Decoding:
        """Return how its pictures are decoded."""
        return Decoding(self.range, self.max_pixels)

    @property
    def shorter_side(self) -> int:
        """Length in pixels of the shorter side before the centre crop."""
        return self.resize or self.size

    @model_validator(mode="after")
    def _consistent(self) -> "DataSettings":
        if self.kind in ("folder", "shards") and self.path is None:
            inside = "train/CLASS/" if self.kind == "folder" else "train/*.tar"
            raise ValueError(f"path is missing: name the folder that holds {inside}, or pass `data=DIR`")
        if self.kind == "digits" and self.path is not None:
            raise ValueError("digits come with scikit-learn: leave path out, or set kind: folder to use your images")
        if self.shorter_side < self.size:
            raise ValueError(f"resize is {self.resize}, less than size {self.size}: nothing would be left to crop")
        refuse_unused(self, "kind", dict.fromkeys(("range", "max_pixels"), ("folder", "shards")))
        return self


class Preprocessing(Settings):
    """The steps in order, from an image file to the model's input; part of an exported model's manifest.

    1. Decode, turn upright by the EXIF orientation, blend transparent pixels with white, convert to 8-bit `color`. Grey
       of more than 8 bits becomes 8 bits: `range` is spread over 0 to 255, rounded, and what lies outside is cut off;
       without it the upper 8 of 16 bits stay. Pictures of more than `max_pixels` are refused.
    2. Resize: the shorter side becomes `resize` and the longer one int(resize * longer / shorter), by `resize_filter`,
       Pillow's antialiased bicubic.
    3. Crop the centre, `crop` x `crop`; its left edge is at round((width - crop) / 2), ties to even; top likewise.
    4. Multiply by `scale` (to 0 .. 1), subtract `mean` and divide by `std`, by channel.
    5. Rescale to `resolution` x `resolution` by `rescale`: bicubic with a = -0.75, corners not aligned, not
       antialiased (`torch.nn.functional.interpolate`; OpenCV's INTER_CUBIC). Nothing is done if `crop` is `resolution`.

    The result has `layout` and `dtype`.
    """

    color: Literal["RGB"] = "RGB"
    orientation: Literal["EXIF"] = "EXIF"
    transparency: Literal["white"] = "white"
    range: ValueRange | None = None
    max_pixels: int = Field(default=MOST_PIXELS, ge=1)
    resize: int = Field(ge=1)
    resize_filter: Literal["bicubic-antialiased"] = "bicubic-antialiased"
    crop: int = Field(ge=1)
    scale: float = Field(default=1 / 255, gt=0.0)
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]
    resolution: int = Field(ge=1)
    rescale: Literal["bicubic"] = "bicubic"
    layout: Literal["NCHW"] = "NCHW"
    dtype: Literal["float32"] = "float32"

    @classmethod
    def from_settings(cls, data: DataSettings, resolution: int) -> "Preprocessing":
        """Return what evaluation does to images of `data`, of known range, before a network of `resolution` sees
        them."""
        bounds, max_pixels = data.decoding
        assert bounds != "measured"
        return cls(
            range=bounds,
            max_pixels=max_pixels,
            resize=data.shorter_side,
            crop=data.size,
            mean=data.mean,
            std=data.std,
            resolution=resolution,
        )

    @property
    def decoding(self) -> Decoding:
        """Return how pictures are decoded."""
        return Decoding(self.range, self.max_pixels)
