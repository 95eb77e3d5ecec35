"""Settings of a step: which networks it trains, and what they learn from a teacher. Torch-free."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nasdeploy.core.settings import Settings, refuse_unused
from nasdeploy.data.settings import Deviation, Mean

ORIGINAL = "original"
"""The teacher that earlier phases of the same training left."""
_TAUGHT = ("alpha", "kl", "cross-entropy")
"""The kinds of distillation, of which each has a teacher."""
_OF_OTHER_TEACHERS = ("teacher_classes", "teacher_outputs", "teacher_mean", "teacher_std")


class DistillationSettings(Settings):
    """What networks learn from a teacher: `beta` times a divergence, plus `label_weight` times the label loss."""

    kind: Literal["alpha", "kl", "cross-entropy", "none"] = "alpha"
    """What is learned: `alpha`, the adaptive alpha-divergence (AlphaNet, section 3); `kl`, Kullback-Leibler divergence
    (BigNAS, AttentiveNAS; AlphaNet, Eq. 8); `cross-entropy` with the teacher's probabilities (once-for-all); or `none`,
    the labels instead."""
    alpha_min: float = Field(default=-1.0, ge=-10.0, le=10.0)
    """The least alpha of the alpha-divergence."""
    alpha_max: float = Field(default=1.0, ge=-10.0, le=10.0)
    """The greatest alpha of the alpha-divergence."""
    clip: float = Field(default=5.0, gt=0.0)
    """The value at which the importance weights of the alpha-divergence are clipped."""
    temperature: float = Field(default=1.0, gt=0.0, le=100.0)
    """The softmax temperature T of `kl`, which is multiplied by T^2."""
    beta: float = Field(default=1.0, gt=0.0, le=1.0)
    """The weight of the divergence."""
    label_weight: float | None = Field(default=None, ge=0.0, le=100.0)
    """The weight of the label loss; 1 - beta if left out."""
    teacher: str = "largest"
    """The teacher: `largest`, the largest network of the same step, which learns from the labels; or a model of its
    own, which all networks learn from, the largest included (once-for-all): `run:DIR`, the largest network of a
    finished run, by batch statistics; `torchvision:NAME`, with its state dict in `teacher_weights`; `onnx:FILE`; or
    `original`, the largest network as earlier phases of the same training left it."""
    teacher_statistics: Literal["own", "batch"] = "own"
    """Whether the original answers by its own statistics and at its own resolution, or by those of each batch and at
    the resolution of the step's networks, if they share one (once-for-all)."""
    teacher_weights: str | None = None
    """The file with the state dict of a teacher of torchvision, in safetensors or PyTorch's form."""
    teacher_classes: Literal["natural", "ignore-case", "reversed"] | tuple[str, ...] | None = None
    """The order of a teacher's classes where it differs from that of the data, by name (`natural`: 1, 2, 10) or as the
    list of their names."""
    teacher_outputs: Literal["logits", "probabilities"] = "logits"
    """What a teacher computes: `probabilities`, of which the logarithm is taken, if it ends in a softmax or sigmoid."""
    teacher_mean: tuple[Mean, Mean, Mean] | None = None
    """The mean by which a teacher expects images to be normalised, where it differs: 0 for 0..1 and for 0..255."""
    teacher_std: tuple[Deviation, Deviation, Deviation] | None = None
    """The deviation by which a teacher expects images to be normalised, where it differs: 1 for 0..1, and 1/255 for
    0..255."""

    @property
    def teacher_as_read(self) -> tuple[Any, ...]:
        """The teacher and how it is to be read: what makes it another one."""
        return tuple(getattr(self, name) for name in ("teacher", "teacher_weights", *_OF_OTHER_TEACHERS))

    @field_validator("teacher")
    @classmethod
    def _named(cls, teacher: str) -> str:
        kind, _, name = teacher.partition(":")
        if teacher not in ("largest", ORIGINAL) and (kind not in ("run", "torchvision", "onnx") or not name):
            raise ValueError("write largest, original, run:DIR, torchvision:NAME or onnx:FILE")
        return teacher

    @model_validator(mode="after")
    def _used(self) -> "DistillationSettings":
        taught = dict.fromkeys(("beta", "label_weight", "teacher"), _TAUGHT)
        refuse_unused(self, "kind", {"temperature": ("kl",), **taught})
        refuse_unused(self, "teacher", {"teacher_statistics": (ORIGINAL,)})
        if self.teacher.startswith("torchvision:") != (self.teacher_weights is not None):
            raise ValueError("teacher: torchvision:NAME and teacher_weights: FILE go together")
        if (self.teacher_mean is None) != (self.teacher_std is None):
            raise ValueError("teacher_mean and teacher_std go together; write both")
        own = [name for name in _OF_OTHER_TEACHERS if getattr(self, name) != type(self).model_fields[name].default]
        if self.teacher in ("largest", ORIGINAL) and own:
            raise ValueError(f"{own[0]} has an effect only with a teacher of its own, and teacher is {self.teacher}")
        return self


_ATTENTIVE = ("candidates", "prior", "prior_samples", "bin_macs_m", "latency_bins")
SAMPLING_KEYS: Mapping[str, tuple[str, ...]] = {
    "sandwich": ("stages", "largest_share"),
    "best-up": _ATTENTIVE,
    "worst-up": _ATTENTIVE,
    "single": ("stages",),
    "uniform": ("stages",),
    "largest": ("resolutions",),
    "smallest": (),
    "alone": ("arch",),
}
"""The ways of drawing a step's networks (`sampling.SAMPLERS` has one for each), and the settings that each reads."""


class StageSettings(Settings):
    """Choices from an epoch of a phase (counted from 0) on: `largest` values of those named, all of the others.

    `{depth: 2}` allows the two largest depths of every stage, `{depth.3: 2}` those of one; progressive shrinking (OFA)
    is a list of such stages.
    """

    from_epoch: int = Field(ge=0)
    """The epoch of the phase, from 0, that the stage begins with."""
    largest: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """The number of largest values that a choice may have, by its name."""


class SamplingSettings(Settings):
    """The networks of a step."""

    kind: str = Field(default="sandwich", json_schema_extra={"enum": [*SAMPLING_KEYS]})
    """The networks by name. `sandwich`: the largest, `random_networks` uniform ones and the smallest. `best-up`,
    `worst-up`: the same, but each random one is that of `candidates` with the lowest or highest label loss on the
    batch; they are drawn from one bin of cost, the bin from the `prior` (AttentiveNAS). `single`: one uniform network,
    by labels. `uniform`: `random_networks` uniform ones of one resolution, all regularised alike, from a teacher that
    is none of them or by labels (once-for-all). `largest`, `smallest`: always that one, and `alone`: always the network
    `arch`, by labels."""
    candidates: int = Field(default=3, ge=1, le=64)
    """The networks of which `best-up` and `worst-up` choose each one that learns."""
    prior: Literal["macs", "latency"] = "macs"
    """The cost of the bins: MACs, or the latency that the recipe's device's table predicts."""
    prior_samples: int = Field(default=100_000, ge=100, le=10_000_000)
    """The number of uniform architectures that the prior is counted from."""
    bin_macs_m: float = Field(default=25.0, gt=0.0)
    """The width of a bin of MACs, in millions."""
    latency_bins: int = Field(default=40, ge=1, le=10_000)
    """The number of equal bins of latency."""
    arch: dict[str, Any] | None = None
    """The values of the choices of the network that is trained `alone`."""
    stages: tuple[StageSettings, ...] = ()
    """The choices that are allowed from some epochs on; always all, if left out."""
    largest_share: float = Field(default=1.0, ge=0.0, le=1.0)
    """The part of the steps of `sandwich` that have the largest network; in the others one more random network takes
    its place, as the one that the others learn from."""
    resolutions: Literal["largest", "all"] = "largest"
    """The resolutions that the largest network is trained at: its own, or one drawn uniformly for each step."""

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
