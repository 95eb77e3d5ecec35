"""Ways that others offer to cut a network to a latency, for bench_peers, which says how to install them.

A cut is a small JSON object that is chosen where latency is measured and made wherever a GPU is. It fixes every shape
of the network, so that the latency measured is that of the network trained; FastNAS's limit of MACs alone does not.
"""

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

MODEL = "tf_efficientnet_lite0"
Cut = dict[str, Any]


def pretrained(weights: Path, classes: int) -> nn.Module:
    """Return timm's model with the weights of a state dict of the same tensors in the same order, and a new head."""
    model: nn.Module = timm.create_model(MODEL, num_classes=classes)
    own, given = model.state_dict(), torch.load(weights, map_location="cpu", weights_only=True)
    assert len(own) == len(given)
    for (name, tensor), other in zip(own.items(), given.values(), strict=True):
        if not name.startswith("classifier"):
            assert tensor.shape == other.shape, name
            tensor.copy_(other)
    # Timm draws weights of a classifier by its ten outputs, eleven times as large as PyTorch does by its inputs: after
    # 15 steps of fine-tuning on photographs the loss was 2.9 with these, and 1.5 with those of PyTorch.
    classifier = model.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    classifier.reset_parameters()
    return model


def plain(model: nn.Module, side: int) -> nn.Module:
    """Return an equal network of PyTorch's own layers for images of that side.

    Timm's convolutions compute TensorFlow's padding from the image in each call, and its norms include the activation.
    ModelOpt can follow neither ("The model does not contain any configurable hyperparameters"): the padding becomes a
    constant.
    """
    model, sides = copy.deepcopy(model).cpu().eval(), dict[nn.Module, int]()
    same = [each for each in model.modules() if isinstance(each, Conv2dSame)]
    for each in same:
        each.register_forward_pre_hook(lambda module, inputs: sides.update({module: inputs[0].shape[-1]}))
    with torch.no_grad():
        model(torch.zeros(1, 3, side, side))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(parent, name, padded(child, sides[child]))
            elif isinstance(child, BatchNormAct2d):
                norm = nn.BatchNorm2d(child.num_features, child.eps, child.momentum)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm if isinstance(child.act, nn.Identity) else nn.Sequential(norm, child.act))
    return model.eval()


def padded(conv: nn.Conv2d, side: int) -> nn.Module:
    """Return the convolution with TensorFlow's padding for inputs of that side."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    even = missing // 2 if missing % 2 == 0 else 0
    found = nn.Conv2d(conv.in_channels, conv.out_channels, kernel, stride, even, groups=conv.groups, bias=False)
    found.load_state_dict(conv.state_dict())
    before = missing // 2
    return found if missing % 2 == 0 else nn.Sequential(nn.ZeroPad2d((before, missing - before) * 2), found)


def macs(model: nn.Module, side: int) -> float:
    """Return the multiply-accumulates of one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() / 2


def shapes(model: nn.Module) -> dict[str, list[int]]:
    """Return the shapes of all weights, which tell what a network costs."""
    return {name: list(each.weight.shape) for name, each in model.named_modules() if hasattr(each, "weight")}


def of_shapes(model: nn.Module, wanted: dict[str, list[int]]) -> nn.Module:
    """Return the network with other widths and weights that mean nothing, to measure its latency."""
    for name, shape in wanted.items():
        module = model.get_submodule(name)
        bias = nn.Parameter(torch.zeros(shape[0])) if module.bias is not None else None
        module.weight, module.bias = nn.Parameter(0.05 * torch.randn(shape)), bias
        if isinstance(module, nn.Conv2d):
            module.groups = shape[0] if module.groups > 1 else 1
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = torch.zeros(shape), torch.ones(shape)
    return model


class Peer(Protocol):
    """A way to cut a network."""

    def candidates(self, original: nn.Module, side: int) -> Sequence[Cut]:
        """Return cuts from the slowest network to the fastest."""

    def network(self, original: nn.Module, side: int, cut: Cut) -> tuple[nn.Module, int]:
        """Return the network that a cut makes of the original, on the CPU, and the side of its images."""


class LowerResolution:
    """The original on smaller images."""

    def candidates(self, original: nn.Module, side: int) -> Sequence[Cut]:
        return [{"side": smaller} for smaller in range(side - 4, 28, -4)]

    def network(self, original: nn.Module, side: int, cut: Cut) -> tuple[nn.Module, int]:
        return plain(original, cut["side"]), cut["side"]


class TorchPruning:
    """Torch-Pruning's group magnitude importance: the same part of every group of channels, in multiples of eight."""

    def candidates(self, original: nn.Module, side: int) -> Sequence[Cut]:
        return [{"pruning_ratio": percent / 100} for percent in range(4, 82, 2)]

    def network(self, original: nn.Module, side: int, cut: Cut) -> tuple[nn.Module, int]:
        import torch_pruning as tp

        model = plain(original, side)
        tp.pruner.BasePruner(
            model,
            torch.zeros(1, 3, side, side),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=cut["pruning_ratio"],
            ignored_layers=[model.classifier],
            round_to=8,
        ).step()
        return model, side


class FastNAS:
    """ModelOpt's FastNAS: the accuracy lost by each width of each layer alone, then one threshold for all layers.

    Its search moves the threshold until a limit of MACs is met: the cut `{"flops": "50%"}`, which is found where the
    network is trained. As it knows no latency of ONNX Runtime, cuts to a latency take the same thresholds as
    candidates, and name the widths.
    """

    ratios = tuple(part / 8 for part in range(1, 9))

    def __init__(self, images: Tensor, labels: Tensor, seconds: float) -> None:
        """Take held-out images `[N, 3, side, side]` as the network expects them; a search runs where they are.

        `seconds` is the most that a search may take.
        """
        self.images, self.labels, self.seconds = images, labels, seconds
        self.end = inf
        self.folder = TemporaryDirectory()

    def candidates(self, original: nn.Module, side: int) -> Sequence[Cut]:
        _, state = self.search(original, side, "50%")
        lost: dict[str, dict[int, float]] = state["sensitivity_map"]
        thresholds = sorted({value for each in lost.values() for value in each.values()})
        return [
            {"widths": {name: min(w for w, value in each.items() if value <= most) for name, each in lost.items()}}
            for most in thresholds
        ]

    def network(self, original: nn.Module, side: int, cut: Cut) -> tuple[nn.Module, int]:
        import modelopt.torch.nas as mtn
        from modelopt.torch.nas.utils import select, sort_parameters
        from modelopt.torch.prune.pruning import PruneModeRegistry

        if "flops" in cut:
            return self.search(original, side, cut["flops"])[0].cpu(), side
        model = mtn.convert(plain(original, side), [("fastnas", self.settings())], registry=PruneModeRegistry)
        sort_parameters(model)
        select(model, cut["widths"], strict=False)
        return mtn.export(model), side

    def search(self, original: nn.Module, side: int, flops: str) -> tuple[nn.Module, dict[str, Any]]:
        """Return the network of the tool's search and what that found out; a second search reuses the first.

        Raises `TimeoutError` if it takes longer than it may.
        """
        import modelopt.torch.nas.autonas as autonas
        import modelopt.torch.prune as mtp

        batches = self.images.split(128)
        # Statistics of BN are taken of so many batches for every score: fifty would cost more than all else.
        autonas.MODELOPT_QUEUE_MAXLEN = len(batches)
        self.end = perf_counter() + self.seconds
        found: tuple[nn.Module, dict[str, Any]] = mtp.prune(
            plain(original, side).to(self.images.device),
            mode=[("fastnas", self.settings())],
            constraints={"flops": flops},
            dummy_input=torch.zeros(1, 3, side, side, device=self.images.device),
            config={
                "score_func": self.score,
                "data_loader": list(batches),
                "collect_func": lambda batch: batch,
                "checkpoint": f"{self.folder.name}/search.pth",
                "verbose": False,
            },
        )
        return found

    def settings(self) -> dict[str, Any]:
        """Return FastNAS's settings with multiples of eight in place of 32, more than the narrowest layers have."""
        from modelopt.torch.prune.fastnas import FastNASConfig

        settings: dict[str, Any] = FastNASConfig().model_dump()
        for kind in ("nn.Conv2d", "nn.BatchNorm2d", "nn.Linear"):
            rule = settings[kind]["*"]
            prefix = "channel" if kind == "nn.Conv2d" else "feature"
            rule.update({f"{prefix}s_ratio": self.ratios, f"{prefix}_divisor": 8})
        return settings

    def score(self, model: nn.Module) -> float:
        """Return the per cent of the held-out images that the network is right on."""
        if perf_counter() > self.end:
            raise TimeoutError(f"its search was stopped after {self.seconds:.0f} s")
        with torch.no_grad():
            outputs = torch.cat([model.eval()(batch) for batch in self.images.split(128)])
        return 100 * float((outputs.argmax(1) == self.labels).float().mean())


class Timed:
    """A network in ONNX Runtime, on one thread of this machine's processor."""

    def __init__(self, model: nn.Module, side: int) -> None:
        file, options = io.BytesIO(), ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model.eval(), (torch.zeros(1, 3, side, side),), file, dynamo=False, input_names=["input"])
        self.session = ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        self.inputs = {"input": np.zeros((1, 3, side, side), np.float32)}

    def __call__(self) -> float:
        """Return the milliseconds of one run."""
        begun = perf_counter()
        self.session.run(None, self.inputs)
        return 1000 * (perf_counter() - begun)


def latencies(networks: Sequence[Timed], rounds: int = 50) -> list[float]:
    """Return the least milliseconds of each network, which take turns of eight runs.

    The least is what a machine takes on which nothing else runs.
    """
    turns = [[min(each() for _ in range(8)) for each in networks] for _ in range(rounds)]
    return [min(times) for times in zip(*turns, strict=True)]


def choose(
    peer: Peer, original: nn.Module, side: int, shares: Sequence[float], say: Callable[[str], None]
) -> list[Cut]:
    """Return for each share the first cut whose network takes at most that share of the time, else the last."""
    whole, cuts, known, least = Timed(plain(original, side), side), list(peer.candidates(original, side)), {}, [inf]

    def share_of(index: int) -> float:
        """Return the share that a cut's network takes; the original's time is the least of all that were taken."""
        network = Timed(*peer.network(original, side, cuts[index]))
        original_ms, known[index] = latencies([whole, network])
        least[0] = min(least[0], original_ms)
        say(f"  cut {index + 1} of {len(cuts)}: {known[index]:.2f} ms, {known[index] / least[0]:.3f} of {least[0]:.2f}")
        return known[index] / least[0]

    found = []
    for share in shares:
        low, high = 0, len(cuts) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if share_of(middle) <= share else (middle + 1, high)
        while share_of(low) > share and low < len(cuts) - 1:
            low += 1
        found.append({**cuts[low], "latency_ms": known[low], "latency_share": known[low] / least[0]})
    return found
