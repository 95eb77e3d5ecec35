"""The search space of the writer: two parts, tied weights, and no choice called resolution. Torch-free."""

from collections.abc import Mapping, Sequence

from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.space import PartSpec, SearchSpace, Slot
from tests.families.blocks import Attend, Embed, Join, Lift, Mix, Summary, Unembed

FRAMES, FEATURES, CONTEXT, WRITTEN = 6, 4, 3, 5
"""The frames that are read and their features, the tokens that a step looks back on, and how many are written."""

ENCODER, STEP = PartSpec("encoder"), PartSpec("step", runs=WRITTEN)


class Writer(SearchSpace):
    """Networks that read frames once and write tokens of a vocabulary one by one."""

    name = "writer"
    choices = (
        Choice("width", (8, 12, 16)),
        Choice("expand", (1, 2, 4)),
        Choice("depth", (1, 2)),
        Choice("attentions", (1, 2)),
    )
    slots = (
        Slot("lift", ("width",), ENCODER),
        Slot("mix1", ("width", "expand"), ENCODER),
        Slot("mix2", ("width", "expand", "depth"), ENCODER),
        Slot("summary", ("width",), ENCODER),
        Slot("embed", ("width",), STEP),
        Slot("join", ("width",), STEP),
        Slot("attend1", ("width",), STEP),
        Slot("attend2", ("width", "attentions"), STEP),
        Slot("logits", ("width",), STEP, weights="embed"),
    )
    is_chain = False

    def __init__(self, vocabulary: int = 7) -> None:
        self.vocabulary = vocabulary

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        width = values["width"]
        match slot.name:
            case "lift":
                return Lift(FRAMES, FEATURES, width)
            case "mix1" | "mix2":
                return Mix(FRAMES, width, values["expand"]) if values.get("depth", 2) == 2 else None
            case "summary":
                return Summary(FRAMES, width)
            case "embed":
                return Embed(CONTEXT, width, self.vocabulary)
            case "join":
                return Join(CONTEXT, width)
            case "attend1" | "attend2":
                return Attend(CONTEXT, FRAMES, width) if values.get("attentions", 2) == 2 else None
            case _:
                return Unembed(CONTEXT, width, self.vocabulary)

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        if part == "encoder":
            return (("frames", TensorType((FRAMES, FEATURES))),)
        width = arch["width"]
        memory, summary = TensorType((FRAMES, width)), TensorType((width,))
        return (("memory", memory), ("summary", summary), ("tokens", TensorType((CONTEXT,), "int64", self.vocabulary)))

    def takes(self, slot: Slot, values: Mapping[str, int], made: Sequence[str]) -> tuple[str, ...]:
        match slot.name:
            case "embed":
                return ("tokens",)
            case "join":
                return ("embed", "summary")
            case "attend1" | "attend2":
                return (made[-1], "memory")
            case _:
                return (made[-1],)

    def outputs(self, part: str, made: Sequence[str]) -> tuple[str, ...]:
        """The encoder gives its last layer and the summary, the step its logits."""
        return tuple(made[-2:]) if part == "encoder" else (made[-1],)
