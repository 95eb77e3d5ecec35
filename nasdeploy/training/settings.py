"""How a supernet is trained. Torch-free; defaults are AlphaNet's (appendix B)."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nasdeploy.core.settings import Settings, refuse_unused
from nasdeploy.training.step_settings import ORIGINAL, DistillationSettings, SamplingSettings

_OPTIMIZERS: Mapping[str, tuple[str, ...]] = {
    "momentum": ("sgd", "rmsprop"),
    "rmsprop_decay": ("rmsprop",),
    "betas": ("adamw",),
    "epsilon": ("rmsprop", "adamw"),
}
"""The optimizers that use a key."""
_DECAYS: Mapping[str, tuple[str, ...]] = {"step_epochs": ("step",), "step_factor": ("step",)}
"""The decays of the learning rate that use a key."""


class LearningSettings(Settings):
    """What may be different in each phase of a training."""

    trains: Literal["all", "classifier"] = "all"
    """The weights that learn: all of them, or those of the last layer alone."""
    sort_channels: str | None = None
    """The criterion by which channels are sorted before the first step, so that narrower networks keep the most
    important ones (a key of `nasdeploy.supernet.importance.CRITERIA`); null leaves them where they are. Networks that
    earlier phases trained keep the channels that they have: channels move only between their widths."""
    grow: bool = False
    """Whether larger networks begin the phase as the trained ones inside them: what only larger ones have is added to
    what earlier phases trained without changing what is computed (`nasdeploy.supernet.growth`)."""
    patience: int | None = Field(default=None, ge=1)
    """The epochs without a better validation score after which training ends early, with the weights of the best
    epoch; null for no such end."""
    optimizer: Literal["sgd", "rmsprop", "adamw"] = "sgd"
    """The optimizer: `sgd` with `momentum` and `nesterov` (AlphaNet); `rmsprop` as in TensorFlow, `epsilon` inside the
    root, with `momentum` and `rmsprop_decay` (BigNAS); or `adamw` with `betas` and `epsilon`."""
    learning_rate: float = Field(default=0.1, gt=0.0, le=100.0)
    """The learning rate for `reference_batch` images a step; it is scaled linearly with the batch size."""
    classifier_rate: float = Field(default=1.0, gt=0.0, le=1000.0)
    """What the learning rate is multiplied by for the classifier's weights, which may be new in a trained network."""
    warmup_epochs: float = Field(default=5.0, ge=0.0)
    """The epochs in which the learning rate rises."""
    warmup_start: float = Field(default=0.001, ge=0.0, le=1.0)
    """The part of the learning rate that warm-up begins at."""
    warmup: Literal["times-decay", "before-decay"] = "times-decay"
    """Whether warm-up multiplies the decay, which counts from the first iteration (AlphaNet), or comes before it: the
    decay then counts from the end of warm-up and takes the epochs that are left (once-for-all)."""
    decay: Literal["cosine", "step"] = "cosine"
    """How the learning rate falls: by a `cosine` over the whole phase, or in steps."""
    step_epochs: float = Field(default=2.4, gt=0.0)
    """The epochs between steps of the decay."""
    step_factor: float = Field(default=0.97, gt=0.0, lt=1.0)
    """What a step multiplies the learning rate by."""
    lowest: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The part of the learning rate at which the decay stops."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """The momentum of sgd and rmsprop."""
    nesterov: bool = True
    """Whether sgd uses Nesterov's momentum; the other optimizers have none."""
    rmsprop_decay: float = Field(default=0.9, gt=0.0, lt=1.0)
    """The decay of rmsprop's average of squared gradients."""
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.999)
    """The decays of adamw's averages of gradients and of their squares."""
    epsilon: float | None = Field(default=None, gt=0.0)
    """The optimizer's epsilon: 1e-3 for rmsprop and 1e-8 for adamw if left out."""
    weight_decay: float = Field(default=1e-5, ge=0.0)
    """The decay of weights; normalisation parameters and biases have none."""
    unused_weights: Literal["rest", "coast"] = "rest"
    """What happens in a step to weights that none of its networks has: nothing, or momentum and decay act on those that
    were trained before in the phase, as with a gradient of zero (once-for-all)."""
    clip_value: float | None = Field(default=1.0, gt=0.0)
    """The value to whose positive and negative gradients are clipped; null for no clipping."""
    clip_norm: float | None = Field(default=None, gt=0.0)
    """The 2-norm to which the gradient as a whole is scaled down instead; null for no such limit."""
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    """The decay of a moving average of the weights, which is then validated and handed on; null for none."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """The part of the probability that the label loss spreads over all classes."""
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """The drop probability before the classifier of the largest network, with `uniform` sampling of all networks."""
    drop_connect: float = Field(default=0.2, ge=0.0, lt=1.0)
    """The drop probability of blocks in the last two stages of the same networks; it grows with depth."""
    distillation: DistillationSettings = DistillationSettings()
    """What networks learn from a teacher."""
    sampling: SamplingSettings = SamplingSettings()
    """The networks of a step."""
    random_networks: int = Field(default=2, ge=0, le=64)
    """The number of random networks of a step, for kinds of sampling that have them."""


class PhaseSettings(LearningSettings):
    """A phase of a training: for how long, and what of `LearningSettings` is different from the training's own.

    A section that is given, such as `distillation`, replaces the whole section.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)
    """The name of the phase in metrics, curves and messages."""
    epochs: int = Field(ge=0, le=100_000)
    """The epochs of the phase; one of 0 is gone through without a step: its channels are sorted, if it says so."""

    @property
    def changed(self) -> frozenset[str]:
        """The names of the settings that are other ones than the training's, its epochs among them."""
        return frozenset(self.model_fields_set - {"name"})

    @model_serializer(mode="wrap")
    def _as_given(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not given: it is the training's, not the default."""
        return {name: value for name, value in plain(self).items() if name in self.model_fields_set}


def _epochs(given: dict[str, Any]) -> int:
    phases = given.get("phases", ())
    return sum(phase.epochs for phase in phases) if phases else 360


class TrainSettings(LearningSettings):
    """How long is trained and in which phases; without `phases` there is one, of all `epochs`.

    With phases, `epochs` is the sum of theirs, and need not be given. Learning rate, warm-up, decay, the stages of
    sampling, the optimizer's state and the moving average begin anew in each.
    """

    phases: tuple[PhaseSettings, ...] = Field(default=(), max_length=64)
    """The phases, one after the other."""
    epochs: int = Field(default_factory=_epochs, ge=1, le=100_000)
    """The epochs of the training; 360 if left out, or the sum of those of the phases."""
    batch_size: int = Field(default=256, ge=2, le=65536)
    """The images of a step, of all processes together."""
    reference_batch: int = Field(default=256, ge=1, le=1_000_000)
    """The batch size that `learning_rate` is for."""
    validate_every: int = Field(default=1, ge=1)
    """The epochs between validations of the smallest, the largest and `validate_random` random networks; with `uniform`
    sampling also of those at both ends of each choice that has several values."""
    validate_random: int = Field(default=2, ge=0, le=64)
    """The number of random networks that are validated, always the same."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """The steps between checkpoints inside an epoch; there is one after each epoch anyway."""
    checkpoint_minutes: float = Field(default=10.0, gt=0.0)
    """The greatest age in minutes of the last checkpoint inside an epoch."""
    kept_checkpoints: int = Field(default=2, ge=1, le=1000)
    """The number of latest checkpoints that are kept."""
    most_skipped: int = Field(default=10, ge=0)
    """The steps in a row that may be skipped because a loss or the gradient is not finite, before training ends. In the
    whole run it may be 3, or one in a hundred if that is more; a teacher that gives no number ends it at once."""
    sync_bn: bool = False
    """Whether several processes normalise by the whole batch instead of each by its part of it."""
    world_size_change: Literal["allow", "refuse"] = "allow"
    """Whether another number of processes may go on: batch, learning rate and data stay, the result is not the same bit
    for bit."""
    tensorboard: bool = False
    """Whether scalars for TensorBoard are written beside metrics.jsonl; that needs the extra `tensorboard`."""
    channels_last: bool | None = None
    """Whether images and weights lie channels-last; by default the fastest layout is taken (`precision.layout_of`)."""
    autocast: Literal["none", "bf16", "fp16"] = "none"
    """The format of convolutions and matrix products in forward and backward passes; fp16 with loss scaling. It is for
    GPUs: on a CPU it is slower."""
    tf32: bool = False
    """Whether GPUs compute float32 convolutions and matrix products with TF32's 10 bits of mantissa."""
    cuda_graphs: bool = True
    """Whether GPUs replay networks that come in step after step, such as the largest and the smallest, as recorded CUDA
    graphs, which the host starts in one go. Results are the same; memory for a second network is taken."""
    compile: bool = False
    """Whether blocks are compiled with `torch.compile`, each when it first occurs, which takes seconds: it is for long
    runs on GPUs. On a CPU it is slower than it is without."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """The number of CPU threads; as many as there are cores, or as a quota leaves of them, if left out."""

    @property
    def of_phases(self) -> tuple[Self, ...]:
        """The settings of each phase, with its epochs; these settings themselves if there are no phases."""
        if not self.phases:
            return (self,)
        return tuple(
            self.model_copy(update={"phases": (), **{name: getattr(phase, name) for name in phase.changed}})
            for phase in self.phases
        )

    @property
    def last(self) -> Self:
        """The settings of the last phase."""
        return self.of_phases[-1]

    @property
    def original_phase(self) -> int | None:
        """The number of the phase (from 0) that leaves the original: the last one of the largest network alone. None
        if there is none."""
        kinds = [settings.sampling.kind for settings in self.of_phases]
        return max((number for number, kind in enumerate(kinds) if kind == "largest"), default=None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _refuse_unused_in(self, type(self).model_fields)
        together = _epochs({"phases": self.phases})
        if self.phases and self.epochs != together:
            raise ValueError(f"epochs is {self.epochs}, and those of the phases add up to {together}; leave epochs out")
        names = [phase.name for phase in self.phases]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"phases: two are called {twice[0]}; give each a name of its own")
        if not self.phases:
            self._require_phase(0, self)
        for number, (phase, settings) in enumerate(zip(self.phases, self.of_phases, strict=False)):
            try:
                _refuse_unused_in(settings, phase.changed)
                self._require_phase(number, settings)
            except ValueError as error:
                raise ValueError(f"phases.{number} ({phase.name}): {error}") from None
        return self

    def _require_phase(self, number: int, settings: "TrainSettings") -> None:
        """Raise ValueError if the settings of a phase exclude each other."""
        if settings.optimizer == "sgd" and settings.nesterov and not settings.momentum:
            raise ValueError("nesterov needs momentum; set nesterov: false")
        if settings.compile and settings.sync_bn:
            raise ValueError(
                "compile excludes sync_bn, in which processes meet inside a block; set one of them to false"
            )
        if settings.epochs and settings.warmup_epochs > settings.epochs:
            raise ValueError(f"warmup_epochs is {settings.warmup_epochs}, more than the {settings.epochs} epochs")
        if settings.epochs and settings.warmup == "before-decay" and settings.warmup_epochs == settings.epochs:
            raise ValueError(f"warmup: before-decay leaves none of the {settings.epochs} epochs for the decay")
        if settings.clip_value is not None and settings.clip_norm is not None:
            raise ValueError("clip_value and clip_norm exclude each other; set one of them to null")
        kind = settings.sampling.kind
        if kind in ("best-up", "worst-up", "uniform") and not settings.random_networks:
            raise ValueError(f"sampling.kind {kind} chooses random networks, and random_networks is 0")
        if settings.grow and not number:
            raise ValueError("grow begins with what earlier phases trained, and this is the first one; leave it out")
        if settings.unused_weights == "coast" and settings.optimizer == "sgd" and not settings.momentum:
            raise ValueError("unused_weights: coast needs momentum; set unused_weights: rest")
        original = self.original_phase
        if settings.distillation.teacher == ORIGINAL and (original is None or number <= original):
            raise ValueError(
                "distillation.teacher is original, and no phase before trained the largest network alone to be it; "
                "put one with sampling: {kind: largest} first, or choose another teacher"
            )

    @model_serializer(mode="wrap")
    def _without_sum(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the sum of the phases' epochs, which may change with theirs."""
        return {name: value for name, value in plain(self).items() if name != "epochs" or not self.phases}


def _refuse_unused_in(settings: TrainSettings, given: Collection[str]) -> None:
    """Raise ValueError for a setting among those given that has no effect with the others."""
    for choice, users in {"optimizer": _OPTIMIZERS, "decay": _DECAYS}.items():
        refuse_unused(settings, choice, {key: choices for key, choices in users.items() if key in given})
