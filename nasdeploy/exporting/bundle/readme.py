"""README.md of a bundle, from its manifest. Torch-free."""

from collections.abc import Iterator

from nasdeploy.data.settings import Preprocessing
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.manifest import Artefact, BundleManifest, ExportManifest, TensorFacts
from nasdeploy.exporting.record import HalfPrecision, counted
from nasdeploy.runtimes.onnxruntime import OLDEST_TRIED
from nasdeploy.tasks import task_of

_LABELS_SHOWN = 8


def readme(manifest: BundleManifest) -> str:
    """Return what the model is, how to run it, what was measured, and where that holds."""
    if isinstance(manifest, ExportManifest):
        parts = [_title(manifest), _running(manifest), _interface(manifest), _figures(manifest), _limits(manifest)]
    else:
        parts = [_title_of_task(manifest), _interface_of_parts(manifest), _figures(manifest), _limits_of_task(manifest)]
    return "\n\n".join(parts) + "\n"


def _title_of_task(manifest: BundleManifest) -> str:
    return "\n".join(
        [
            f"# Network {manifest.digest}\n",
            f"A network for the task {manifest.task_name}, exported by nasdeploy on {manifest.created[:10]}: "
            f"{manifest.macs / 1e6:.4g} M multiply-accumulates for a sample, {manifest.params / 1e6:.4g} M parameters.",
            *_weights(manifest),
            "",
            "| part | file | format | precision | for |",
            "|---|---|---|---|---|",
            *(
                f"| {part} | `{name}` | {made.format} | {made.precision} | {_for(made)} |"
                for made in manifest.artefacts
                for part, name in (made.parts or {manifest.interfaces[0].name: made.file.name}).items()
            ),
        ]
    )


def _interface_of_parts(manifest: BundleManifest) -> str:
    lines = [
        f"- {part.name}, {part.runs} run(s) for a sample: {', '.join(map(_tensor, part.inputs))} -> "
        f"{', '.join(map(_tensor, part.outputs))}"
        for part in manifest.interfaces
    ]
    return "\n".join(
        [
            "## In a program of your own\n",
            *lines,
            "\n`sample.npz` holds inputs of each part (`input PART NUMBER`) and PyTorch's outputs (`output PART NUMBER "
            "`).\nWhere nasdeploy is installed, `nasdeploy verify .` tries the model on this machine.",
        ]
    )


def _tensor(tensor: TensorFacts) -> str:
    return f"`{tensor.name}` {tensor.dtype} {list(tensor.shape)}".replace("'", "")


def _limits_of_task(manifest: BundleManifest) -> str:
    return "\n".join(
        [
            "## Limits\n",
            *_machines(manifest),
            "- The score was measured on test samples of the same origin as the training samples.",
        ]
    )


def _title(manifest: ExportManifest) -> str:
    shown = ", ".join(manifest.labels[:_LABELS_SHOWN])
    more = len(manifest.labels) - _LABELS_SHOWN
    rows = [
        f"| `{made.file.name}` | {made.format} | {made.precision} | {made.bytes / 1e6:.3g} MB | {_for(made)} |"
        for made in manifest.artefacts
    ]
    return "\n".join(
        [
            f"# Network {manifest.digest}\n",
            f"An image classifier, exported by nasdeploy on {manifest.created[:10]}: {manifest.macs / 1e6:.4g} M "
            f"multiply-accumulates, {manifest.params / 1e6:.4g} M parameters.",
            *_weights(manifest),
            f"Its {len(manifest.labels)} classes: {shown}{f' and {more} more' if more > 0 else ''} (`labels` in "
            "manifest.json has all, in the order of the logits).\n",
            "| file | format | precision | size | for |",
            "|---|---|---|---|---|",
            *rows,
            *_embedded(manifest),
        ]
    )


def _weights(manifest: BundleManifest) -> list[str]:
    weights, own = manifest.origin.weights, manifest.origin.own
    if own is not None:
        said = own.text(task_of(manifest.task_name).metric)
        begun = f"; they began as those of {_INHERITED[own.inherited]}" if own.kind == "finetuned" else ""
        at = f"checkpoint of epoch {own.checkpoint.epoch}, sha256 {own.checkpoint.sha256}"
        return [f"Its weights (sha256 {own.sha256}) are {said}{begun} ({at})."]
    if weights is None:
        return []
    return [f"Its weights are those of a supernet after epoch {weights.epoch} (checkpoint, sha256 {weights.sha256})."]


_INHERITED = {"supernet": "a supernet", "original": "the original"}


def _embedded(manifest: ExportManifest) -> list[str]:
    return [
        f"| `{made.file.name}` | onnx with preprocessing: uint8 `image` [batch, height, width, 3], RGB, any size | "
        f"as `{made.model}` | {made.file.bytes / 1e6:.3g} MB | {made.changed} of {made.images} test images get another "
        f"class than by preprocessing outside |"
        for made in manifest.embedded
    ]


def _for(made: Artefact) -> str:
    gpus = f", {', '.join(made.capabilities)}" if made.capabilities else ""
    return f"{made.device.runtime}{gpus}"


def _running(manifest: ExportManifest) -> str:
    packages = [package for made in manifest.artefacts if (package := FORMATS[made.format].package)]
    if not packages:
        return (
            "## Running it\n\n"
            "`predict.py` runs ONNX, OpenVINO, ncnn, MNN and LiteRT files, of which this bundle has none.\n"
            "Where nasdeploy is installed, `nasdeploy predict . IMAGE_OR_FOLDER...` classifies images, and `nasdeploy "
            "verify .`\ntries the model on this machine."
        )
    runtime = "onnxruntime" if "onnxruntime" in packages else packages[0]
    tried = f" The\noldest version that ONNX files of its kind were tried with is ONNX Runtime {OLDEST_TRIED}."
    version = manifest.versions.get(runtime)
    return (
        "## Running it\n\n"
        f"    pip install {runtime}{f'=={version}' if version else ''} numpy pillow\n"
        "    python predict.py IMAGE_OR_FOLDER...\n\n"
        "prints file, class and probability for each image (`--top 5`: five classes). It compares this folder with "
        "SHA256SUMS first, as\n`sha256sum -c SHA256SUMS` does, and refuses one that was changed. Where nasdeploy is "
        "installed, `nasdeploy verify .`\ntries the model on this machine, and `nasdeploy bench .` measures it."
        f"{tried if runtime == 'onnxruntime' else ''}"
        f"{''.join(_example(made) for made in manifest.artefacts)}"
    )


def _example(made: Artefact) -> str:
    """How a model is run where there is no Python."""
    example = FORMATS[made.format].example
    if example is None:
        return ""
    names = " ".join(file.name for file in made.files)
    return (
        f"\n\nWithout Python, `{example.source}` runs it. It needs {example.needs}.\n\n"
        "    python predict.py --save-input input.f32 IMAGE    (on any machine)\n"
        f"    {example.command}\n"
        f"    ./predict {names} input.f32\n\n"
        "prints the numbers of the best five classes, which are places in `labels` of manifest.json, and their logits."
    )


def _interface(manifest: ExportManifest) -> str:
    steps = manifest.preprocessing
    side = steps.resolution
    rescaled = (
        ""
        if steps.crop == side
        else f"5. Rescale to {side} x {side}: bicubic (a = -0.75, corners not aligned, no antialiasing).\n"
    )
    tensors = [_tensor(each) for each in (*manifest.inputs, *manifest.outputs)]
    return (
        f"## In a program of your own\n\n{tensors[0]} -> {tensors[1]}, for {_batches(manifest)}. "
        "From an image file to its input:\n\n"
        "1. Decode, turn upright by the EXIF orientation, blend transparent pixels with white, convert to 8-bit RGB.\n"
        f"   {_bits(steps)}\n"
        f"2. Resize by Pillow's bicubic, which is antialiased: the shorter side to {steps.resize}, the longer one in "
        "proportion, rounded down.\n"
        f"3. Crop the centre, {steps.crop} x {steps.crop}.\n"
        f"4. Divide by {1 / steps.scale:g}, subtract {_triple(steps.mean)}, divide by {_triple(steps.std)} "
        "(red, green, blue).\n"
        f"{rescaled}\n"
        "`sample.npz` holds a picture (`pixels`), what these steps make of it (`input`) and the network's answer "
        "(`logits`)."
    )


def _batches(manifest: ExportManifest) -> str:
    if any(made.largest_batch != 1 for made in manifest.artefacts):
        return "batches of 1 or more images"
    bare = {made.file.name for made in manifest.artefacts if made.format == "ncnn"}
    return f"one image in a call{''.join(f', which `{name}` takes without the batch' for name in sorted(bare))}"


def _bits(steps: Preprocessing) -> str:
    if steps.range is None:
        return "Of grey pictures of 16 bits the upper 8 are kept."
    black, white = (f"{value:.9g}" for value in steps.range)
    return (
        f"Grey pictures of more than 8 bits: round(255 * (value - {black}) / ({white} - {black})), what lies outside 0 "
        "to 255 cut off."
    )


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _figures(manifest: BundleManifest) -> str:
    rows = ["| file | what | figure |", "|---|---|---|"]
    for made in manifest.artefacts:
        rows += [f"| `{made.file.name}` | {what} | {figure} |" for what, figure in _found(made)]
    return "\n\n".join(["## Figures", "\n".join(rows), *_copies(manifest)])


def _copies(manifest: BundleManifest) -> Iterator[str]:
    """What figures on images that were learned from are worth."""
    data = manifest.data if isinstance(manifest, ExportManifest) else None
    if data is None or data.copies is None:
        return
    if data.copies.test_in_training:
        yield (
            f"**{data.copies.test_in_training} of the {data.images['test']} test images are also training images, byte "
            "for byte: figures on these prove nothing.**"
        )
    if data.copies.in_several_classes:
        yield f"**{data.copies.in_several_classes} pictures of the run's data lie under several classes.**"


def _found(made: Artefact) -> Iterator[tuple[str, str]]:
    accuracy, agreement, latency = made.proof.tested, made.proof.agreement, made.proof.latency
    if made.not_run:
        yield "not run", f"{made.not_run}; these figures are those of the ONNX model that it was built from"
    if accuracy:
        metric = accuracy.metric
        low, high = (f"{metric.scale * bound:.{metric.decimals}f}" for bound in accuracy.interval)
        yield (
            f"{metric.name} on {counted(accuracy.samples, accuracy.unreadable, f'test {metric.samples}')}",
            f"{metric.text(accuracy.value)} (95 %: {low} to {high}); of the PyTorch network that it was made "
            f"from {metric.text(accuracy.value_pytorch)}",
        )
    if made.proof.computed_in:
        yield "computed in", f"{made.proof.computed_in}{_not_as_stored(made)}"
    if made.proof.half:
        yield from _half(made.proof.half)
    if agreement:
        parts = " of their spread" if agreement.tolerance.scale == "spread" else ""
        yield "largest difference of logits from PyTorch's", f"{agreement.difference:.1e}{parts}"
    if latency:
        noisy = ", too noisy to be trusted" if latency.noisy else ""
        yield (
            f"latency on {made.device.name}, batch {latency.batch}",
            f"{latency.text}{noisy}, calls back to back",
        )
    if latency and (after := latency.after_gaps):
        noisy = ", too noisy to be trusted" if after.noisy else ""
        yield (
            f"the same after doing nothing for {after.gap_ms:g} ms",
            f"{after.text}{noisy}",
        )
    if latency and (done := latency.throughput):
        yield (
            f"throughput on {made.device.name}, batch {latency.batch}",
            f"{done.images_per_s:.4g} images/s: {done.images} were done back to back in {done.seconds:.2g} s",
        )


def _not_as_stored(made: Artefact) -> str:
    if made.proof.computed_in == made.precision:
        return ""
    return f" by the machine of these figures, which does not compute in {made.precision}"


def _half(found: HalfPrecision) -> Iterator[tuple[str, str]]:
    accuracy = found.accuracy
    yield (
        "each result rounded to fp16",
        f"{accuracy.metric.name} {accuracy.metric.text(accuracy.value)} on {accuracy.samples} test images, logits "
        f"differ by up to {accuracy.difference:.1e} of their spread; activations reach {found.largest:.4g} of 65504 "
        f"({found.operator})",
    )
    if found.kept:
        yield (
            "kept in fp32",
            f"{len(found.kept)} operators that {found.calibration} training images take beyond fp16: "
            f"{', '.join(found.kept)}",
        )


def _rebuilt(made: Artefact) -> str:
    if FORMATS[made.format].rebuilds_with is None:
        return f" `{made.files[1].name}` is what it was converted from (torch_tensorrt.dynamo.compile)."
    return f" `python rebuild.py`\n  builds it again, from `{made.files[1].name}`."


def _machines(manifest: BundleManifest) -> list[str]:
    return sorted(
        {
            f"- Latency was measured on this machine only: {made.fingerprint.cpu}, {made.fingerprint.runtime}, "
            f"{made.device.threads} thread(s). On another it has to be measured again."
            for made in manifest.artefacts
            if made.fingerprint
        }
    )


def _limits(manifest: ExportManifest) -> str:
    planned = [
        f"- `{made.file.name}` takes {'exactly' if FORMATS[made.format].fixes_batch else 'at most'} "
        f"{made.largest_batch} image{'s' * (made.largest_batch > 1)} in a call."
        for made in manifest.artefacts
        if made.largest_batch is not None
    ]
    tied = [
        f"- `{made.file.name}` loads on GPUs of {', '.join(made.capabilities) or 'the kind that it was built on'} in "
        f"the version of {made.format} that wrote it, and nowhere else.{_rebuilt(made)}"
        for made in manifest.artefacts
        if FORMATS[made.format].tied
    ]
    return "\n".join(
        [
            "## Limits\n",
            *_machines(manifest),
            *planned,
            *tied,
            "- Accuracy was measured on test images of the same origin as the training images: it says nothing of "
            "images of another kind,\n  and a probability is not calibrated.",
            "- Whatever is none of the classes gets one of them all the same.",
        ]
    )
