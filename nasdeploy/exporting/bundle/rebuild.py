"""Build the engines of this folder again, for this machine's GPU and its version of TensorRT: `python rebuild.py`

An engine loads on the kind of GPU and in the version that it was built for, and nowhere else. The ONNX models beside
the engines are what they were built from; precision is in them. Needs the module tensorrt, or tensorrt_rtx for engines
of TensorRT for RTX, which builds for other GPUs too: `python rebuild.py --compute-capability SM86,SM89`.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
LARGEST_BATCH = 32


class NotBuilt(Exception):
    """What keeps an engine from being built, in one line."""


def rebuild(onnx: Path, engine: Path, module: str, capabilities: Sequence[str], batch: int) -> None:
    """Build the engine of an ONNX model, at its fastest for `batch` images, for 1 to 32 of them (or to `batch`)."""
    try:
        trt: Any = import_module(module)
    except ImportError as error:
        raise NotBuilt(f"{onnx.name}: needs the module {module} ({error})") from None
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx.read_bytes()) or not network.num_outputs:
        raise NotBuilt(f"{onnx.name}: {module} cannot load it; use another version")
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    choose(trt, config, capabilities, onnx)
    given, profile = network.get_input(0), builder.create_optimization_profile()
    sizes = ((size, *tuple(given.shape)[1:]) for size in (1, batch, max(batch, LARGEST_BATCH)))
    profile.set_shape(given.name, *sizes)
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise NotBuilt(f"{onnx.name}: {module} cannot build an engine of it; see its messages above")
    engine.write_bytes(bytes(built))


def choose(trt: Any, config: Any, capabilities: Sequence[str], onnx: Path) -> None:
    """Tell the builder for which GPUs other than the one that is here."""
    if not capabilities:
        return
    if not hasattr(config, "num_compute_capabilities"):
        raise NotBuilt(f"{onnx.name}: {trt.__name__} builds for the GPU that is here; leave out --compute-capability")
    known = trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(capabilities)
    for number, name in enumerate(capabilities):
        if name not in known:
            raise NotBuilt(f"--compute-capability {name}: unknown to {trt.__name__} {trt.__version__}")
        config.set_compute_capability(known[name], number)


def check(file: Path) -> None:
    """Raise `NotBuilt` if the file is not as SHA256SUMS says, or `OSError` if it cannot be read."""
    sums = (HERE / "SHA256SUMS").read_bytes().splitlines()
    content = file.read_bytes()
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        raise NotBuilt(f"{file.name}: a pointer of Git LFS in place of the file; run 'git lfs pull' in its repository")
    if f"{hashlib.sha256(content).hexdigest()}  {file.name}".encode() not in sums:
        raise NotBuilt(f"{file.name}: not as it was exported (SHA256SUMS); get the folder again")


def main() -> None:
    """Build every engine whose ONNX model is here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.with_name(f"{HERE.name}-rebuilt"), help="folder of engines")
    parser.add_argument("--compute-capability", default="", metavar="SM[,SM...]", help="GPUs that are not here")
    parser.add_argument("--batch", type=int, default=1, help="images that the engines are to be fastest for")
    arguments = parser.parse_args()
    capabilities = [name.strip().upper() for name in arguments.compute_capability.split(",") if name.strip()]
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for kind, module in MODULES.items():
            for onnx in sorted(HERE.glob(f"model*.{kind}.onnx")):
                check(onnx)
                engine = arguments.out / f"{onnx.stem}.engine"
                rebuild(onnx, engine, module, capabilities, max(1, arguments.batch))
                print(engine)
    except (OSError, NotBuilt) as refusal:
        print(f"rebuild.py: {refusal}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
