"""Figures of the formats of boards and phones: how exact files are, and how long blocks take to convert.

    python -m tests.benchmarks.bench_phone_formats [--format ncnn mnn litert] [--space alphanet ...] [--random 10]
    python -m tests.benchmarks.bench_phone_formats [--format ncnn mnn litert] --table [--space alphanet]

The first writes, opens and runs networks of each space: the published `a0` and `a3`, and some at random, with random
weights and recalibrated normalisations. `difference` is the largest of a network's logits from PyTorch's, as a part of
the largest logit. The second converts all blocks of a space's latency table, and nothing else.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from nasdeploy.convert import models_for
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import ConversionRefused
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.exporting.conversions import Conversions
from nasdeploy.exporting.formats import FORMATS, device_for
from nasdeploy.exporting.formats.format import Source, file_name
from nasdeploy.latency.profile import measured_block
from nasdeploy.nn.network import Network
from nasdeploy.runtimes.device import load_device
from nasdeploy.spaces import SPACES, load_space
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.supernet import Supernet, extract
from tests.exporting.models import interface, supernet_of

PHONE_FORMATS = ("ncnn", "mnn", "litert")
PUBLISHED = ("a0", "a3")
ALLOWED = 1e-4
CPU = load_device("cpu")


def chosen(space: SearchSpace, random: int) -> dict[str, Arch]:
    """Return the published networks of a space, if it has them, and some at random, by name."""
    rng = generator(0, "phone formats")
    published = {name: space.named[name] for name in PUBLISHED if name in space.named}
    return published | {f"random {number}": space.sample(rng) for number in range(random)}


def network_of(supernet: Supernet, arch: Arch) -> tuple[Network, torch.Tensor]:
    """Return a network in evaluation mode, and images for it."""
    torch.manual_seed(1)
    images = torch.randn(8, 3, arch["resolution"], arch["resolution"])
    return calibrate(extract(supernet, arch), [images]).eval(), images


def agreement(name: str, made: Conversions, images: torch.Tensor) -> dict[str, Any]:
    """Write a file of format `name`, run it on one image, and compare its logits with PyTorch's."""
    form, network = FORMATS[name], made.network
    device = device_for(form, CPU, "fp32")
    with TemporaryDirectory() as folder:
        path, start = Path(folder, file_name(form, "fp32")), perf_counter()
        form.write(Source(network, lambda wanted: made.onnx(wanted, form.recipe(device)), "fp32", device), path)
        seconds = perf_counter() - start
        problems = form.inspect(path, *interface(network.plan))
        session = form.open(path, device)
        with torch.no_grad():
            expected = network(images[:1]).numpy()
        (found,) = session.run({next(iter(session.inputs)): images[:1].numpy()})
        session.close()
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    return {"difference": difference, "problems": problems, "met": difference <= ALLOWED and not problems, "s": seconds}


def exactness(formats: Sequence[str], space: str, random: int) -> Iterator[dict[str, Any]]:
    """Yield how exact the files of a space's networks are, in each format."""
    known = load_space(space, 100)
    supernet = supernet_of(known)
    for title, arch in chosen(known, random).items():
        network, images = network_of(supernet, arch)
        made = Conversions(network)
        for name in formats:
            yield {"space": space, "network": title, "format": name, **agreement(name, made, images)}


def table(name: str, space: str) -> dict[str, Any]:
    """Convert all blocks of a space's table, as profiling it does."""
    form, start, refused = FORMATS[name], perf_counter(), {}
    blocks = load_space(space, 1000).distinct_blocks()
    modules = {key: lambda block=block: measured_block(block) for key, block in blocks.items()}
    size = 0
    for key, make in models_for(modules, device_for(form, CPU, "fp32")).items():
        try:
            size += len(make())  # type: ignore[arg-type]
        except ConversionRefused as error:
            refused[key] = str(error)
    seconds = perf_counter() - start
    return {"format": name, "space": space, "blocks": len(blocks), "s": seconds, "mb": size / 1e6, "refused": refused}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", nargs="+", choices=PHONE_FORMATS, default=PHONE_FORMATS)
    parser.add_argument("--space", nargs="+", choices=SPACES)
    parser.add_argument("--random", type=int, default=10)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        spaces = given.space or ["alphanet"]
        print(json.dumps([table(name, space) for name in given.format for space in spaces], indent=2))
        return
    rows = []
    for space in given.space or SPACES:
        for row in exactness(given.format, space, given.random):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    worst = max(row["difference"] for row in rows)
    print(json.dumps({"worst": worst, "met": all(row["met"] for row in rows), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
