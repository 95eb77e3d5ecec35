"""How one network is trained further alone, from the weights that it inherits. Torch-free."""

from typing import Any, Literal

from pydantic import Field

from nasdeploy.core.arch import Arch
from nasdeploy.core.settings import Settings
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.step_settings import DistillationSettings, SamplingSettings

DEFAULT_EPOCHS = 4
"""The epochs of a fine-tuning that is asked for where nothing says how many."""
_OF_TRAINING = (
    *("label_smoothing", "sync_bn", "world_size_change", "channels_last", "autocast", "tf32", "compile"),
    *("cuda_graphs", "threads", "checkpoint_steps", "checkpoint_minutes", "kept_checkpoints"),
    *("most_skipped", "tensorboard"),
)
"""The settings that a fine-tuning has from the training of the supernet."""


class FinetuneSettings(Settings):
    """The training of one network alone, after the search: AdamW, with warm-up and a cosine to nothing.

    The network learns from the labels and, with the weight `beta`, from the run's original, if it has one: by
    Kullback-Leibler divergence with softmax `temperature` T, times T^2.
    """

    epochs: int = Field(default=0, ge=0, le=100_000)
    """The epochs that the winner is trained for before `nasdeploy run` exports it; 0 exports it as it is."""
    batch_size: int | None = Field(default=None, ge=2, le=65536)
    """The batch size; that of the training if left out."""
    learning_rate: float = Field(default=1e-3, gt=0.0, le=100.0)
    """The highest learning rate, whatever the batch size."""
    warmup: float = Field(default=0.08, ge=0.0, le=1.0)
    """The part of the steps in which the learning rate rises to it."""
    weight_decay: float = Field(default=1e-2, ge=0.0)
    """The decay of weights; normalisation parameters and biases have none."""
    teacher: Literal["original", "none"] = "original"
    """Whether the run's original teaches beside the labels, where there is one."""
    temperature: float = Field(default=2.0, gt=0.0, le=100.0)
    """The softmax temperature T of the divergence."""
    beta: float = Field(default=0.5, gt=0.0, le=1.0)
    """The weight of the divergence; that of the label loss is 1 - beta."""

    def training(self, arch: Arch, epochs: int, train: TrainSettings, *, taught: bool) -> TrainSettings:
        """Return the settings by which the network of `arch` is trained alone for `epochs`.

        What they do not say is that of the supernet's `train`; `taught` says whether a teacher is there.
        """
        size = self.batch_size or train.batch_size
        none: dict[str, Any] = {"kind": "none"}
        taught_by = {"kind": "kl", "temperature": self.temperature, "beta": self.beta}
        return TrainSettings(
            **{name: getattr(train, name) for name in _OF_TRAINING},
            epochs=epochs,
            batch_size=size,
            reference_batch=size,
            optimizer="adamw",
            learning_rate=self.learning_rate,
            warmup_epochs=self.warmup * epochs,
            weight_decay=self.weight_decay,
            clip_value=None,
            # Only the largest network of a supernet needs these, which would hold back a smaller one.
            dropout=0.0,
            drop_connect=0.0,
            distillation=DistillationSettings(**(taught_by if taught else none)),
            sampling=SamplingSettings(kind="alone", arch=arch.to_json()),
        )
