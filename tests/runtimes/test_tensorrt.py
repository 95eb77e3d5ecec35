"""Building engines, which TensorRT for RTX does without a GPU; the conformance suite runs them where there is one."""

import pytest
import torch

from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.convert import model_for
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import TensorType
from nasdeploy.latency.profile import randomise_norms
from nasdeploy.nn.network import StaticBlock
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.tensorrt import Loader, TensorRt
from tests.conformance.runtime_models import relu_of, small_onnx, unknown_operator

RTX = RUNTIMES["tensorrt-rtx"]
assert isinstance(RTX, TensorRt)
DEVICE = Device(name="here", runtime="tensorrt-rtx")
BLOCK = MBConv(9, 16, 24, kernel_size=5, expand_ratio=4, stride=2, se=True, activation="hswish")

needs_rtx = pytest.mark.skipif(RTX.missing() is not None, reason="TensorRT for RTX is not installed")


def block_engine(precision, *capabilities):
    torch.manual_seed(0)
    module = StaticBlock(BLOCK)
    randomise_norms(module)
    device = DEVICE.model_copy(update={"precision": precision})
    return RTX.build(model_for(module, BLOCK.inputs, device), device, capabilities)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_block_is_built_for_the_capabilities_asked_for(precision):
    """The header says which: bytes 32 to 35 are a bit mask."""
    one, other = block_engine(precision, "SM86"), block_engine(precision, "SM89")
    both = block_engine(precision, "SM86", "SM89")
    assert {engine[:4] for engine in (one, other, both)} == {b"vtrt"}
    masks = [int.from_bytes(engine[32:36], "little") for engine in (one, other, both)]
    assert masks[0] != masks[1]
    assert masks[2] == masks[0] | masks[1]


@needs_rtx
def test_weights_of_fp16_take_half_the_room():
    module = torch.nn.Conv2d(256, 512, 3)
    sizes = []
    for precision in ("fp32", "fp16"):
        device = DEVICE.model_copy(update={"precision": precision})
        sizes.append(len(RTX.build(model_for(module, [TensorType((256, 8, 8))], device), device, ["SM86"])))
    assert 0.45 < sizes[1] / sizes[0] < 0.6


@needs_rtx
def test_a_dynamic_batch_is_built():
    assert RTX.build(small_onnx("batch"), DEVICE, ["SM86"])[:4] == b"vtrt"


@needs_rtx
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the model: tensorrt_rtx cannot load it (it has no outputs); export it again"),
        (b"no model", "the model: tensorrt_rtx cannot load it ("),
        (small_onnx(1)[:100], "the model: tensorrt_rtx cannot load it ("),
        (unknown_operator("onnx"), "the model: tensorrt_rtx cannot run operator Unheard of node 'odd' ("),
    ],
    ids=["empty", "text", "cut", "operator"],
)
def test_a_model_that_it_refuses_is_one_line(content, message):
    with pytest.raises(UserError) as caught:
        RTX.build(content, DEVICE, ["SM86"])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@needs_rtx
def test_unknown_capability_offers_the_nearest():
    with pytest.raises(UserError, match="unknown compute capability 'SM87'; did you mean 'SM8"):
        RTX.build(relu_of("onnx", 1, 4), DEVICE, ["SM87"])


@needs_rtx
def test_options_are_checked():
    for options, message in (
        ({"tf32": "yes"}, r"device here: option 'tf32' is \"yes\"; write \"true\" or \"false\""),
        ({"tf23": "true"}, "device here: option 'tf23' is unknown to tensorrt-rtx; did you mean 'tf32'"),
    ):
        with pytest.raises(UserError, match=message):
            RTX.build(relu_of("onnx", 1, 4), DEVICE.model_copy(update={"options": options}), ["SM86"])
    allowed = DEVICE.model_copy(update={"options": {"tf32": "true"}})
    assert RTX.build(relu_of("onnx", 1, 4), allowed, ["SM86"])[:4] == b"vtrt"


@needs_rtx
def test_weights_in_int8_are_built():
    assert block_engine("int8", "SM86")[:4] == b"vtrt"


def test_a_machine_without_a_driver_says_so(monkeypatch):
    monkeypatch.setattr("nasdeploy.runtimes.cuda._DRIVER", "libabsent.so.1")
    monkeypatch.setattr(RTX, "missing", lambda: None)
    with pytest.raises(
        UserError, match="device here: tensorrt-rtx cannot run here: there is no NVIDIA driver; install"
    ):
        runtime_of(DEVICE)


class CompilingSdk:
    """Contexts as TensorRT for RTX makes them: each of a configuration that may name kernels made before."""

    class ILogger:
        Severity = None

    def __init__(self):
        self.kernels_of_contexts = []

    def Runtime(self, log):
        return self

    def create_runtime_config(self):
        return self

    def create_runtime_cache(self):
        return object()

    def set_runtime_cache(self, kernels):
        self.chosen = kernels

    def create_execution_context(self, config):
        self.kernels_of_contexts.append(config.chosen)
        return self


def test_contexts_share_the_kernels_that_were_compiled():
    sdk = CompilingSdk()
    loader = Loader(sdk)
    contexts = [loader.context(sdk) for _ in range(3)]
    assert contexts == 3 * [sdk]
    assert len(set(map(id, sdk.kernels_of_contexts))) == 1


def test_an_earlier_engines_error_is_no_later_ones_reason():
    sdk = CompilingSdk()
    sdk.deserialize_cuda_engine = lambda content: None
    loader = Loader(sdk)
    loader.log.errors.append("of another engine")
    with pytest.raises(RuntimeError, match="it does not say why"):
        loader.engine(b"")


def test_a_context_of_an_sdk_that_does_not_compile_is_the_engines(monkeypatch):
    class Engine:
        def create_execution_context(self):
            return "context"

    assert Loader(CompilingSdk()).context(Engine()) == "context"
    monkeypatch.setattr(Engine, "create_execution_context", lambda self: None)
    with pytest.raises(RuntimeError, match="it does not say why"):
        Loader(CompilingSdk()).context(Engine())
