"""Classify images with the model that lies beside this file: `python predict.py IMAGE_OR_FOLDER...`

It needs NumPy, Pillow and a runtime (onnxruntime or openvino), and nothing else. Before anything is run the whole
folder is compared with SHA256SUMS. Every step from an image file to the model's input is read from manifest.json.

Exit code 0: every image was classified; 2: the folder or an image is damaged, or a runtime is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    sys.exit(f"predict.py: {error.name} is not installed; run: pip install numpy pillow onnxruntime")

SUMS, MANIFEST, SAMPLE = "SHA256SUMS", "manifest.json", "sample.npz"
SUFFIXES = frozenset(
    # JPEG, also under its older names.
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo"}
    | {".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".tga", ".qoi"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)
"""Of images that Pillow reads without further packages, in lower case."""

OF_TOOLS = frozenset(
    {
        *("@eadir", "@tmp", "@synoresource", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot", "~snapshot"),  # QNAP, NetApp
        *("__macosx", "icon\r", "network trash folder", "temporary items", "resource.frk"),  # macOS
        *("$recycle.bin", "system volume information", "found.000"),  # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini"),
        *("lost+found", "lost.dir", "__pycache__"),
    }
)
"""Names, in lower case, of what systems and tools keep for themselves without hiding it."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*)")
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MOST_PIXELS = 178_956_970
"""Of a picture unless the manifest allows more."""

_DEEP_GREY = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})

Array = Any
Model = Callable[[Array], Array]
"""From inputs `[N, 3, side, side]` to logits `[N, classes]`, both float32."""


class Refused(Exception):
    """A bundle or an image that is damaged, or a runtime that is missing: one line that says what and where."""


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


# -- from an image file to the model's input


def read_rgb(path: Path, steps: Mapping[str, Any]) -> Image.Image:
    """The picture in a file (its first frame) as 8-bit RGB, by the manifest's `preprocessing`, upright.

    Transparent pixels are blended with white; grey of more than 8 bits is brought to 8. Raises `Refused`.
    """
    try:
        with _pillow_alone(), Image.open(path) as image:
            return _to_rgb(image, steps.get("range"), steps.get("max_pixels", MOST_PIXELS))
    except UnidentifiedImageError:
        raise Refused(f"{path}: cannot be read as an image (no known format); remove or replace it") from None
    # Pillow's decoders meet damaged files with nearly every kind of exception.
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise Refused(f"{path}: cannot be read as an image ({reason}); remove or replace it") from None


@contextmanager
def _pillow_alone() -> Iterator[None]:
    """Without Pillow's warnings and its limit of pixels, for which the manifest has one of its own."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image, bounds: Sequence[float] | None, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(
            f"{width} x {height} pixels, {width * height} in all, and max_pixels in {MANIFEST} is {max_pixels}"
        )
    if (
        bounds
        and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())[:1])
        and image.mode not in _DEEP_GREY
    ):
        raise ValueError("16-bit colours, of which Pillow decodes the upper 8 bits alone: save it with 8 bits")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _DEEP_GREY:
        return Image.fromarray(_to_levels(np.asarray(upright), bounds)).convert("RGB")
    if upright.mode == "RGB" and "transparency" not in upright.info:
        upright.load()
        return upright
    if upright.mode in _WITH_ALPHA or "transparency" in upright.info:
        coloured = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return upright.convert("RGB")


def _to_levels(values: Array, bounds: Sequence[float] | None) -> Array:
    """Values of pixels as levels: those between the bounds spread over 0 to 255, or the upper 8 of 16 bits."""
    if bounds is None:
        if values.dtype.kind == "f":
            raise ValueError("floating-point pixels: save it with 8 or 16 bits")
        return (np.clip(values, 0, 65535).astype(np.int64) >> 8).astype(np.uint8)
    low, high = bounds
    levels = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(np.clip(np.nan_to_num(levels, nan=0.0), 0, 255)).astype(np.uint8)


def prepare(picture: Image.Image, steps: Mapping[str, Any]) -> Array:
    """Input `[1, 3, resolution, resolution]` from an RGB picture, by the manifest's `preprocessing`."""
    pixels = np.asarray(_cropped(picture, steps["resize"], steps["crop"]))
    levels = pixels.transpose(2, 0, 1)[np.newaxis].astype(np.float32) / np.float32(1 / steps["scale"])
    mean, std = (np.array(steps[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    return rescale((levels - mean) / std, steps["resolution"])


def _cropped(picture: Image.Image, shorter: int, side: int) -> Image.Image:
    width, height = picture.size
    longer = int(shorter * max(width, height) / min(width, height))
    width, height = (shorter, longer) if width <= height else (longer, shorter)
    left, top = round((width - side) / 2), round((height - side) / 2)
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))


def rescale(x: Array, side: int) -> Array:
    """Images `[N, 3, S, S]` at `side`: bicubic with a = -0.75, corners not aligned, not antialiased.

    Sums and products are rounded in the order of `torch.nn.functional.interpolate` on x86 processors with AVX2, so that
    the result equals its, bit for bit.
    """
    if x.shape[-1] == side:
        return np.ascontiguousarray(x)
    places, weights = cubic_taps(x.shape[-1], side)
    rows = _weighed([x[..., place] for place in places], weights)
    return _weighed([rows[:, :, place, :] for place in places], weights[:, :, np.newaxis])


def cubic_taps(size: int, side: int) -> tuple[Array, Array]:
    """For each of `side` places the four neighbours among `size`, and their weights: both `[4, side]`."""
    one = np.float32(1)
    centres = np.arange(side, dtype=np.float32) + np.float32(0.5)
    place = _fused(np.float32(size) / np.float32(side), centres, np.float32(-0.5))
    before = np.floor(place)
    t = place - before
    neighbours = np.clip(before.astype(int) + np.arange(-1, 3)[:, np.newaxis], 0, size - 1)
    return neighbours, np.stack([_far(t + one), _near(t), _near(one - t), _far((one - t) + one)])


def _near(t: Array) -> Array:
    return _fused(np.float32(1.25), t, np.float32(-2.25)) * t * t + np.float32(1)


def _far(t: Array) -> Array:
    return _fused(_fused(np.float32(-0.75), t, np.float32(3.75)), t, np.float32(-6)) * t + np.float32(3)


def _weighed(values: Sequence[Array], weights: Array) -> Array:
    first, second, third, fourth = zip(values, weights, strict=True)
    total = _fused(*first, second[0] * second[1])
    return _fused(*fourth, _fused(*third, total))


def _fused(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32 numbers, rounded once: their product is exact in float64."""
    return (np.asarray(a, np.float64) * b + c).astype(np.float32)


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
    """Of a long text the beginning and the end, where the reason stands."""
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


def _runtimes(artefact: Mapping[str, Any]) -> tuple[str, ...]:
    """That this program can run it in. In int8 only the one that it was quantised for computes the same."""
    if artefact["format"] == "openvino":
        return ("openvino",)
    if artefact["format"] == "onnx":
        return ("onnxruntime",) if artefact["precision"] == "int8" else ("onnxruntime", "openvino")
    return ()


def _onnxruntime(path: Path) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda inputs: session.run(None, {name: inputs})[0]


@cache
def _core() -> Any:
    """One for all models: of two that are closed a signal may end the process."""
    import openvino

    return openvino.Core()


def _openvino(path: Path) -> Model:
    # Without the hint some processors compute in bfloat16.
    compiled = _core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: next(iter(compiled(inputs).values()))


_OPENERS: Mapping[str, Callable[[Path], Model]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}


def probabilities(logits: Array) -> Array:
    """Softmax over the last axis, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def image_files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The files given and the images in the folders given, sorted, and a line for each folder of what was passed over.

    Links are followed; a folder that several ways lead to is read once. Raises `Refused` for what is not there.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            found, passed = _images_below(path)
            most = sorted(passed.items(), key=lambda each: (-each[1], each[0]))
            others = ", ".join(f"{count} {kind}" for kind, count in most[:5])
            if not found:
                raise Refused(f"{path}: holds no images{f' ({others})' if others else ''}")
            files += sorted(found)
            notes += [f"{path}: passed over: {others}"] if others else []
        elif path.exists():
            files.append(path)
        else:
            raise Refused(f"{path}: no such file or folder")
    return files, notes


def _images_below(root: Path) -> tuple[list[Path], Counter[str]]:
    """Images at any depth, and how many other files and folders there are, by kind."""
    found: list[Path] = []
    passed: Counter[str] = Counter()
    seen = {str(folder) for folder in Path(os.path.realpath(root)).parents}
    links = [str(root)]
    while links:
        for parent, folders, names in os.walk(links.pop(0), onerror=_unreadable):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            shown = sorted(name for name in folders if not is_hidden(name))
            passed["hidden folders or of tools"] += len(folders) - len(shown)
            linked = [name for name in shown if os.path.islink(os.path.join(parent, name))]
            links += [os.path.join(parent, name) for name in linked]
            folders[:] = [name for name in shown if name not in linked]
            for name in names:
                kind = _kind(parent, name)
                if kind:
                    passed[kind] += 1
                else:
                    found.append(Path(parent, name))
    return found, +passed


def _unreadable(error: OSError) -> None:
    raise Refused(f"{error.filename}: cannot be read ({error.strerror}); make it readable, or move it elsewhere")


def _kind(parent: str, name: str) -> str:
    """What a file is that is passed over; empty for an image."""
    if is_hidden(name):
        return "hidden files or of tools"
    if not os.path.isfile(os.path.join(parent, name)):
        return "links that lead nowhere, or no files"
    suffix = suffix_of(name)
    return "" if suffix in SUFFIXES else ascii(suffix)[1:-1] or "without a suffix"


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or a tool's own: no data, whatever it holds and however deep it lies."""
    return name.startswith(".") or name.casefold() in OF_TOOLS


def suffix_of(name: str) -> str:
    """What a file's name ends in, from its last point on, in lower case; empty if it has none."""
    stem, point, suffix = name.rpartition(".")
    return point + suffix.lower() if stem else ""


# -- the command


def main(arguments: Sequence[str] | None = None, folder: Path = Path(__file__).parent) -> int:
    """Print `FILE  CLASS  PROBABILITY` for each image, with `--top N` classes; the exit code."""
    parser = argparse.ArgumentParser(description="Classify images with the model in this folder.")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="classes to print for each image [1]")
    parser.add_argument("--model", metavar="FILE", help="model of this folder [the first that can run here]")
    given = parser.parse_args(arguments)
    if not given.images:
        parser.error("name image files or folders")
    try:
        sums = check_sums(folder)
        manifest = read_manifest(folder)
        model = open_model(folder, manifest, sums, given.model)
        files, notes = image_files(given.images)
    except (OSError, Refused) as refusal:
        return _complain(refusal)
    for note in notes:
        _complain(note)
    return max(_classify(file, model, manifest, given.top) for file in files)


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
    r"""In one line: a newline in a name is `\n`, a byte that is not UTF-8 is `\xfc`."""
    return _UNSHOWN.sub(
        lambda found: found[0].encode("unicode_escape").decode("ascii").replace(r"\udc", r"\x"), str(text)
    )


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
