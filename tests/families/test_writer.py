"""The writer is executed, counted and extracted as its plan says: several inputs and outputs, runs, shared weights."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from nasdeploy.blocks.heads import PoolHead, Stem
from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import live_elements, macs, params
from nasdeploy.core.costs import Costs, NetworkCosts
from nasdeploy.core.plan import Block, Part, Plan, Step, TensorType
from nasdeploy.core.space import PartSpec, Slot
from nasdeploy.nn import FAMILIES, eager, needs_calibration
from nasdeploy.nn.compiled import compiled
from nasdeploy.nn.network import Network, NetworkPart, PartRunner
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.supernet import Supernet, extract
from tests.families.blocks import Attend, Embed, Join, Lift, Mix, Summary, Unembed
from tests.families.families import WRITER, registered
from tests.families.space import CONTEXT, FEATURES, FRAMES, WRITTEN, Writer

SPACE = Writer()


@pytest.fixture(autouse=True)
def writer_families() -> Iterator[None]:
    with registered():
        yield


def every_arch() -> list[Arch]:
    combinations = torch.cartesian_prod(*(torch.tensor(choice.values) for choice in SPACE.choices)).tolist()
    return [SPACE.arch(dict(zip(SPACE.values_of, values, strict=True))) for values in combinations]


def randomised(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    supernet, draw = Supernet(SPACE), torch.Generator().manual_seed(seed)
    for slot in SPACE.slots:
        block = next(block for block in SPACE.blocks_of(slot) if block is not None)
        FAMILIES[type(block)].randomise(supernet.weights[slot.weights or slot.name], draw)
    return supernet


def write(runner: PartRunner, frames: Tensor) -> Tensor:
    """Logits `[N, WRITTEN, vocabulary]`: each token that is written is read by the next step."""
    memory, summary = runner.run("encoder", frames)
    tokens, written = torch.zeros(len(frames), CONTEXT, dtype=torch.int64), []
    for _ in range(WRITTEN):
        (logits,) = runner.run("step", memory, summary, tokens)
        tokens = torch.cat([tokens[:, 1:], logits.argmax(1, keepdim=True)], 1)
        written.append(logits)
    return torch.stack(written, 1)


def frames(count: int = 3) -> Tensor:
    return torch.randn(count, FRAMES, FEATURES, generator=torch.Generator().manual_seed(0))


def test_the_plan_says_what_runs() -> None:
    plan = SPACE.plan(SPACE.arch({"width": 8, "expand": 2, "depth": 1, "attentions": 1}))
    memory, summary, mix = TensorType((6, 8)), TensorType((8,)), Mix(6, 8, 2)
    given = (("memory", memory), ("summary", summary), ("tokens", TensorType((3,), "int64", 7)))
    encoder = (Step("lift", Lift(6, 4, 8), ("frames",)), Step("mix1", mix, ("lift",)))
    step = (
        Step("embed", Embed(3, 8, 7), ("tokens",)),
        Step("join", Join(3, 8), ("embed", "summary")),
        Step("attend1", Attend(3, 6, 8), ("join", "memory")),
        Step("logits", Unembed(3, 8, 7), ("attend1",), slot="embed"),
    )
    found = Part(
        "encoder",
        (("frames", TensorType((6, 4))),),
        (*encoder, Step("summary", Summary(6, 8), ("mix1",))),
        ("mix1", "summary"),
    )
    assert plan == Plan((found, Part("step", given, step, ("logits",), runs=5)))


def test_costs_by_hand() -> None:
    arch = SPACE.arch({"width": 8, "expand": 2, "depth": 1, "attentions": 1})
    plan = SPACE.plan(arch)
    once = 6 * 4 * 8 + 2 * 6 * 8 * 16
    step = (2 * (3 + 6) * 64 + 2 * 3 * 6 * 8) + 8 * 7
    assert plan.macs == once + 5 * step
    # The logits have no weights of their own.
    assert plan.params == 5 * 8 + (16 + 9 * 16 + 17 * 8) + 16 + 7 * 8 + 16 + (16 + 4 * 64)
    assert Costs(SPACE, [macs, params])(SPACE.encode([arch])).tolist() == [[plan.macs, plan.params]]


def test_parameters_are_those_of_the_modules() -> None:
    for arch in every_arch():
        network = Network(SPACE.plan(arch))
        assert sum(parameter.numel() for parameter in network.parameters()) == network.plan.params


def test_memory_by_hand() -> None:
    plan = SPACE.plan(SPACE.arch({"width": 8, "expand": 4, "depth": 1, "attentions": 2}))
    # In the encoder the mixing holds most: its input, its normalisation, and the hidden layer of 32.
    encoder = 6 * (8 + 8 + 32)
    # In the step it is the first attention, behind which the memory still waits; the summary is needed no more.
    step = (2 * 3 + 3 * 6) * 8 + 3 * 6
    assert live_elements(plan) == max(encoder, step) == 288
    assert live_elements(Plan(plan.parts[1:])) == step
    costs = NetworkCosts(SPACE, 4)
    found = costs(SPACE.encode(every_arch()))[:, costs.names.index("memory")]
    assert found.tolist() == [4 * live_elements(SPACE.plan(arch)) for arch in every_arch()]


def test_no_networks_cost_nothing() -> None:
    costs = NetworkCosts(SPACE, 4)
    assert costs(SPACE.encode(every_arch())[:0]).shape == (0, len(costs.names))


def test_the_supernet_and_extracted_networks_are_equal_bit_for_bit() -> None:
    supernet = randomised()
    holder = deepcopy(supernet)
    for arch in every_arch():
        network = extract(supernet, arch)
        supernet.zero_grad()
        inside, alone = write(supernet.bind(arch), frames()), write(network, frames())
        assert torch.equal(inside, alone)
        inside.square().sum().backward()
        alone.square().sum().backward()
        for to, source in zip(holder.parameters(), supernet.parameters(), strict=True):
            to.data.copy_(torch.zeros_like(source) if source.grad is None else source.grad)
        pairs = list(zip(extract(holder, arch).parameters(), network.parameters(), strict=True))
        assert len(pairs) == len(list(network.parameters()))
        for sliced, parameter in pairs:
            assert torch.equal(sliced, parameter.grad)


def test_weights_are_shared_in_the_supernet_and_in_what_is_extracted() -> None:
    supernet = randomised()
    assert "logits" not in supernet.weights
    network = extract(supernet, SPACE.largest())
    assert network.block("logits").weights is network.block("embed").weights
    with torch.no_grad():
        supernet.weights["embed"].table.weight.zero_()
    (logits,) = supernet.bind(SPACE.largest()).run(
        "step", *(torch.randn(2, *shape) for shape in ((6, 16), (16,))), torch.zeros(2, 3, dtype=torch.int64)
    )
    assert not logits.any()


def test_parts_are_modules_of_their_own() -> None:
    network = extract(randomised(), SPACE.largest()).eval()
    memory, summary = network.run("encoder", frames())
    encoder, step = NetworkPart(network, "encoder"), NetworkPart(network, "step")
    assert all(torch.equal(a, b) for a, b in zip(encoder(frames()), (memory, summary), strict=True))
    tokens = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 0, 6]])
    assert torch.equal(step(memory, summary, tokens), network.run("step", memory, summary, tokens)[0])
    with pytest.raises(ValueError, match="a network of one part is expected; it has encoder, step"):
        network(frames())


def test_nothing_is_calibrated_and_no_batch_is_drawn() -> None:
    def batches() -> Iterator[Tensor]:
        raise AssertionError("a batch was drawn")
        yield

    network = extract(randomised(), SPACE.smallest())
    before = write(network, frames())
    assert not needs_calibration(network.plan)
    assert calibrate(network.train(), batches()) is network
    assert not network.training
    assert torch.equal(write(network, frames()), before)


def test_what_a_slot_drops_is_told_to_its_block_alone() -> None:
    supernet, arch = randomised(), SPACE.largest()
    plain = write(supernet.bind(arch), frames())
    assert torch.equal(write(supernet.bind(arch, {"join": 0.9}), frames()), plain)
    assert not torch.equal(write(supernet.bind(arch, {"mix2": 0.9}), frames()), plain)


@pytest.mark.slow
def test_compiled_blocks_take_several_inputs() -> None:
    supernet, arch = randomised(), SPACE.largest()
    found = write(supernet.bind(arch, forward_of=compiled(pytest.fail, "aot_eager")), frames())
    assert torch.equal(found, write(supernet.bind(arch, forward_of=eager), frames()))


def test_a_slot_has_blocks_of_one_class_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mixed(Writer):
        def block(self, slot: Slot, values: object) -> Block | None:
            found = super().block(slot, values)
            return Lift(6, 8, 8) if isinstance(found, Mix) and found.expand == 1 else found

    with pytest.raises(ValueError, match=r"slot mix1: its blocks have one set of weights.* found Lift, Mix"):
        Supernet(Mixed())
    monkeypatch.delitem(FAMILIES, Attend)
    with pytest.raises(ValueError, match=r"slot attend1: no family computes Attend; add one to nasdeploy\.nn\.FAM"):
        Supernet(SPACE)


def test_steps_that_cannot_share_weights_of_their_own_shapes_are_refused() -> None:
    class Crossed(Writer):
        """Two mixings share weights, and neither is as wide and as deep as both."""

        slots = (*Writer.slots[:2], Slot("mix2", ("width", "expand", "depth"), Writer.slots[1].part, weights="mix1"))

        def block(self, slot: Slot, values: object) -> Block | None:
            return Mix(6, 8, 4) if slot.name == "mix1" else Mix(6, 16, 1) if slot.name == "mix2" else Lift(6, 4, 8)

        def outputs(self, part: str, made: object) -> tuple[str, ...]:
            return ("mix2",)

    with pytest.raises(ValueError, match="slot mix1: its weights in a network of its own do not serve mix2"):
        extract(Supernet(Crossed()), Crossed().largest())


def test_every_block_of_the_space_has_a_family() -> None:
    assert {type(block) for block in SPACE.distinct_blocks().values()} == set(WRITER)


def test_a_slot_is_there_wherever_its_weights_are_shared() -> None:
    class Missing(Writer):
        def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
            return None if slot.name == "embed" else super().block(slot, values)

        def takes(self, slot: Slot, values: Mapping[str, int], made: Sequence[str]) -> tuple[str, ...]:
            return ("tokens",) if slot.name == "join" else super().takes(slot, values, made)

    with pytest.raises(ValueError, match="a slot has the weights of another, which is absent"):
        Missing().plan(SPACE.smallest())


def test_two_parts_of_one_name_run_equally_often() -> None:
    class Twice(Writer):
        slots = (*Writer.slots[:-1], Slot("logits", ("width",), PartSpec("step", runs=2), weights="embed"))

    with pytest.raises(ValueError, match="a part runs equally often wherever it is named"):
        Twice().plan(SPACE.smallest())


def test_calibration_averages_over_all_runs_of_each_part() -> None:
    """Batch normalisation in two parts, of which one runs twice for a batch."""
    side, stem = TensorType((3, 8, 8)), Stem(8, 4, 3, 2, "relu", in_channels=3)
    head = PoolHead(4, 4, 8, 2, 5, "relu")
    first = Part("first", (("x", side),), (Step("stem", stem, ("x",)),), ("stem",))
    second = Part("second", (("x", head.inputs[0]),), (Step("head", head, ("x",)),), ("head",), runs=2)
    network = Network(Plan((first, second)))
    batches = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    seen: list[Tensor] = []

    def drive(runner: PartRunner, batch: Tensor) -> None:
        (features,) = runner.run("first", batch)
        for scale in (1.0, 2.0):
            seen.append(scale * features)
            runner.run("second", seen[-1])

    calibrate(network, batches, drive)
    weights = network.block("head").weights
    expanded = [torch.nn.functional.conv2d(x, weights.expand.weight).mean((0, 2, 3)) for x in seen]
    torch.testing.assert_close(weights.expand_norm.running_mean, torch.stack(expanded).mean(0))
    assert len(seen) == 4
