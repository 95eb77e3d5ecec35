"""What of OpenVINO the conformance suite cannot ask: its properties."""

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from tests.conformance.runtime_models import relu_of

pytestmark = pytest.mark.skipif(RUNTIMES["openvino"].missing() is not None, reason="OpenVINO is not installed")
DEVICE = Device(name="here", runtime="openvino")


def compiled(device):
    session = runtime_of(device).open(relu_of("onnx", 1, 4), device)
    return session._request.get_compiled_model()


def test_one_stream_for_latency_in_fp32():
    model = compiled(DEVICE)
    assert model.get_property("NUM_STREAMS") == 1
    assert model.get_property("INFERENCE_NUM_THREADS") == 1
    assert model.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert model.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_a_devices_options_are_openvinos_properties():
    model = compiled(DEVICE.model_copy(update={"options": {"CPU_DENORMALS_OPTIMIZATION": "YES"}}))
    assert model.get_property("CPU_DENORMALS_OPTIMIZATION") is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"NO_SUCH": "1"}, r"option 'NO_SUCH' is refused \(NotFound: Unsupported property NO_SUCH by CPU plugin\.\)"),
        ({"ENABLE_CPU_PINNING": "maybe"}, r"option 'ENABLE_CPU_PINNING' is refused \(Wrong value maybe"),
    ],
)
def test_a_refused_property_is_named_without_openvinos_sources(options, message):
    with pytest.raises(UserError, match=rf"^device here: {message}") as caught:
        compiled(DEVICE.model_copy(update={"options": {"CPU_DENORMALS_OPTIMIZATION": "YES", **options}}))
    assert ".cpp" not in str(caught.value)
