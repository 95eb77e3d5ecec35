"""Damage of every kind is refused in one line; `tests/benchmarks/bench_damage.py` does it 200 times."""

from pathlib import Path
from shutil import copytree

import pytest

from tests.exporting.bundle.damage import DAMAGE, damage, refusals
from tests.exporting.models import exporter, jobs
from tests.small_spaces import one_stage


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, space = tmp_path_factory.mktemp("damage"), one_stage()
    made = exporter(root, recalibrate=False)
    made.export(space.named["t0"], root / "good", jobs())
    made.export(space.smallest(), root / "other", jobs())
    return root


@pytest.mark.parametrize("number", range(6 * len(DAMAGE)))
def test_a_damaged_bundle_is_refused(number: int, bundles: Path, tmp_path: Path) -> None:
    bundle = copytree(bundles / "good", tmp_path / "bundle")
    what = damage(bundle, bundles / "other", number)
    found = refusals(bundle, bundles / "images/test/ant")
    assert found == dict.fromkeys(found), what


def test_whole_bundles_are_not_refused(bundles: Path) -> None:
    assert all(refusals(bundles / "good", bundles / "images/test/ant").values())
