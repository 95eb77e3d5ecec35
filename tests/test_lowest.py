"""Bounds of pyproject.toml: `make lowest` installs the lower ones, and constraints.txt keeps to all of them."""

import pytest
from packaging.utils import canonicalize_name

from tests import lowest
from tests.lowest import requirements

PINNED = dict(
    line.split("==")
    for line in (lowest.PYPROJECT.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)


def test_every_project_has_a_lower_bound_that_is_installed() -> None:
    found = lowest.lowest()
    assert set(found) == {each.name for each in requirements()}
    assert all(each.specifier.contains(found[each.name]) for each in requirements())


def test_tested_versions_are_allowed() -> None:
    pinned = {canonicalize_name(name): version.partition(" ")[0] for name, version in PINNED.items()}
    found = [each for each in requirements() if canonicalize_name(each.name) in pinned]
    assert len(found) >= 30
    for each in found:
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each


def test_a_requirement_without_a_lower_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowest, "requirements", lambda: iter([lowest.Requirement("numpy<3")]))
    with pytest.raises(ValueError, match="not enough values"):
        lowest.lowest()
