"""The writer in runtimes: its parts as files, what they are timed on, and its latency table."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from nasdeploy.convert import model_for, quick_onnx, to_onnx
from nasdeploy.core.costs import Costs
from nasdeploy.core.plan import Part, TensorType
from nasdeploy.core.progress import Progress
from nasdeploy.latency.profile import named_parts, profile, randomise_norms, whole_network
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.table import entry_cost
from nasdeploy.nn.network import Network, NetworkPart, SessionRunner
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.runtimes.runtime import TorchModel, integer_values, random_input
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.families.families import registered
from tests.families.space import Writer
from tests.families.test_writer import frames, write

SPACE = Writer()
NAMES = {"encoder": (["frames"], ["memory", "summary"]), "step": (["memory", "summary", "tokens"], ["logits"])}
AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture(autouse=True)
def writer_families() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def network() -> Network:
    with registered():
        torch.manual_seed(0)
        made = Network(SPACE.plan(SPACE.largest())).eval()
        randomise_norms(made)
        return made


@pytest.fixture(scope="module")
def files(network: Network) -> dict[str, bytes]:
    with registered():
        return {part: to_onnx(network, part, *names) for part, names in NAMES.items()}


def test_each_part_is_a_file_with_the_names_that_were_given(files: dict[str, bytes]) -> None:
    for part, (inputs, outputs) in NAMES.items():
        model = onnx.load_from_string(files[part])
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == inputs
        assert [value.name for value in model.graph.output] == outputs
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    ]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 3])
def test_files_write_what_pytorch_writes(network: Network, files: dict[str, bytes], runtime: str, batch: int) -> None:
    device = Device(name="here", runtime=runtime)
    sessions = {part: runtime_of(device).open(file, device) for part, file in files.items()}
    with torch.no_grad():
        expected = write(network, frames(batch))
    torch.testing.assert_close(write(SessionRunner(network.plan, sessions), frames(batch)), expected)
    for session in sessions.values():
        session.call()
        session.close()


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


def test_what_is_measured_has_the_files_operators(network: Network, files: dict[str, bytes]) -> None:
    for part, file in files.items():
        module = NetworkPart(network, part)
        quick = quick_onnx(module, [tensor for _, tensor in module.part.inputs], 1)
        assert operators(quick) == operators(file)
        assert integer_values(quick) == ({"input.2": 7} if part == "step" else {})


def test_shared_weights_are_in_a_file_once(files: dict[str, bytes]) -> None:
    model = onnx.load_from_string(files["step"])
    assert [list(each.dims) for each in model.graph.initializer].count([7, 16]) == 1


def test_integers_of_timed_calls_are_in_their_range() -> None:
    rng = np.random.default_rng(0)
    drawn = random_input((1000,), np.int64, 7, rng)
    assert (drawn.dtype, drawn.min(), drawn.max()) == (np.int64, 0, 6)
    assert set(random_input((100,), np.int64, None, rng).tolist()) == {0, 1}
    assert random_input((2, 3), np.float16, None, rng).dtype == np.float16


def test_the_number_of_values_stands_in_the_file(files: dict[str, bytes]) -> None:
    assert integer_values(files["encoder"]) == {}
    assert integer_values(files["step"]) == {"tokens": 7}
    assert integer_values(b"") == integer_values(b"\xff" * 40) == integer_values(files["step"][:1000]) == {}


def test_a_step_of_integers_is_timed_in_pytorch(network: Network) -> None:
    device, part = Device(name="here", runtime="torch", batch=2), network.plan.part("step")
    model = model_for(NetworkPart(network, "step"), [tensor for _, tensor in part.inputs], device)
    assert isinstance(model, TorchModel)
    assert model.inputs["input.2"] == TensorType((3,), "int64", 7)
    runtime_of(device).open(model, device).call()


def timing(seconds: float, **more: object) -> Timing:
    return Timing(seconds, 0.9 * seconds, 1.1 * seconds, 1.2 * seconds, 5, AT, **more)  # type: ignore[arg-type]


def test_a_network_takes_runs_times_the_seconds_of_its_parts() -> None:
    parts = named_parts("x", SPACE.plan(SPACE.smallest()))
    assert list(parts) == ["x encoder", "x step"]
    found = whole_network(parts, {"x encoder": timing(2.0, reference=1.0), "x step": timing(1.0, noise="drift")})
    assert (found.median, found.p10) == (2.0 + 5 * 1.0, pytest.approx(0.9 * 7))
    assert (found.noise, found.reference, found.n) == ("drift", None, 5)
    alone = {"x": Part("network", (), (), ())}
    assert whole_network(alone, {"x": timing(2.0)}) == timing(2.0)


@pytest.mark.slow
def test_a_latency_table_adds_up_runs_of_parts(tmp_path: Path) -> None:
    rounds = Rounds(group=8, visits=2)
    protocol = MeasurementProtocol(
        blocks=rounds, networks=rounds, warmup=1, kept=2, shortest_group_s=0, calibration_networks=3,
        held_out_networks=3, retries=0,
    )  # fmt: skip
    table = profile(SPACE, load_device("cpu"), tmp_path / "t.json", Progress(quiet=True), protocol=protocol)
    assert table.entries.keys() == SPACE.distinct_blocks().keys()
    for measured in table.networks:
        plan = SPACE.plan(SPACE.arch(measured.arch))
        encoder, step = (sum(table.entries[s.block.key].undisturbed for s in part) for part in plan.parts)
        assert measured.entries == pytest.approx(encoder + 5 * step)
        assert measured.blocks == len(plan.part("encoder").steps) + 5 * len(plan.part("step").steps)
        assert measured.timing.median > 0
    codes = SPACE.encode([SPACE.smallest(), SPACE.largest()])
    predicted = [table.predict(SPACE.plan(arch)).seconds for arch in (SPACE.smallest(), SPACE.largest())]
    assert table.latencies(SPACE)(codes).tolist() == pytest.approx(predicted)
    sums = Costs(SPACE, [entry_cost(table.entries)])(codes)[:, 0]
    assert sums.tolist() == pytest.approx(
        [SPACE.plan(arch).total(lambda block: table.entries[block.key].undisturbed) for arch in SPACE.decode(codes)]
    )


def test_tokens_are_drawn_by_the_session(files: dict[str, bytes]) -> None:
    """A model that would fail for anything else: its table has seven rows."""
    device = load_device("cpu")
    session = runtime_of(device).open(files["step"], device)
    session.call()
    assert list(session.inputs) == ["memory", "summary", "tokens"]
    (logits,) = session.run({name: _zeros(name, shape) for name, shape in session.inputs.items()})
    assert logits.shape == (1, 7)


def _zeros(name: str, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    zeros: Tensor = torch.zeros(shape, dtype=torch.int64 if name == "tokens" else torch.float32)
    return zeros.numpy()
