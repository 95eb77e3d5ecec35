"""Modules that are converted several at a time."""

from dataclasses import dataclass, field

import pytest

from nasdeploy.blocks.heads import Stem
from nasdeploy.convert import MeasuredModule, model_for, models_for
from nasdeploy.convert import measured as module
from nasdeploy.core.errors import ConversionRefused, UserError
from nasdeploy.latency.protocol import Rounds, Timing
from nasdeploy.latency.runners.runner import LocalRunner, Refusal
from nasdeploy.nn.network import StaticBlock
from nasdeploy.runtimes.device import Device
from tests.hasty import HASTY

DEVICE = Device(name="here", runtime="onnxruntime")
KEYS = [f"stem{channels}" for channels in range(2, 9)]


@dataclass
class Converting:
    """Converts to ONNX, three modules at a time, but for what is called refused."""

    together: int = 3
    refused: frozenset[int] = frozenset()
    calls: list[list[int]] = field(default_factory=list)

    def convert(self, modules, device):
        modules = list(modules)
        channelss = [each.module.block.out_channels for each in modules]
        self.calls.append(channelss)
        models = module.OnnxConverter().convert(modules, device)
        return [
            ConversionRefused(f"operator Conv of {channels}") if channels in self.refused else model
            for channels, model in zip(channelss, models, strict=True)
        ]


@pytest.fixture
def converting(monkeypatch):
    found = Converting()
    monkeypatch.setattr(module, "CONVERTERS", {"onnx": found})
    return found


def stem(key):
    return StaticBlock(
        Stem(side=8, out_channels=int(key[4:]), kernel_size=3, stride=1, activation="relu", in_channels=3)
    )


@pytest.fixture
def made():
    blocks = {key: stem(key) for key in KEYS}
    return {key: MeasuredModule(block, block.block.inputs) for key, block in blocks.items()}


@pytest.fixture
def makers(made):
    return {key: lambda each=each: each for key, each in made.items()}


def test_modules_are_converted_in_their_order_some_at_a_time_once_and_when_they_are_asked_for(converting, makers):
    models = models_for(makers, DEVICE)
    assert list(models) == KEYS
    assert converting.calls == []
    first = models["stem6"]()
    assert converting.calls == [[5, 6, 7]]
    assert models["stem6"]() == first
    assert models["stem5"]() != first
    assert converting.calls == [[5, 6, 7]]
    assert models["stem8"]()
    assert converting.calls == [[5, 6, 7], [8]]


def test_each_key_has_the_model_of_its_own_module(converting, made, makers):
    alone = {key: model_for(each.module, each.inputs, DEVICE) for key, each in made.items()}
    assert {key: make() for key, make in models_for(makers, DEVICE).items()} == alone
    assert len(set(alone.values())) == len(KEYS)


def test_a_module_that_is_refused_is_measured_as_a_refusal_and_the_others_are_measured(converting, makers):
    converting.refused = frozenset({3, 8})
    models = models_for(makers, DEVICE)
    with LocalRunner(DEVICE) as runner:
        groups = runner.measure(models, Rounds(4, 1), HASTY, on_visits=lambda visits: None)
        outcomes = {key: outcome for group in groups for key, outcome in group.items()}
    assert outcomes["stem3"] == Refusal("operator Conv of 3")
    assert outcomes["stem8"] == Refusal("operator Conv of 8")
    assert [key for key, outcome in outcomes.items() if isinstance(outcome, Timing)] == [
        key for key in KEYS if key not in ("stem3", "stem8")
    ]


def test_a_refusal_of_one_module_is_an_error(converting, made):
    converting.refused = frozenset({4})
    with pytest.raises(ConversionRefused, match=r"operator Conv of 4"):
        model_for(made["stem4"].module, made["stem4"].inputs, DEVICE)


def test_a_runtime_of_exported_programs_is_refused_before_any_work(converting, makers):
    with pytest.raises(UserError, match=r"^device here: executorch runs files that were exported for it"):
        models_for(makers, Device(name="here", runtime="executorch"))
    assert converting.calls == []
