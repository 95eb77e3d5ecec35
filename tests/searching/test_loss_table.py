"""What a table of loss holds, what it predicts, and what is refused."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.searching.loss_table import AdditiveLoss, LossTable, cuts, groups, read_loss_table, write_loss_table
from nasdeploy.spaces import load_space
from tests.searching.landscape import SPACE as STAGES
from tests.searching.losses import loss_table_of
from tests.small_spaces import every_code, grown

SPACE = grown()
LARGEST = SPACE.largest()
STAGE = {"depth.1": (1, 2, 3), "kernel_size.1": (3, 5), "middle.1": (50, 100)}


def loss(arch: Arch) -> float:
    """A sum over stages, in which the choices of one do not add up."""
    cut = (3 - arch["depth.1"]) * 0.1 + (100 - arch["middle.1"]) * 0.002 * arch["depth.1"]
    return cut + 0.07 * (arch["kernel_size.1"] < 5) + 0.3 * (arch["resolution"] < 12) + 0.05 * (arch["depth.2"] < 2)


TABLE = loss_table_of(SPACE, lambda arch: -loss(arch))


def test_choices_of_a_stage_are_exchanged_together() -> None:
    assert [[choice.name for choice in group] for group in groups(SPACE)] == [
        ["resolution"],
        *(["depth.0", "kernel_size.0", "middle.0"], ["depth.1", "kernel_size.1", "middle.1"]),
        ["depth.2", "kernel_size.2", "middle.2"],
    ]


def test_a_width_of_a_table_is_exchanged_with_the_stage_whose_blocks_have_it() -> None:
    space = load_space("digits", 10)
    stages = [[f"width.{n + 1}", f"depth.{n}", f"kernel_size.{n}", f"expand_ratio.{n}"] for n in range(3)]
    assert [[choice.name for choice in group] for group in groups(space)] == [
        *(["resolution"], ["width.0"], *stages, ["width.4"])
    ]
    told = {str(cut) for cut in cuts(space)}
    assert {"resolution 8", "width.0 16", "stage 1: width 16", "stage 3: width 40, depth 2", "width.4 96"} <= told
    assert len(told) == len(list(cuts(space)))


def test_each_cut_stands_alone_in_the_largest_network() -> None:
    found = [cut.arch for cut in cuts(SPACE)]
    stage = [SPACE.arch({**LARGEST, **dict(zip(STAGE, values, strict=True))}) for values in product(*STAGE.values())]
    alone = [SPACE.arch({**LARGEST, name: value}) for name, value in (("resolution", 9), ("depth.2", 1))]
    assert len(found) == len(set(found))
    assert set(found) == {*stage, *alone} - {LARGEST}
    assert all(cut.arch == SPACE.arch({**LARGEST, **cut.values}) for cut in cuts(SPACE))


def test_losses_that_are_sums_over_stages_are_predicted_exactly() -> None:
    codes = every_code(SPACE)
    expected = [loss(arch) for arch in SPACE.decode(codes)]
    assert AdditiveLoss(SPACE, TABLE)(codes) == pytest.approx(expected, abs=1e-12)


def test_predictions_are_the_sums_of_the_tables_that_the_optimum_is_found_by() -> None:
    made = AdditiveLoss(STAGES, loss_table_of(STAGES, lambda arch: float(np.sin(arch["width.1"] * arch["kernel.1"]))))
    codes = STAGES.sample_codes(50, np.random.default_rng(0))
    place = {choice.name: number for number, choice in enumerate(STAGES.choices)}
    total = sum(table.values[tuple(codes[:, place[name]] for name in table.reads)] for table in made.tables)
    assert np.array_equal(made(codes), -np.asarray(total))


def test_a_table_that_is_measured_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    assert read_loss_table(path) is None
    table = LossTable(space=SPACE.digest, supernet="s", samples=9)
    first, *others = table.missing(SPACE)
    table = table.with_loss(first.arch, 0.25)
    write_loss_table(path, table)
    again = read_loss_table(path)
    assert again == table
    assert again.losses == {first.arch.digest: 0.25}
    assert [cut.arch for cut in again.missing(SPACE)] == [cut.arch for cut in others]
    with pytest.raises(UserError, match=f"without {len(others)} of its entries"):
        AdditiveLoss(SPACE, again)


def test_networks_whose_outputs_are_no_numbers_are_the_last_that_are_chosen() -> None:
    table = LossTable(space=SPACE.digest, supernet="s", samples=9)
    for number, cut in enumerate(table.missing(SPACE)):
        table = table.with_loss(cut.arch, float("nan") if number == 0 else 3.0)
    made = LossTable.model_validate_json(table.model_dump_json())
    assert made == table
    worst = SPACE.encode([next(cuts(SPACE)).arch])
    predicted = AdditiveLoss(SPACE, made)
    others = [cut.arch for cut in cuts(SPACE)][1:]
    assert predicted(worst)[0] > 100 * predicted(SPACE.encode(others)).max()


def test_a_divergence_of_nothing_is_nothing() -> None:
    (first, *_) = TABLE.missing(STAGES)
    assert LossTable(space="s", supernet="s", samples=1).with_loss(first.arch, -1e-9).losses == {first.arch.digest: 0.0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds no JSON object"),
        (json.dumps({"space": "x", "supernet": "y", "samples": -1}), "samples is -1"),
        (json.dumps({"space": "x", "supernet": "y", "samples": 1, "entries": [{"arch": "a", "loss": 1}]}), "arch is"),
        (
            json.dumps({"space": "x", "supernet": "y", "samples": 1, "entries": [{"arch": "0" * 12, "loss": -1}]}),
            "loss is -1",
        ),
        (json.dumps({"space": "x", "supernet": "y", "samples": 1, "schema_version": 2}), "schema_version is 2"),
    ],
)
def test_a_damaged_table_is_refused_with_a_way_out(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "losses.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_loss_table(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith("delete it, and it is measured anew")


def test_a_table_of_another_space_is_refused() -> None:
    with pytest.raises(UserError, match=f"another search space .*{STAGES.digest} as stages is now"):
        AdditiveLoss(STAGES, TABLE)


def test_a_cut_is_told_by_what_is_others_and_where() -> None:
    told = {str(cut) for cut in cuts(SPACE)}
    assert {"resolution 9", "stage 2: depth 2, middle 50", "stage 2: kernel_size 3", "stage 3: depth 1"} <= told
    assert len(told) == len(list(cuts(SPACE)))
