"""The names of the tensors in published supernets, beside ours.

A layout says what each module of the stem, of a block and of the head is called. Spaces that share a layout, such as
one in several widths, are told apart by the shapes of the tensors.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

COUNTER = "num_batches_tracked"
"""The last part of the names of what normalisations count, which no network computes with."""


def _as_it_is(name: str) -> str:
    return name


@dataclass(frozen=True)
class Layout:
    """What the entries of published supernets are called; ours stand before the colon of the mappings.

    In a name `{leaf}` stands for the last part of ours, such as `weight`, and `{block}` for the number of the block in
    the largest network, from 0.
    """

    recipes: Mapping[str, str]
    """The shipped recipe that says how such supernets were trained, by the name of their space."""
    stem: Mapping[str, str]
    block: Mapping[str, str]
    head: Mapping[str, str]
    unused: re.Pattern[str] = re.compile(r"(?!)")
    """The entries that no network computes with; none by default."""
    plain: Callable[[str], str] = _as_it_is
    """Returns the name that an entry has here, whatever a version of the code that wrote the file called it."""
    transforms: str | None = None
    """The module of ours that files of networks of one kernel size lack, whose kernels are then not transformed."""

    def names(self, own: Iterable[str]) -> dict[str, str]:
        """Return what each entry of a supernet's state dict is called here; counters of batches are left out."""
        found: dict[str, str] = {}
        slots: list[str] = []
        for name in own:
            _, slot, module, leaf = name.split(".", 3)
            if leaf == COUNTER:
                continue
            if slot not in ("stem", "head", *slots[-1:]):
                slots.append(slot)
            table = self.stem if slot == "stem" else self.head if slot == "head" else self.block
            found[name] = table[module].format(leaf=leaf, block=len(slots) - 1)
        return found


_INSIDE = "blocks.{block}.mobile_inverted_conv"

ALPHANET = Layout(
    recipes={"alphanet": "alphanet-imagenet"},
    stem={"conv": "first_conv.conv.conv.{leaf}", "norm": "first_conv.bn.bn.{leaf}"},
    block={
        "expand": f"{_INSIDE}.inverted_bottleneck.conv.conv.{{leaf}}",
        "expand_norm": f"{_INSIDE}.inverted_bottleneck.bn.bn.{{leaf}}",
        "depthwise": f"{_INSIDE}.depth_conv.conv.conv.{{leaf}}",
        "depthwise_norm": f"{_INSIDE}.depth_conv.bn.bn.{{leaf}}",
        "reduce": f"{_INSIDE}.depth_conv.se.fc.reduce.{{leaf}}",
        "restore": f"{_INSIDE}.depth_conv.se.fc.expand.{{leaf}}",
        "project": f"{_INSIDE}.point_linear.conv.conv.{{leaf}}",
        "project_norm": f"{_INSIDE}.point_linear.bn.bn.{{leaf}}",
        "shortcut": "blocks.{block}.shortcut.conv.conv.{leaf}",
    },
    head={
        "expand": "last_conv.final_expand_layer.conv.conv.{leaf}",
        "expand_norm": "last_conv.final_expand_layer.bn.bn.{leaf}",
        "project": "last_conv.feature_mix_layer.conv.conv.{leaf}",
        "classifier": "classifier.linear.linear.{leaf}",
    },
    unused=re.compile(r"(?:.*\.)?bn_tracking\..*|blocks\.\d+\.shortcut\.conv\.conv\.weight"),
)
"""The names in AlphaNet's files, where they stand behind `module.` in the `state_dict` of a training's checkpoint.

Every block has a convolution in its shortcut, also where no network has other widths before the block than behind it:
those are never computed with. Neither is a second set of statistics beside each normalisation (`bn_tracking`).
"""

ATTENTIVENAS = Layout(
    recipes={"alphanet": "attentivenas-imagenet"},
    stem=ALPHANET.stem,
    block=ALPHANET.block,
    head=ALPHANET.head,
    unused=ALPHANET.unused,
)
"""AttentiveNAS's names, which are AlphaNet's: a file does not tell which of the two it is of."""


def _of_ofa(name: str) -> str:
    """Return a name without what versions of once-for-all's code, and its networks by themselves, put in or leave out.

    Files of 2020 say `mobile_inverted_conv` for `conv`. In a supernet the modules that are sliced are inside another of
    the same name, and those of a network by itself are not.
    """
    name = name.replace(".mobile_inverted_conv.", ".conv.").replace(".linear.linear.", ".linear.")
    return name.replace(".bn.bn.", ".bn.").replace(".conv.conv.weight", ".conv.weight")


OFA = Layout(
    recipes=dict.fromkeys(("ofa-mbv3", "ofa-mbv3-w1.2"), "ofa-mbv3-imagenet"),
    stem={"conv": "first_conv.conv.{leaf}", "norm": "first_conv.bn.{leaf}"},
    block={
        "expand": "blocks.{block}.conv.inverted_bottleneck.conv.{leaf}",
        "expand_norm": "blocks.{block}.conv.inverted_bottleneck.bn.{leaf}",
        "depthwise": "blocks.{block}.conv.depth_conv.conv.{leaf}",
        "transforms": "blocks.{block}.conv.depth_conv.conv.{leaf}_matrix",
        "depthwise_norm": "blocks.{block}.conv.depth_conv.bn.{leaf}",
        "reduce": "blocks.{block}.conv.depth_conv.se.fc.reduce.{leaf}",
        "restore": "blocks.{block}.conv.depth_conv.se.fc.expand.{leaf}",
        "project": "blocks.{block}.conv.point_linear.conv.{leaf}",
        "project_norm": "blocks.{block}.conv.point_linear.bn.{leaf}",
    },
    head={
        "conv": "final_expand_layer.conv.{leaf}",
        "conv_norm": "final_expand_layer.bn.{leaf}",
        "hidden": "feature_mix_layer.conv.{leaf}",
        "classifier": "classifier.linear.{leaf}",
    },
    plain=_of_ofa,
    transforms="transforms",
)
"""The names in once-for-all's files of MobileNet v3, of both widths, which the shapes of the tensors tell apart."""

PUBLISHED: dict[str, Layout] = {"alphanet": ALPHANET, "attentivenas": ATTENTIVENAS, "ofa": OFA}
"""The layout of each kind, by what stands before the colon in `--from`."""
