"""Preprocessing inside the ONNX graph: from pixels of any size to logits, compared with preprocessing outside.

The resize is Pillow's, written as two matrix products with weights that are computed from the image's size, in Pillow's
order and each rounded to 8 bits, which ONNX's own Resize does not do; nor does every runtime have its antialiasing. The
difference that remains is one level where a sum of float32 products lies next to a half. Decoding, orientation,
transparency, and bringing pictures of more than 8 bits to 8 stay with the caller.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper, parser
from PIL.Image import Image

from nasdeploy.convert.versions import lowest
from nasdeploy.core.errors import CheckFailed
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.images import Images
from nasdeploy.data.settings import Preprocessing
from nasdeploy.exporting.bundle.pictures import cubic_taps, prepare
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.manifest import Artefact, Embedded, FileFacts
from nasdeploy.exporting.record import Disagreement, logits_of
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.runtime import Array, Session

IMAGE = "image"
"""Name of the input: uint8 `[batch, height, width, 3]`, RGB."""

_NETWORK = "network/"
_OPSET = 17
"""The version of the form in which the two are joined; means of later ones are others."""

_A = -0.5
"""The parameter of Pillow's bicubic filter."""
_FIXED = float(1 << 22)
"""Pillow's weights are whole multiples of its inverse."""

_SIZES = """
    shape = Shape (image)
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    three = Constant <value_ints = [3]> ()
    height = Slice (shape, one, two)
    width = Slice (shape, two, three)
    shorter = Min (height, width)
    resize = Constant <value_ints = [{resize}]> ()
    crop = Constant <value_ints = [{crop}]> ()
"""

_AXIS = """
    {n}_scaled = Mul (resize, {n})
    {n}_resized = Div ({n}_scaled, shorter)
    {n}_margin = Sub ({n}_resized, crop)
    {n}_margin_d = Cast <to = 11> ({n}_margin)
    {n}_middle = Mul ({n}_margin_d, half)
    {n}_first = Round ({n}_middle)
    {n}_d = Cast <to = 11> ({n})
    {n}_resized_d = Cast <to = 11> ({n}_resized)
    {n}_scale = Div ({n}_d, {n}_resized_d)
    {n}_filter = Max ({n}_scale, unit)
    {n}_place = Add (places, {n}_first)
    {n}_centred = Add ({n}_place, half)
    {n}_centre = Mul ({n}_centred, {n}_scale)
    {n}_support = Mul ({n}_filter, double)
    {n}_left = Sub ({n}_centre, {n}_support)
    {n}_left_half = Add ({n}_left, half)
    {n}_from = Floor ({n}_left_half)
    {n}_right = Add ({n}_centre, {n}_support)
    {n}_right_half = Add ({n}_right, half)
    {n}_to = Floor ({n}_right_half)
    {n}_end = Squeeze ({n}_d)
    {n}_source = Range (zero, {n}_end, step)
    {n}_not_before = GreaterOrEqual ({n}_source, {n}_from)
    {n}_before_end = Less ({n}_source, {n}_to)
    {n}_inside = And ({n}_not_before, {n}_before_end)
    {n}_source_centre = Add ({n}_source, half)
    {n}_away = Sub ({n}_source_centre, {n}_centre)
    {n}_signed = Div ({n}_away, {n}_filter)
    {n}_t = Abs ({n}_signed)
    {n}_t2 = Mul ({n}_t, {n}_t)
    {n}_t3 = Mul ({n}_t2, {n}_t)
    {n}_near_cube = Mul (near3, {n}_t3)
    {n}_near_square = Mul (near2, {n}_t2)
    {n}_near_sum = Add ({n}_near_cube, {n}_near_square)
    {n}_near = Add ({n}_near_sum, unit)
    {n}_far_cube = Mul (far3, {n}_t3)
    {n}_far_square = Mul (far2, {n}_t2)
    {n}_far_line = Mul (far1, {n}_t)
    {n}_far_sum = Add ({n}_far_cube, {n}_far_square)
    {n}_far_sum_line = Add ({n}_far_sum, {n}_far_line)
    {n}_far = Add ({n}_far_sum_line, far0)
    {n}_is_near = Less ({n}_t, unit)
    {n}_is_far = Less ({n}_t, double)
    {n}_far_or_none = Where ({n}_is_far, {n}_far, zero)
    {n}_either = Where ({n}_is_near, {n}_near, {n}_far_or_none)
    {n}_raw = Where ({n}_inside, {n}_either, zero)
    {n}_total = ReduceSum <keepdims = 1> ({n}_raw, last)
    {n}_shares = Div ({n}_raw, {n}_total)
    {n}_fixed = Mul ({n}_shares, fixed)
    {n}_whole = Round ({n}_fixed)
    {n}_rounded = Div ({n}_whole, fixed)
    {n}_weights = Cast <to = 1> ({n}_rounded)
"""

_PIXELS = """
    planes = Transpose <perm = [0, 3, 1, 2]> (image)
    levels = Cast <to = 1> (planes)
    across = Transpose <perm = [1, 0]> (width_weights)
    height_lost = Sub (height, height_resized)
    width_lost = Sub (width, width_resized)
    width_lost_twice = Add (width_lost, width_lost)
    is_tall = Greater (height_lost, width_lost_twice)
    is_lower = Greater (height_lost, nothing)
    is_down_first = And (is_tall, is_lower)
    down_first = Squeeze (is_down_first)
    cropped = If (down_first) <
        then_branch = vertically_first () => (float[batch, 3, {crop}, {crop}] vertical_end) {{
            vertical_raw = MatMul (height_weights, levels)
            vertical_up = Add (vertical_raw, half_f)
            vertical_down = Floor (vertical_up)
            vertical = Clip (vertical_down, black, white)
            vertical_end_raw = MatMul (vertical, across)
            vertical_end_up = Add (vertical_end_raw, half_f)
            vertical_end_down = Floor (vertical_end_up)
            vertical_end = Clip (vertical_end_down, black, white)
        }},
        else_branch = horizontally_first () => (float[batch, 3, {crop}, {crop}] horizontal_end) {{
            horizontal_raw = MatMul (levels, across)
            horizontal_up = Add (horizontal_raw, half_f)
            horizontal_down = Floor (horizontal_up)
            horizontal = Clip (horizontal_down, black, white)
            horizontal_end_raw = MatMul (height_weights, horizontal)
            horizontal_end_up = Add (horizontal_end_raw, half_f)
            horizontal_end_down = Floor (horizontal_end_up)
            horizontal_end = Clip (horizontal_end_down, black, white)
        }}
    >
    scaled = Div (cropped, white)
    centred = Sub (scaled, mean)
"""
"""Pillow's passes; it shrinks images vertically first that lose more than twice as many rows as columns."""


def embed(model: bytes, preprocessing: Preprocessing) -> bytes:
    """An ONNX model from `image` to `logits`, for images of any one size in a batch, from one of prepared inputs."""
    body = onnx.load_from_string(model)
    lowest(body)
    before = _preprocessing(preprocessing)
    # What `lowest` states is the least: the operators are the same in this one.
    body.ir_version, body.opset_import[0].version = before.ir_version, _OPSET
    joined = onnx.compose.merge_models(
        before,
        onnx.compose.add_prefix(body, _NETWORK, rename_outputs=False),
        io_map=[("prepared", _NETWORK + body.graph.input[0].name)],
    )
    lowest(joined)
    onnx.checker.check_model(joined, full_check=True)
    content: bytes = joined.SerializeToString(deterministic=True)
    return content


def _preprocessing(steps: Preprocessing) -> ModelProto:
    """`image` to `prepared`, float32 `[batch, 3, resolution, resolution]`."""
    side = steps.resolution
    rescaling = (
        "prepared = Div (centred, std)"
        if steps.crop == side
        else "normal = Div (centred, std) finer = MatMul (normal, rescale_across) prepared = MatMul (rescale, finer)"
    )
    text = (
        f'<ir_version: 8, opset_import: ["" : {_OPSET}]>\n'
        f"preprocessing (uint8[batch, height, width, 3] {IMAGE}) => (float[batch, 3, {side}, {side}] prepared) {{"
        + _SIZES.format(resize=steps.resize, crop=steps.crop)
        + _AXIS.format(n="height")
        + _AXIS.format(n="width")
        + f"{_PIXELS.format(crop=steps.crop)} {rescaling}\n}}"
    )
    model = parser.parse_model(text)
    model.graph.initializer.extend(_constants(steps))
    return model


def _constants(steps: Preprocessing) -> Sequence[onnx.TensorProto]:
    channels = (1, 3, 1, 1)
    weights = _rescale_weights(steps.crop, steps.resolution)
    values = {
        "places": np.arange(steps.crop, dtype=np.float64)[:, np.newaxis],
        "last": np.array([1]),
        "nothing": np.array([0]),
        **{name: np.array(value, np.float64) for name, value in _CUBIC.items()},
        "half_f": np.array(0.5, np.float32),
        "black": np.array(0.0, np.float32),
        "white": np.array(1 / steps.scale, np.float32),
        "mean": np.array(steps.mean, np.float32).reshape(channels),
        "std": np.array(steps.std, np.float32).reshape(channels),
    }
    if steps.crop != steps.resolution:
        values |= {"rescale": weights, "rescale_across": np.ascontiguousarray(weights.T)}
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _rescale_weights(size: int, side: int) -> Array:
    """The matrix `[side, size]` of `predict.rescale` along one axis."""
    places, weights = cubic_taps(size, side)
    matrix = np.zeros((side, size), np.float32)
    for place, weight in zip(places, weights, strict=True):
        np.add.at(matrix, (np.arange(side), place), weight)
    return matrix


_CUBIC = {
    "zero": 0.0,
    "half": 0.5,
    "unit": 1.0,
    "step": 1.0,
    "double": 2.0,
    "fixed": _FIXED,
    "near3": _A + 2,
    "near2": -(_A + 3),
    "far3": _A,
    "far2": -5 * _A,
    "far1": 8 * _A,
    "far0": -4 * _A,
}
"""Numbers of the graph. Keys' cubic: near for distances below 1, far below 2."""


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
        if FORMATS[artefact.format].embeds:
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
