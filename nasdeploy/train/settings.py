"""How a supernet is trained. Torch-free; defaults are AlphaNet's (appendix B)."""

from typing import Literal

from pydantic import Field, model_validator

from nasdeploy.settings import Settings


class DistillationSettings(Settings):
    """What sub-networks learn from the largest network of the same step.

    `alpha`: adaptive alpha-divergence between `alpha_min` and `alpha_max` with importance weights clipped at `clip`
    (AlphaNet, section 3). `kl`: Kullback-Leibler divergence (BigNAS, AttentiveNAS). `none`: the labels instead.
    """

    kind: Literal["alpha", "kl", "none"] = "alpha"
    alpha_min: float = Field(default=-1.0, ge=-10.0, le=10.0)
    alpha_max: float = Field(default=1.0, ge=-10.0, le=10.0)
    clip: float = Field(default=5.0, gt=0.0)


class TrainSettings(Settings):
    """The sandwich rule: each step trains the largest, `random_networks` random ones and the smallest network."""

    epochs: int = Field(default=360, ge=1, le=100_000)
    batch_size: int = Field(default=256, ge=2, le=65536)
    learning_rate: float = Field(default=0.1, gt=0.0, le=100.0)
    """For 256 images a step; scaled linearly with the batch size."""
    warmup_epochs: float = Field(default=5.0, ge=0.0)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-5, ge=0.0)
    """On weights only; normalisation parameters and biases have none."""
    clip_value: float | None = Field(default=1.0, gt=0.0)
    """Gradients are clipped to +-clip_value; null for no clipping."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Of the largest network, before the classifier."""
    drop_connect: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Of the largest network, growing with depth, in the last two stages."""
    distillation: DistillationSettings = DistillationSettings()
    random_networks: int = Field(default=2, ge=0, le=64)
    validate_every: int = Field(default=1, ge=1)
    """Epochs between validations of the smallest, the largest and `validate_random` random networks."""
    validate_random: int = Field(default=2, ge=0, le=64)
    channels_last: bool = True
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads; as many as there are cores if left out."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum; set nesterov: false")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, more than the {self.epochs} epochs")
        return self
