"""Classify images with the model that lies beside this file: `python predict.py IMAGE_OR_FOLDER...`

It needs `pictures.py` beside it, NumPy, Pillow and a runtime (onnxruntime, openvino, ncnn, MNN or ai-edge-litert), and
nothing else. Before anything is run the whole folder is compared with SHA256SUMS. Every step from an image file to the
model's input is read from manifest.json. `python predict.py --save-input FILE IMAGE` writes what they make of an image,
for programs in other languages: float32 numbers in the order channel, row, column.

Exit code 0: every image was classified; 2: the folder or an image is damaged, or a runtime is missing.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import numpy as np

    if TYPE_CHECKING or __package__:
        from nasdeploy.exporting.bundle.pictures import Array, Refused, image_files, is_hidden, prepare, read_rgb
    else:
        # In a bundle, where it lies beside this file.
        sys.path.insert(0, str(Path(__file__).parent))
        from pictures import Array, Refused, image_files, is_hidden, prepare, read_rgb
except ImportError as error:
    if error.name == "pictures":
        sys.exit(f"predict.py: pictures.py beside it is missing or another's ({error}); copy the bundle again")
    sys.exit(f"predict.py: {error.name} is not installed; run: pip install numpy pillow onnxruntime")
except (SyntaxError, ValueError) as error:
    sys.exit(f"predict.py: pictures.py beside it is damaged ({error}); copy the bundle again")

SUMS, MANIFEST, SAMPLE = "SHA256SUMS", "manifest.json", "sample.npz"

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*)")
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Model = Callable[[Array], Array]
"""The function from inputs `[N, 3, side, side]` to logits `[N, classes]`, both float32."""


# -- the bundle


def check_sums(folder: Path) -> dict[str, str]:
    """Checksums by name, after making sure that the folder holds exactly these files, as they were written.

    Hidden and rejected files are left alone, and so is what file managers, archivers and network storage leave in any
    folder. Raises `Refused`.
    """
    expected = _listed(folder / SUMS)
    for name, checksum in expected.items():
        if sha256(folder / name) != checksum:
            raise Refused(f"{folder / name}: {_cause(folder / name, checksum)}")
    known = {name.lower() for name in expected}  # Some file systems keep no case.
    for name in files_of(folder):
        if name.lower() not in known:
            raise Refused(
                f"{folder / name}: not in {SUMS}, so no part of the bundle; remove it or copy the bundle again"
            )
    return expected


def files_of(folder: Path) -> list[str]:
    """Names of the files that the sums cover, with `/` between their parts; sorted."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    names = sorted(path.as_posix() for path in found if not any(map(_is_apart, path.parts)))
    return [name for name in names if name.upper() != SUMS]


def _is_apart(part: str) -> bool:
    return is_hidden(part) or part.startswith("~$") or ".rejected" in part


def _cause(path: Path, checksum: str) -> str:
    """What became of a file that has not this checksum, as far as that shows, and what to do."""
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a pointer of Git LFS in place of the file; run 'git lfs pull' in its repository"
    if hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == checksum:
        git, attributes = f"git -C '{path.parent}'", path.with_name(".gitattributes")
        return (
            "its line ends were changed, as git with core.autocrlf does; copy the bundle again as binary files, or "
            f"write '* -text' into {attributes} and run: {git} rm -rq --cached . && {git} checkout HEAD -- ."
        )
    return f"damaged, its SHA-256 is not that in {SUMS}; copy the bundle again"


def _listed(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror}); this is no whole bundle, copy it again") from None
    except ValueError:
        raise Refused(f"{path}: damaged; copy the bundle again") from None
    matches = [_LINE.fullmatch(line) for line in text.split("\n")[:-1]]
    listed = {match[2]: match[1] for match in matches if match}
    if not text.endswith("\n") or len(listed) != len(matches) or MANIFEST not in listed:
        raise Refused(f"{path}: damaged; copy the bundle again")
    return listed


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits; raises `Refused` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise Refused(f"{path}: cannot be read ({error.strerror}); copy the bundle again") from None
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle whose sums are right; raises `Refused`."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        _ = [manifest["preprocessing"][step] for step in ("resize", "crop", "scale", "mean", "std", "resolution")]
        _ = [(made["format"], made["precision"], file["name"], file["sha256"]) for made, file in _files(manifest)]
        _ = [label + "" for label in manifest["labels"]], manifest["labels"][0], manifest["artefacts"][0]["files"][0]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise Refused(f"{path}: no manifest of an exported model ({type(error).__name__}: {error})") from None
    checked: dict[str, Any] = manifest
    return checked


def _files(manifest: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return ((artefact, file) for artefact in manifest["artefacts"] for file in artefact["files"])


# -- the model


def open_model(folder: Path, manifest: Mapping[str, Any], sums: Mapping[str, str], name: str | None = None) -> Model:
    """The bundle's first model that a runtime of this machine opens, or the one in the file `name`.

    Raises `Refused`.
    """
    artefact, runtime = _chosen(manifest, name)
    for file in artefact["files"]:
        if sums.get(file["name"]) != file["sha256"]:
            raise Refused(
                f"{folder / file['name']}: not the model of {MANIFEST}, by its SHA-256; copy the bundle again"
            )
    path = folder / artefact["files"][0]["name"]
    try:
        return _OPENERS[runtime](path)
    # Every runtime has errors of its own.
    except Exception as error:
        raise Refused(f"{path}: {runtime} cannot load it ({_one_line(error)}); use the version in {MANIFEST}") from None


def _one_line(error: Exception) -> str:
    """Return, of a long text, the beginning and the end, where the reason stands."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:147]} ... {text[-147:]}"


def _chosen(manifest: Mapping[str, Any], name: str | None) -> tuple[Mapping[str, Any], str]:
    known = {artefact["files"][0]["name"]: artefact for artefact in manifest["artefacts"]}
    if name is not None and name not in known:
        raise Refused(f"no model {name} in this bundle; it has {', '.join(known)}")
    for artefact in [known[name]] if name else known.values():
        for runtime in _runtimes(artefact):
            if find_spec(runtime):
                return artefact, runtime
    wanted = {runtime for artefact in known.values() for runtime in _runtimes(artefact)}
    if not wanted or name:
        raise Refused(f"{name or 'the model of this bundle'} cannot be run by this program here; see README.md")
    raise Refused(f"no runtime is installed; run: pip install {min(wanted)}")


_OWN = {"openvino": "openvino", "ncnn": "ncnn", "mnn": "MNN", "litert": "ai_edge_litert"}


def _runtimes(artefact: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the provider that this program can run it in.

    In int8 only the one that it was quantised for computes the same.
    """
    if own := _OWN.get(str(artefact["format"])):
        return (own,)
    if artefact["format"] == "onnx":
        return ("onnxruntime",) if artefact["precision"] == "int8" else ("onnxruntime", "openvino")
    return ()


def _onnxruntime(path: Path) -> Model:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # From 1.29 on its import begins reports to its maker.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda inputs: session.run(None, {name: inputs})[0]


@cache
def _core() -> Any:
    """One for all models: of two that are closed a signal may end the process."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # It tells Google Analytics of imports.
    import openvino

    return openvino.Core()


def _openvino(path: Path) -> Model:
    # Without the hint some processors compute in bfloat16.
    compiled = _core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: next(iter(compiled(inputs).values()))


def _ncnn(path: Path) -> Model:
    import ncnn

    net = ncnn.Net()
    # Where a processor computes in fp16, ncnn does so with every model unless it is told not to.
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(net.opt, name, ".fp16." in path.name)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ValueError("it is damaged, or of a newer version")

    def logits(image: Array) -> Array:
        extractor = net.create_extractor()
        # A copy, since what belongs to NumPy must not be written over.
        extractor.input("input", ncnn.Mat(image).clone())
        code, found = extractor.extract("logits")
        if code:
            raise ValueError(f"ncnn ends with code {code}")
        return np.array(found)

    return lambda inputs: np.stack([logits(np.ascontiguousarray(image)) for image in inputs])


def _mnn(path: Path) -> Model:
    with _unprinted():
        import MNN

        interpreter = MNN.Interpreter(str(path))
        session = interpreter.createSession({"numThread": 1, "precision": "low" if ".fp16." in path.name else "high"})
    given, layout = interpreter.getSessionInput(session), MNN.Tensor_DimensionType_Caffe

    def logits(inputs: Array) -> Array:
        with _unprinted():
            interpreter.resizeTensor(given, inputs.shape)
            interpreter.resizeSession(session)
            given.copyFrom(MNN.Tensor(inputs.shape, MNN.Halide_Type_Float, np.ascontiguousarray(inputs), layout))
            status = interpreter.runSession(session)
        if status:
            raise ValueError(f"MNN ends with code {status}")
        output = interpreter.getSessionOutput(session)
        kept = MNN.Tensor(output, layout)
        output.copyToHostTensor(kept)
        return np.array(kept.getNumpyData())

    return logits


@contextmanager
def _unprinted(stream: int = 1) -> Iterator[None]:
    """Leave out what a library of C prints to standard output, where the answers go, or to standard error, 2."""
    sys.stdout.flush()
    kept, nothing = os.dup(stream), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, stream)
        yield
    finally:
        # It lies in that library's buffer, until it is told.
        (ctypes.CDLL(None) if os.name == "posix" else ctypes.CDLL("ucrtbase")).fflush(None)
        os.dup2(kept, stream)
        os.close(kept)
        os.close(nothing)


def _litert(path: Path) -> Model:
    from ai_edge_litert.interpreter import Interpreter

    # It tells standard error which kernels it uses.
    with _unprinted(2):
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def logits(image: Array) -> Array:
        # A file has a batch of its own, which is filled up.
        interpreter.set_tensor(given["index"], image[None].repeat(given["shape"][0], axis=0))
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])[0]

    return lambda inputs: np.stack([logits(image) for image in inputs])


_OPENERS = {"onnxruntime": _onnxruntime, "openvino": _openvino, "ncnn": _ncnn, "MNN": _mnn, "ai_edge_litert": _litert}


def probabilities(logits: Array) -> Array:
    """Softmax over the last axis, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# -- the command


def main(arguments: Sequence[str] | None = None, folder: Path = Path(__file__).parent) -> int:
    """Print `FILE  CLASS  PROBABILITY` for each image, with `--top N` classes; the exit code."""
    parser = argparse.ArgumentParser(description="Classify images with the model in this folder.")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="classes to print for each image [1]")
    parser.add_argument("--model", metavar="FILE", help="model of this folder [the first that can run here]")
    parser.add_argument("--save-input", type=Path, metavar="FILE", help="write the model's input, float32, run nothing")
    given = parser.parse_args(arguments)
    if not given.images:
        parser.error("name image files or folders")
    try:
        sums = check_sums(folder)
        manifest = read_manifest(folder)
        if given.save_input:
            _save_input(given.images, given.save_input, manifest)
            return 0
        model = open_model(folder, manifest, sums, given.model)
        files, notes = image_files(given.images)
    except (OSError, Refused) as refusal:
        return _complain(refusal)
    for note in notes:
        _complain(note)
    return max(_classify(file, model, manifest, given.top) for file in files)


def _save_input(images: Sequence[Path], out: Path, manifest: Mapping[str, Any]) -> None:
    """Write the model's input for one image; raises `Refused` for several, or one that cannot be read."""
    if len(images) != 1 or images[0].is_dir():
        raise Refused("--save-input: name one image")
    steps = manifest["preprocessing"]
    out.write_bytes(prepare(read_rgb(images[0], steps), steps).astype("<f4").tobytes())


def _classify(file: Path, model: Model, manifest: Mapping[str, Any], top: int) -> int:
    labels = manifest["labels"]
    try:
        inputs = prepare(read_rgb(file, manifest["preprocessing"]), manifest["preprocessing"])
        logits = model(inputs)
    except Refused as refusal:
        return _complain(refusal)
    # Of a manifest that was edited, or of a runtime: each has errors of its own.
    except Exception as error:
        return _complain(f"{file}: cannot be classified ({_one_line(error)}); export the model again")
    if logits.shape != (1, len(labels)):
        return _complain(f"{MANIFEST}: {len(labels)} labels for an output of {list(logits.shape)}; export again")
    if not np.isfinite(logits).all():
        return _complain(f"{file}: the model's answer is no numbers; try another runtime or model")
    (shares,) = probabilities(logits)
    for index in np.argsort(-shares, kind="stable")[: max(1, top)]:
        print(f"{_shown(file)}\t{_shown(labels[index])}\t{shares[index]:.4f}")
    return 0


def _complain(what: object) -> int:
    print(f"predict.py: {_shown(what)}", file=sys.stderr)
    return 2


def _shown(text: object) -> str:
    r"""Return the text in one line: a newline in a name is `\n`, a byte that is not UTF-8 is `\xfc`."""
    return _UNSHOWN.sub(lambda it: it[0].encode("unicode_escape").decode("ascii").replace(r"\udc", r"\x"), str(text))


def _run() -> int:
    """`main`, where its output may not be read to the end, as by `head`, and may lack characters of a name."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Python writes once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if isinstance(error, BrokenPipeError) else _complain(error)


if __name__ == "__main__":
    sys.exit(_run())
