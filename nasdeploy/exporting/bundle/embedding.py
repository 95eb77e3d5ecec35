"""Models with preprocessing in the graph beside those without, and whether the two agree on test images."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL.Image import Image

from nasdeploy.core.errors import CheckFailed
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.images import Images
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.exporting.bundle.embed import IMAGE, embed
from nasdeploy.exporting.bundle.pictures import prepare
from nasdeploy.exporting.difference import Disagreement, logits_of
from nasdeploy.exporting.manifest import Artefact, Embedded, FileFacts
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.runtime import Array, Session

IMAGES = 200
"""Test images, from all over the set, on which a model with preprocessing is compared with the one without."""

_ALLOWED = {"fp32": 0.02, "fp16": 0.02, "int8": 0.05}
"""Part of the logits' spread by which the two may differ: a few pixels differ by a level of 256."""


def embed_models(
    stage: Path, passed: Sequence[Artefact], images: Images, preprocessing: Preprocessing
) -> tuple[Embedded, ...]:
    """Write `model.embedded.onnx` beside each ONNX file in `stage`, and compare the two on test images.

    Raises `CheckFailed` if their logits differ by more than is allowed.
    """
    made = []
    for artefact in passed:
        if artefact.format == "onnx":
            path = stage / f"{artefact.file.name.removesuffix('.onnx')}.embedded.onnx"
            path.write_bytes(embed((stage / artefact.file.name).read_bytes(), preprocessing))
            try:
                made.append(_compared(path, stage / artefact.file.name, artefact, images, preprocessing))
            except Disagreement as disagreement:
                raise CheckFailed(
                    f"{path.name}: {disagreement}; export without --embed-preprocessing, and preprocess outside"
                ) from None
    return tuple(made)


def _compared(path: Path, plain: Path, artefact: Artefact, images: Images, preprocessing: Preprocessing) -> Embedded:
    runtime, steps = runtime_of(artefact.device), preprocessing.model_dump()
    with (
        closing(runtime.open(path, artefact.device)) as inside,
        closing(runtime.open(plain, artefact.device)) as outside,
    ):
        pairs = [
            (logits_of(outside, prepare(picture, steps)), _from_pixels(inside, np.asarray(picture)))
            for picture in _pictures(images)
        ]
    expected, found = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    spread = max(float(np.ptp(expected)), float(np.finfo(np.float32).tiny))
    allowed = _ALLOWED[artefact.precision]
    largest = float(np.abs(found - expected).max()) / spread
    if not largest <= allowed:
        raise Disagreement(
            f"logits differ from those of {plain.name} by up to {largest:.2g} of their spread, allowed {allowed:g}"
        )
    return Embedded(
        model=plain.name,
        file=FileFacts.of(path),
        images=len(expected),
        difference=largest,
        allowed=allowed,
        changed=int((found.argmax(axis=1) != expected.argmax(axis=1)).sum()),
    )


def _from_pixels(session: Session, pixels: Array) -> Array:
    assert list(session.inputs) == [IMAGE]
    return logits_of(session, pixels[np.newaxis])


def _pictures(images: Images) -> Iterator[Image]:
    for index in np.linspace(0, len(images) - 1, min(len(images), IMAGES)).round().astype(int):
        try:
            yield images.image(int(index))
        except UnreadableImage:
            continue
