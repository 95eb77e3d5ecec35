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
    """Random changes to training images, in this order: crop, horizontal flip, policy."""

    crop: Literal["random-resized", "pad", "none"] = "random-resized"
    """How a part of the image is taken: `random-resized` resizes a random part of it, `pad` crops at random after black
    pixels were added on each side, and `none` takes the centre."""
    scale: tuple[Annotated[float, Field(gt=0.0, le=1.0)], Annotated[float, Field(gt=0.0, le=1.0)]] = (0.08, 1.0)
    """The least and the greatest part of the image's area that a random part has; for `random-resized`."""
    ratio: tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]] = (3 / 4, 4 / 3)
    """The least and the greatest width by height of a random part; for `random-resized`."""
    pad: int = Field(default=4, ge=1, le=256)
    """The black pixels that are added on each side; for `pad`."""
    flip: bool = True
    """Whether half of the images are mirrored, left to right."""
    policy: str = "none"
    """The changes of colour and shape: `none`, torchvision's `imagenet` (AutoAugment) or `trivial` (TrivialAugment
    Wide), or timm's notation, e.g. `v0-mstd0.5` or `rand-m9-mstd0.5`."""

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
    """The images of a run: where they are, how they are read, and how they are split."""

    kind: DatasetKind
    """What the images are in: a `folder` with one for each class, tar `shards`, one of the data sets that are known by
    name, or `python`, objects that a file cannot hold."""
    path: str | None = None
    """The folder of the images; for data sets that are known by name, where they are looked for."""
    size: int = Field(ge=4, le=2048)
    """The side in pixels that images are fetched at; a network rescales from there to its own resolution."""
    resize: int | None = Field(default=None, ge=4, le=4096)
    """The length in pixels of the shorter side before the centre crop of `size` in evaluation; `size` if left out."""
    mean: tuple[Mean, Mean, Mean] = IMAGENET_MEAN
    """What is subtracted from red, green and blue, of values between 0 and 1."""
    std: tuple[Deviation, Deviation, Deviation] = IMAGENET_STD
    """What red, green and blue are divided by, after `mean` was subtracted."""
    augment: AugmentSettings = AugmentSettings()
    """The random changes to training images."""
    holdout: Fraction = 0.1
    """The part of the training images that is kept apart for the search's accuracy."""
    test: Fraction = 0.2
    """The part of all images that is kept for testing, where the data brings no test part."""
    images_per_class: int | None = Field(default=None, ge=2)
    """The number of images of each class that are trained on, drawn at random; all if left out."""
    balance: Literal["none", "sampling", "loss"] = "none"
    """What is done for classes of unequal size: `sampling` draws each class as often, with replacement, so that images
    of small classes come several times an epoch; `loss` weighs the label loss by the inverse of the class's size, with
    a mean of 1 over the training images (distillation is not weighed); with `none` each image counts as much."""
    duplicates: Literal["keep", "leave-out"] = "keep"
    """What is done with a picture that is there several times, byte for byte: `leave-out` uses one copy, a training
    image if there is one, and none if they lie under several classes; `keep` uses all."""
    on_unreadable: Literal["stop", "skip"] = "stop"
    """What happens when decoding shows that a picture is damaged: `stop` ends with its name, `skip` leaves it out and
    counts it in every figure."""
    workers: int | None = Field(default=None, ge=0, le=256)
    """The number of processes that read images; as many as the machine and the data call for if left out."""
    cache: Literal["auto", "none", "memory", "disk"] = "auto"
    """Where pictures are kept once they are decoded, so that later epochs need not decode them again; results are the
    same. `auto` keeps pictures resized to `size` in memory, of each set of images that then takes at most 512 MB.
    `memory` and `disk` also keep the whole pictures that random resized crops take, with 3 bytes a pixel: `memory` what
    takes at most half of the free memory, and larger sets as `disk` does; `disk` what takes at most half of the free
    space, in files in `~/.cache/nasdeploy/pictures` that all processes and later commands read. What does not fit is
    decoded each time, as everything is with `none`."""
    range: ValueRange | Literal["measured"] | None = None
    """The values that become black and white in pictures with more than 8 bits; `measured`: those of the training
    images when a run is begun, which the run keeps. If left out, the upper 8 bits are taken."""
    max_pixels: int = Field(default=MOST_PIXELS, ge=1, le=1 << 40)
    """The most pixels of one picture, so that a damaged or hostile file cannot fill the memory."""
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
    """The channels that a picture is converted to, 8 bits each (step 1)."""
    orientation: Literal["EXIF"] = "EXIF"
    """What says how a picture is turned upright (step 1)."""
    transparency: Literal["white"] = "white"
    """The colour that transparent pixels are blended with (step 1)."""
    range: ValueRange | None = None
    """The values of grey pictures with more than 8 bits that become black and white; null for the upper 8 bits
    (step 1)."""
    max_pixels: int = Field(default=MOST_PIXELS, ge=1)
    """The most pixels of a picture; larger ones are refused (step 1)."""
    resize: int = Field(ge=1)
    """The length in pixels that the shorter side becomes (step 2)."""
    resize_filter: Literal["bicubic-antialiased"] = "bicubic-antialiased"
    """The filter by which pictures are resized (step 2)."""
    crop: int = Field(ge=1)
    """The side in pixels of the centre that is cropped (step 3)."""
    scale: float = Field(default=1 / 255, gt=0.0)
    """What 8-bit values are multiplied by (step 4)."""
    mean: tuple[Mean, Mean, Mean]
    """What is subtracted from red, green and blue (step 4)."""
    std: tuple[Deviation, Deviation, Deviation]
    """What red, green and blue are divided by (step 4)."""
    resolution: int = Field(ge=1)
    """The side in pixels of the network's input (step 5)."""
    rescale: Literal["bicubic"] = "bicubic"
    """How the crop is rescaled to `resolution` (step 5)."""
    layout: Literal["NCHW"] = "NCHW"
    """The order of the input's axes: batch, channels, height, width."""
    dtype: Literal["float32"] = "float32"
    """The type of the input's numbers."""

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
