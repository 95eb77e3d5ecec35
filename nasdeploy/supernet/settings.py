"""What a supernet begins with, and how networks extracted from it are recalibrated. Torch-free."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from nasdeploy.core.settings import Settings

Average = Literal["cumulative", "image-weighted"]
"""How statistics of batches become those of a network.

`cumulative` is the mean over batches of their means and of their unbiased variances (BigNAS, AlphaNet);
`image-weighted` that of their means and of their own, biased variances, each batch counting by its images
(once-for-all). Either leaves out the variance between the batches' means.
"""


class RecalibrationSettings(Settings):
    """Training images for batch-norm recalibration (AlphaNet: 64 batches of 256, 32 batches during search)."""

    batch_size: int = Field(default=256, ge=2, le=65536)
    """The images of a batch."""
    batches: int = Field(default=64, ge=1, le=10000)
    """The batches that a network is recalibrated on when it is exported."""
    search_batches: int = Field(default=32, ge=1, le=10000)
    """The batches that a network is recalibrated on in a search, in `nasdeploy evaluate`, and in validation."""
    average: Average = "cumulative"
    """How statistics of batches become those of a network: `cumulative` takes the mean over batches of their means and
    unbiased variances (BigNAS, AlphaNet), `image-weighted` that of their means and biased variances, each batch
    counting by its images (once-for-all)."""

    @model_serializer(mode="wrap")
    def _without_default(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the usual average, which runs and evaluations of earlier versions do not name."""
        return {name: value for name, value in plain(self).items() if (name, value) != ("average", "cumulative")}


FROM_LIBRARIES = ("timm", "torchvision")
"""The libraries whose models a supernet can be grown from, by what stands before the colon."""


FROM_PUBLISHED = ("alphanet", "attentivenas", "ofa")
"""The kinds of published supernets that a supernet can begin as, by what stands before the colon."""


class StartSettings(Settings):
    """The pretrained network whose weights a supernet begins with."""

    model: str
    """The network: `timm:NAME` or `torchvision:NAME`, a model of that library, which the recipe's space was grown from;
    `run:DIR`, an earlier run with the same space; or a published supernet of the recipe's space, such as
    `alphanet:FILE`."""
    weights: str | None = None
    """The file with the model's own state dict, of PyTorch or safetensors; if left out, the library fetches those that
    it has published."""
    classifier: Literal["keep", "new"] = "keep"
    """Whether to `keep` a classifier of as many classes as the data have, which are then the same in the same order, or
    to begin with a `new` one, as with any other number of classes. That of a run is kept only if it learned classes of
    the same names."""

    @field_validator("model")
    @classmethod
    def _named(cls, model: str) -> str:
        kind, _, name = model.partition(":")
        if kind not in (*FROM_LIBRARIES, *FROM_PUBLISHED, "run") or not name:
            published = ", ".join(f"{name}:FILE" for name in FROM_PUBLISHED)
            raise ValueError(f"write timm:NAME, torchvision:NAME or run:DIR, or for a published supernet {published}")
        return model

    @model_validator(mode="after")
    def _used(self) -> "StartSettings":
        if self.kind not in FROM_LIBRARIES and self.weights is not None:
            own = "a run" if self.kind == "run" else "a published supernet"
            raise ValueError(f"weights belong to a model of a library; {own} brings its own")
        return self

    @property
    def kind(self) -> str:
        """The library, the kind of published supernets, or `run`."""
        return self.model.partition(":")[0]

    @property
    def name(self) -> str:
        """The name of the model in its library, the file of the published supernet, or the directory of the run."""
        return self.model.partition(":")[2]
