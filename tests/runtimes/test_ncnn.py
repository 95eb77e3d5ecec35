"""ncnn's files, which are checked before ncnn sees them, and what else it is told."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.ncnn import packed, read
from nasdeploy.runtimes.ncnn_files import NcnnInput, NcnnModel
from tests.conformance.runtime_models import small_bytes, written

DEVICE = Device(name="here", runtime="ncnn")
needs_ncnn = pytest.mark.skipif(RUNTIMES["ncnn"].missing() is not None, reason="ncnn is not installed")
SMALL = read(small_bytes("ncnn"))
CONVOLUTION = (
    "7767517\n2 2\nInput input 0 1 input 0=8 1=8 2=4\n"
    "Convolution conv 1 1 input y 0=6 1=3 11=3 4=1 14=1 5=1 6=216 -23310=2,0.000000e+00,6.000000e+00\n"
)
WEIGHTS = bytes(4) + np.ones(216 + 6, "<f4").tobytes()


def said(param, weights=b""):
    with pytest.raises(ValueError, match=r"\w") as caught:
        NcnnModel.parse(param.encode() if isinstance(param, str) else param, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_file_says_is_read():
    assert SMALL.inputs == {"input": NcnnInput((6,))}
    assert SMALL.outputs == ("logits", "doubled")
    assert NcnnModel.parse(CONVOLUTION.encode(), WEIGHTS).inputs == {"input": NcnnInput((4, 8, 8))}


def test_bytes_and_files_are_as_they_were():
    assert read(packed(SMALL)) == SMALL
    assert NcnnModel.parse(SMALL.param, SMALL.bin) == SMALL
    model = NcnnModel.parse(CONVOLUTION.encode(), WEIGHTS)
    assert (model.param.decode(), model.bin) == (CONVOLUTION, WEIGHTS)


def test_weights_in_fp16_are_half_as_long_and_end_at_whole_words():
    param = CONVOLUTION.replace("6=216", "6=54").replace("11=3", "11=1").replace("1=3", "1=3").encode()
    halves = (0x01306B47).to_bytes(4, "little") + bytes(2 * 54) + bytes(4 * 6)
    assert NcnnModel.parse(param, halves).bin == halves
    assert "reaches" in said(param, halves[:-1])


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("7767517", "7767516", "does not begin as"),
        ("2 2\n", "3 2\n", "has 2 layers, and says 3"),
        ("2 2\n", "2 9\n", "has 2 blobs, and says 9"),
        ("2 2\n", "", "does not say how many"),
        ("Convolution", "Yolo", "unknown"),
        ("Convolution conv 1 1", "Convolution conv 9 1", "damaged"),
        ("Convolution conv 1 1 input y", "Convolution conv 2 1 input input y", "takes 2 blobs"),
        ("input y 0=6", "y y 0=6", "blob y is never made"),
        ("input y 0=6", "input input 0=6", "blob input is made twice"),
        ("0=6", "0=6.0e+00", "no whole number"),
        ("0=6", "0=nan", "damaged"),
        ("0=6", "0=-6", "is -6"),
        ("0=6", "0=0", "is 0"),
        ("0=6", "0=99999999999", "is 99999999999"),
        ("0=6", "0=666666666666666666", "damaged"),
        ("0=6", "0=7", "216 weights for 7 outputs"),
        ("0=6", "0=6 0=6", "damaged"),
        ("0=6", "99=6", "damaged"),
        ("-23310=2,", "-23310=3,", "damaged"),
        ("-23310=2,", "-23399=2,", "damaged"),
        ("1=3", "1=3 3=0", "is 0"),
        ("5=1", "5=1 8=2", "int8"),
        ("5=1", "5=0", "the weights have 892 bytes, and the graph has 868"),
        ("6=216", "6=8388608", "weights"),
        ("0=8 1=8 2=4", "", "sizes are not said"),
        ("0=8 1=8 2=4", "0=8 1=8 2=16777216", "sizes are"),
    ],
)
def test_what_ncnn_might_stumble_over_is_said_in_one_line(before, after, what):
    assert CONVOLUTION.count(before) >= 1
    changed = CONVOLUTION.replace(before, after, 1)
    with pytest.raises(ValueError, match=what) as caught:
        _ = NcnnModel.parse(changed.encode(), WEIGHTS).inputs
    assert "\n" not in str(caught.value)


def test_a_blob_that_two_layers_take_is_refused():
    param = "7767517\n3 3\nInput i 0 1 x 0=6\nReLU a 1 1 x y\nReLU b 1 1 x z\n"
    assert said(param) == "blob x is taken by several layers"


def test_weights_of_an_unknown_type_are_refused():
    assert "unknown type" in said(CONVOLUTION, b"\x01" + WEIGHTS[1:])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(content):
    for make in (lambda: read(content), lambda: NcnnModel.parse(content, content)):
        with pytest.raises(ValueError, match=r"\w"):
            make()


@given(st.integers(0, len(CONVOLUTION) - 1), st.characters(codec="ascii"))
def test_a_changed_character_is_refused_in_words_or_read(place, character):
    changed = CONVOLUTION[:place] + character + CONVOLUTION[place + 1 :]
    try:
        found = NcnnModel.parse(changed.encode(), WEIGHTS)
    except ValueError:
        return
    assert len(found.layers) == 2
    assert sum(map(len, found.weights)) == len(WEIGHTS)


@needs_ncnn
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"use_winograd": "true"}, r"option 'use_winograd' is unknown to ncnn; did you mean 'use_winograd\w+'"),
        ({"use_packing_layout": "yes"}, r"option 'use_packing_layout' is \"yes\"; write \"true\" or \"false\""),
        ({"openmp_blocktime": "-1"}, r"option 'openmp_blocktime' is \"-1\"; write milliseconds, 0 to 400"),
        ({"use_bf16_storage": "true"}, r"option 'use_bf16_storage' is unknown"),
    ],
)
def test_an_option_that_cannot_be_is_named(options, what):
    device = DEVICE.model_copy(update={"options": options})
    with pytest.raises(UserError, match=rf"^device here: {what}"):
        runtime_of(device).open(small_bytes("ncnn"), device)


@needs_ncnn
def test_options_are_ncnns_own_and_leave_results_alone():
    import ncnn

    from nasdeploy.runtimes.ncnn import OPTIONS

    assert all(hasattr(ncnn.Option(), name) for name in OPTIONS)
    options = {name: "0" if name.endswith("time") else "false" for name in OPTIONS}
    x = {"input": np.arange(6, dtype=np.float32)[np.newaxis]}
    plain, told = (
        runtime_of(device).open(small_bytes("ncnn"), device).run(x)
        for device in (DEVICE, DEVICE.model_copy(update={"options": options}))
    )
    np.testing.assert_allclose(plain[0], told[0], rtol=1e-6)


@needs_ncnn
def test_inputs_of_another_shape_are_refused():
    session = runtime_of(DEVICE).open(small_bytes("ncnn"), DEVICE)
    with pytest.raises(UserError, match=r"^input input: of shape \[1, 7\], and the model takes \(1, 6\)"):
        session.run({"input": np.zeros((1, 7), np.float32)})


@needs_ncnn
def test_weights_that_are_missing_are_named(tmp_path):
    path = written("ncnn", small_bytes("ncnn"), tmp_path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match=r"model\.bin: cannot be read \(No such file"):
        runtime_of(DEVICE).open(path, DEVICE)


@needs_ncnn
def test_opening_and_running_says_nothing(tmp_path):
    path = written("ncnn", small_bytes("ncnn"), tmp_path)
    command = [sys.executable, "-c", "from nasdeploy.runtimes.ncnn import main; main()", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[[4], [4]]\n", "")
