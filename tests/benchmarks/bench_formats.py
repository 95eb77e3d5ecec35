"""Figures of export formats on networks of the AlphaNet space with random weights and randomised batch normalisation.

    python -m tests.benchmarks.bench_formats [--arch a0 ...] [--skip latency]

`agreement`: largest difference of logits to PyTorch's, for every format that runs here. `engines`: TensorRT for RTX
without a GPU, header against what was asked for. `latency`: the exported ONNX file in ONNX Runtime beside the same
network by plain torch.onnx, by onnxslim (if it is installed) and by the former exporter, in turn on one thread.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from nasdeploy.convert.versions import OPSET
from nasdeploy.exporting.conversions import Conversions
from nasdeploy.exporting.formats import FORMATS, device_for
from nasdeploy.exporting.formats.format import Format, Source, file_name
from nasdeploy.latency.measure import measure
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.nn.network import Network
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.runtimes.engine import read_header
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.spaces import load_space
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.supernet import extract
from tests.exporting.models import interface, supernet_of

ALL = ("a0", "a1", "a2", "a3", "a4", "a5-small", "a5-base", "a6")
ENGINES = ("a0", "a6")
CAPABILITIES = ("SM86", "SM89", "SM120")
EXACT: tuple[Precision, ...] = ("fp32", "fp16")
PARTS = ("agreement", "engines", "latency")
BATCHES = (1, 2, 7)
CPU = load_device("cpu")


def written(form: Format, made: Conversions, precision: Precision, folder: Path, *capabilities: str) -> Path:
    device = device_for(form, CPU, precision)
    path, recipe = folder / file_name(form, precision), form.recipe(device)
    form.write(Source(made.network, lambda wanted: made.onnx(wanted, recipe), precision, device, capabilities), path)
    return path


def agreement(arch: str, made: Conversions, images: torch.Tensor, folder: Path) -> Iterator[dict[str, Any]]:
    for name, form in FORMATS.items():
        if form.missing() or form.obstacle() or form.not_run(()):
            continue
        for precision in (each for each in EXACT if each in form.precisions):
            start = perf_counter()
            path = written(form, made, precision, folder)
            seconds = perf_counter() - start
            session = form.open(path, device_for(form, CPU, precision))
            (given,) = session.inputs
            largest = spread = 0.0
            for batch in BATCHES:
                with torch.no_grad():
                    expected = made.network(images[:batch]).numpy()
                (found,) = session.run({given: images[:batch].numpy()})
                largest, spread = max(largest, float(np.abs(found - expected).max())), float(np.ptp(expected))
            session.close()
            problems = form.inspect(path, *interface(made.network.plan))
            allowed = 1e-4 if precision == "fp32" else 0.01 * spread
            yield {
                "arch": arch,
                "format": name,
                "precision": precision,
                "difference": largest,
                "spread": spread,
                "allowed": allowed,
                "met": largest <= allowed and not problems,
                "seconds": seconds,
            }


def engines(arch: str, made: Conversions, folder: Path) -> Iterator[dict[str, Any]]:
    form = FORMATS["tensorrt-rtx"]
    for precision in EXACT:
        start = perf_counter()
        content = written(form, made, precision, folder, *CAPABILITIES).read_bytes()
        header = read_header(content)
        yield {
            "arch": arch,
            "precision": precision,
            "mb": len(content) / 1e6,
            "capabilities": header.capabilities,
            "version": header.version,
            "met": header.capabilities == CAPABILITIES,
            "seconds": perf_counter() - start,
        }


def plain(network: Network, images: torch.Tensor) -> bytes:
    program = torch.onnx.export(
        network,
        (images[:2],),
        dynamo=True,
        dynamic_shapes=(({0: torch.export.Dim("batch")},),),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def slimmed(network: Network, images: torch.Tensor) -> bytes:
    import onnx
    import onnxslim

    content: bytes = onnxslim.slim(onnx.load_from_string(plain(network, images))).SerializeToString()
    return content


def former(network: Network, images: torch.Tensor) -> bytes:
    file = io.BytesIO()
    axes = {"input": {0: "batch"}}
    torch.onnx.export(
        network,
        (images[:2],),
        file,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=OPSET,
        input_names=["input"],
        dynamic_axes=axes,
    )
    return file.getvalue()


def latency(arch: str, made: Conversions, images: torch.Tensor) -> dict[str, Any]:
    others: dict[str, Callable[[Network, torch.Tensor], bytes]] = {"torch.onnx": plain, "former exporter": former}
    if find_spec("onnxslim"):
        others["onnxslim"] = slimmed
    models = {"nasdeploy": made.onnx("fp32", "onnxruntime")}
    models |= {name: make(made.network, images) for name, make in others.items()}
    # Each in two sessions, in opposite orders: equal files differ by several per cent by their place in memory.
    order = [*models, *reversed(models)]
    openers = {
        f"{name} {place}": lambda name=name: runtime_of(CPU).open(models[name], CPU) for place, name in enumerate(order)
    }
    (timings,) = measure(openers, Rounds(group=len(openers), visits=20), MeasurementProtocol())
    seconds = {
        name: min(timing.median for key, timing in timings.items() if key.rsplit(" ", 1)[0] == name) for name in models
    }
    best = min(median for name, median in seconds.items() if name != "nasdeploy")
    return {
        "arch": arch,
        "median_ms": {name: 1e3 * median for name, median in seconds.items()},
        "noisy": [name for name, timing in timings.items() if timing.noisy],
        "ratio": seconds["nasdeploy"] / best,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=())
    given = parser.parse_args()
    space = load_space("alphanet", 1000)
    supernet = supernet_of(space)
    results: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}

    def keep(part: str, row: dict[str, Any]) -> None:
        results[part].append(row)
        print(part, row, file=sys.stderr, flush=True)

    for name in given.arch:
        arch = space.named[name]
        torch.manual_seed(1)
        images = torch.randn(16, 3, arch["resolution"], arch["resolution"])
        made = Conversions(calibrate(extract(supernet, arch), [images]).eval())
        with TemporaryDirectory() as folder:
            if "agreement" not in given.skip:
                for row in agreement(name, made, images, Path(folder)):
                    keep("agreement", row)
            if "engines" not in given.skip and name in ENGINES and not FORMATS["tensorrt-rtx"].missing():
                for row in engines(name, made, Path(folder)):
                    keep("engines", row)
        if "latency" not in given.skip:
            keep("latency", latency(name, made, images))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
