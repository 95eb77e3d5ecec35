"""Networks of published supernets, exported without recalibration, against an independent computation of them.

All eight named networks of AlphaNet, and twelve of once-for-all: three for each width with old and with new names.
The files are written in the published layouts, with random numbers. Each export is proved as any other, on a folder of
a thousand classes. Takes a minute for each network.

    python -m tests.benchmarks.bench_published [--only alphanet|ofa]
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import nasdeploy as nd
from tests.hasty import measure_hastily
from tests.importers import published_alphanet as alphanet
from tests.importers import published_ofa as ofa
from tests.importers.published_files import difference, thousand_classes


def of_alphanet(folder: Path) -> Iterator[tuple[str, float]]:
    tensors = alphanet.state_dict()
    file = alphanet.write_file(folder / "alphanet.pth.tar", tensors)
    run = nd.import_supernet("alphanet", file, out=folder / "alphanet", data=folder / "imagenet")
    for network in alphanet.NETWORKS:
        exported = nd.export(run, network, recalibrate=False)
        yield network, difference(exported.models[0], partial(alphanet.forward, tensors, network))


def of_ofa(folder: Path) -> Iterator[tuple[str, float]]:
    for number, (multiplier, names) in enumerate(((1.0, "new"), (1.0, "old"), (1.2, "new"), (1.2, "old"))):
        tensors, name = ofa.state_dict(multiplier), f"ofa-{multiplier}-{names}"
        file = ofa.write_file(folder / f"{name}.pth", ofa.old_names(tensors) if names == "old" else tensors)
        run = nd.import_supernet("ofa", file, out=folder / name, data=folder / "imagenet")
        for seed in range(3):
            network = ofa.SubNetwork.drawn(3 * number + seed)
            exported = nd.export(run, ofa.arch_of(network), recalibrate=False)
            yield f"{name}, {seed}", difference(exported.models[0], partial(ofa.forward, tensors, network))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("alphanet", "ofa"))
    only = parser.parse_args().only
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        measure_hastily(patch)
        folder = Path(place)
        thousand_classes(folder / "imagenet")
        for kind, figures in (("alphanet", of_alphanet), ("ofa", of_ofa)):
            if only in (None, kind):
                for name, largest in figures(folder):
                    print(f"{name:<16} largest difference of a logit {largest:.2e}", flush=True)


if __name__ == "__main__":
    main()
