"""What a deployed model's input is made of: every step from an image file to the tensor, as JSON. Torch-free."""

from typing import Literal

from pydantic import Field

from nasdeploy.core.settings import Settings
from nasdeploy.data.settings import MOST_PIXELS, DataSettings, Decoding, Deviation, Mean, ValueRange


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
