"""Boards and models for the tests of measuring on boards."""

import stat
import sys
import time

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.ssh import SshRunner
from nasdeploy.runtimes.device import Device


def model(size, operator="Relu"):
    """`operator(input @ weight)` of that size, as ONNX."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["sum"]), helper.make_node(operator, ["sum"], ["output"])],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, size])],
        [numpy_helper.from_array(np.ones((size, size), np.float32), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


HASTY = MeasurementProtocol(warmup=1, discarded=0, kept=2, shortest_run_s=1e-6, shortest_group_s=0, retries=0)
ROUNDS = Rounds(group=3, visits=2)
MODELS = {f"m{number}": lambda number=number: model(number) for number in range(1, 8)}


def device(server, **changes):
    return Device(
        **{"name": "board", "runtime": "onnxruntime", "host": server.url, "python": sys.executable, **changes}
    )


def runner(server, say=lambda text: None, waits=(0.05, 0.1, 0.2), **changes):
    found = device(server, **changes)
    return SshRunner(found, found.boards[0], say, waits)


def measured(where, models=MODELS, rounds=ROUNDS, protocol=HASTY, on_visits=lambda visits: None):
    """Outcomes by key; none may come twice."""
    outcomes = list(where.measure(models, rounds, protocol, on_visits=on_visits))
    keys = [key for some in outcomes for key in some]
    assert len(keys) == len(set(keys))
    return {key: outcome for some in outcomes for key, outcome in some.items()}


def until(condition):
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def script(path, text):
    """An executable file, to stand in for a board's Python."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)
