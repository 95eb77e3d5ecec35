"""How a supernet is trained. Torch-free; defaults are AlphaNet's (appendix B)."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nasdeploy.core.settings import Settings, refuse_unused
from nasdeploy.data.settings import Deviation, Mean

_OPTIMIZERS = {
    "momentum": ("sgd", "rmsprop"),
    "rmsprop_decay": ("rmsprop",),
    "betas": ("adamw",),
    "epsilon": ("rmsprop", "adamw"),
}
"""The optimizers that use a key."""
_OF_OTHER_TEACHERS = ("teacher_classes", "teacher_outputs", "teacher_mean", "teacher_std")


class DistillationSettings(Settings):
    """What networks learn from a teacher.

    `kind`: `alpha`, adaptive alpha-divergence between `alpha_min` and `alpha_max` with importance weights clipped at
    `clip` (AlphaNet, section 3); `kl`, Kullback-Leibler divergence with softmax `temperature` T, times T^2 (BigNAS,
    AttentiveNAS; AlphaNet, Eq. 8); `none`, the labels instead. The loss is `beta` times that plus 1 - beta times the
    label loss.

    `teacher`: `largest`, the largest network of the same step, which learns from the labels; or a model of its own,
    which all networks learn from, the largest included (once-for-all): `run:DIR`, the largest network of a finished
    run, by batch statistics; `torchvision:NAME`, with its state dict in `teacher_weights` (.safetensors, or PyTorch's);
    `onnx:FILE`. How such a model is to be read, where it differs from the data: `teacher_classes`, the order of its
    classes, by name (`natural`: 1, 2, 10; `ignore-case`; `reversed`) or as the list of their names; `teacher_outputs`,
    `probabilities` if it ends in a softmax or sigmoid, of which the logarithm is taken; `teacher_mean` and
    `teacher_std`, what it expects images to be normalised by (0 and 1 for 0..1, 0 and 1/255 for 0..255).
    """

    kind: Literal["alpha", "kl", "none"] = "alpha"
    alpha_min: float = Field(default=-1.0, ge=-10.0, le=10.0)
    alpha_max: float = Field(default=1.0, ge=-10.0, le=10.0)
    clip: float = Field(default=5.0, gt=0.0)
    temperature: float = Field(default=1.0, gt=0.0, le=100.0)
    beta: float = Field(default=1.0, gt=0.0, le=1.0)
    teacher: str = "largest"
    teacher_weights: str | None = None
    teacher_classes: Literal["natural", "ignore-case", "reversed"] | tuple[str, ...] | None = None
    teacher_outputs: Literal["logits", "probabilities"] = "logits"
    teacher_mean: tuple[Mean, Mean, Mean] | None = None
    teacher_std: tuple[Deviation, Deviation, Deviation] | None = None

    @field_validator("teacher")
    @classmethod
    def _named(cls, teacher: str) -> str:
        kind, _, name = teacher.partition(":")
        if teacher != "largest" and (kind not in ("run", "torchvision", "onnx") or not name):
            raise ValueError("write largest, run:DIR, torchvision:NAME or onnx:FILE")
        return teacher

    @model_validator(mode="after")
    def _used(self) -> "DistillationSettings":
        refuse_unused(self, "kind", {"temperature": ("kl",), "beta": ("alpha", "kl"), "teacher": ("alpha", "kl")})
        if self.teacher.startswith("torchvision:") != (self.teacher_weights is not None):
            raise ValueError("teacher: torchvision:NAME and teacher_weights: FILE go together")
        if (self.teacher_mean is None) != (self.teacher_std is None):
            raise ValueError("teacher_mean and teacher_std go together; write both")
        own = [name for name in _OF_OTHER_TEACHERS if getattr(self, name) != type(self).model_fields[name].default]
        if self.teacher == "largest" and own:
            raise ValueError(f"{own[0]} has an effect only with a teacher of its own, and teacher is largest")
        return self


_ATTENTIVE = ("candidates", "prior", "prior_samples", "bin_macs_m", "latency_bins")
SAMPLING_KEYS: Mapping[str, tuple[str, ...]] = {
    "sandwich": ("stages",),
    "best-up": _ATTENTIVE,
    "worst-up": _ATTENTIVE,
    "single": ("stages",),
    "alone": ("arch",),
}
"""The ways of drawing a step's networks (`sampling.SAMPLERS` has one for each), and the settings that each reads."""


class StageSettings(Settings):
    """Choices from an epoch (counted from 0) on: `largest` values of those named, all values of the others.

    `{depth: 2}` allows the two largest depths of every stage, `{depth.3: 2}` those of one; progressive shrinking (OFA)
    is a list of such stages.
    """

    from_epoch: int = Field(ge=0)
    largest: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)


class SamplingSettings(Settings):
    """The networks of a step.

    `sandwich`: the largest, `random_networks` uniform ones and the smallest. `best-up`, `worst-up`: the same, but each
    random one is that of `candidates` with the lowest or highest label loss on the batch; they are drawn from one
    bin of cost, the bin from the `prior` (AttentiveNAS). `single`: one uniform network, by labels. `alone`: always the
    network `arch`, by labels.
    """

    kind: str = "sandwich"
    candidates: int = Field(default=3, ge=1, le=64)
    prior: Literal["macs", "latency"] = "macs"
    """The cost of the bins: MACs, or the latency that the recipe's device's table predicts."""
    prior_samples: int = Field(default=100_000, ge=100, le=10_000_000)
    """The number of uniform architectures that the prior is counted from."""
    bin_macs_m: float = Field(default=25.0, gt=0.0)
    """The width of a bin of MACs, in millions."""
    latency_bins: int = Field(default=40, ge=1, le=10_000)
    """The number of equal bins of latency."""
    arch: dict[str, Any] | None = None
    stages: tuple[StageSettings, ...] = ()

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in SAMPLING_KEYS:
            *names, last = map(repr, SAMPLING_KEYS)
            raise ValueError(f"Input should be {', '.join(names)} or {last}")
        return kind

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[StageSettings, ...]) -> tuple[StageSettings, ...]:
        if stages and stages[0].from_epoch != 0:
            raise ValueError("the first stage starts with from_epoch: 0")
        if any(a.from_epoch >= b.from_epoch for a, b in pairwise(stages)):
            raise ValueError("each stage has to start after the one before")
        return stages

    @model_validator(mode="after")
    def _consistent(self) -> "SamplingSettings":
        keys = dict.fromkeys(key for keys in SAMPLING_KEYS.values() for key in keys)
        users = {key: tuple(kind for kind, read in SAMPLING_KEYS.items() if key in read) for key in keys}
        refuse_unused(self, "kind", users)
        refuse_unused(self, "prior", {"bin_macs_m": ("macs",), "latency_bins": ("latency",)})
        if self.kind == "alone" and self.arch is None:
            raise ValueError("arch is missing: the network to train alone; name it with `nd.train(alone=ARCH)`")
        return self


class TrainSettings(Settings):
    """The networks of a step come from `sampling`: by default the largest, `random_networks` others and the smallest.

    `optimizer`: `sgd` with `momentum` and `nesterov` (AlphaNet); `rmsprop` as in TensorFlow, `epsilon` inside the root,
    with `momentum` and `rmsprop_decay` (BigNAS); `adamw` with `betas` and `epsilon`. `decay` of the learning rate:
    `cosine` over the whole run, or by `step_factor` every `step_epochs` epochs.
    """

    epochs: int = Field(default=360, ge=1, le=100_000)
    batch_size: int = Field(default=256, ge=2, le=65536)
    optimizer: Literal["sgd", "rmsprop", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0.0, le=100.0)
    """The learning rate for `reference_batch` images a step; it is scaled linearly with the batch size."""
    reference_batch: int = Field(default=256, ge=1, le=1_000_000)
    warmup_epochs: float = Field(default=5.0, ge=0.0)
    warmup_start: float = Field(default=0.001, ge=0.0, le=1.0)
    """The part of the learning rate that warm-up begins at."""
    decay: Literal["cosine", "step"] = "cosine"
    step_epochs: float = Field(default=2.4, gt=0.0)
    step_factor: float = Field(default=0.97, gt=0.0, lt=1.0)
    lowest: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The part of the learning rate at which the decay stops."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    nesterov: bool = True
    """Whether sgd uses Nesterov's momentum; the other optimizers have none."""
    rmsprop_decay: float = Field(default=0.9, gt=0.0, lt=1.0)
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (0.9, 0.999)
    epsilon: float | None = Field(default=None, gt=0.0)
    """The optimizer's epsilon: 1e-3 for rmsprop and 1e-8 for adamw if left out."""
    weight_decay: float = Field(default=1e-5, ge=0.0)
    """The decay of weights; normalisation parameters and biases have none."""
    clip_value: float | None = Field(default=1.0, gt=0.0)
    """The value to whose positive and negative gradients are clipped; null for no clipping."""
    clip_norm: float | None = Field(default=None, gt=0.0)
    """The 2-norm to which the gradient as a whole is scaled down instead; null for no such limit."""
    ema: float | None = Field(default=None, gt=0.0, lt=1.0)
    """The decay of a moving average of the weights, which is then validated and handed on; null for none."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    """The drop probability before the classifier of the largest network."""
    drop_connect: float = Field(default=0.2, ge=0.0, lt=1.0)
    """The drop probability of blocks of the largest network in the last two stages; it grows with depth."""
    distillation: DistillationSettings = DistillationSettings()
    sampling: SamplingSettings = SamplingSettings()
    random_networks: int = Field(default=2, ge=0, le=64)
    validate_every: int = Field(default=1, ge=1)
    """The epochs between validations of the smallest, the largest and `validate_random` random networks."""
    validate_random: int = Field(default=2, ge=0, le=64)
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """The steps between checkpoints inside an epoch; there is one after each epoch anyway."""
    checkpoint_minutes: float = Field(default=10.0, gt=0.0)
    """The greatest age of the last checkpoint inside an epoch."""
    kept_checkpoints: int = Field(default=2, ge=1, le=1000)
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
    compile: bool = False
    """Whether blocks are compiled with `torch.compile`, each when it first occurs, which takes seconds: it is for long
    runs on GPUs. On a CPU it is slower than it is without."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """The number of CPU threads; as many as there are cores, or as a quota leaves of them, if left out."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        refuse_unused(self, "optimizer", _OPTIMIZERS)
        refuse_unused(self, "decay", {"step_epochs": ("step",), "step_factor": ("step",)})
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum; set nesterov: false")
        if self.compile and self.sync_bn:
            raise ValueError(
                "compile excludes sync_bn, in which processes meet inside a block; set one of them to false"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, more than the {self.epochs} epochs")
        if self.clip_value is not None and self.clip_norm is not None:
            raise ValueError("clip_value and clip_norm exclude each other; set one of them to null")
        if self.sampling.kind in ("best-up", "worst-up") and not self.random_networks:
            raise ValueError(f"sampling.kind {self.sampling.kind} chooses random networks, and random_networks is 0")
        return self
