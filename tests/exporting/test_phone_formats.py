"""A small part of what `tests/benchmarks/bench_phone_formats.py` compares, in the format that converts fastest."""

import pytest

from nasdeploy.exporting.conversions import Conversions
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.spaces import load_space
from tests.benchmarks.bench_phone_formats import ALLOWED, PHONE_FORMATS, agreement, chosen, network_of
from tests.exporting.models import supernet_of


def test_its_formats_are_there() -> None:
    assert FORMATS.keys() >= set(PHONE_FORMATS)


@pytest.mark.skipif(FORMATS["ncnn"].missing() is not None, reason="ncnn's converter is not installed")
def test_a_network_at_random_is_as_exact_as_fp32_allows() -> None:
    space = load_space("digits", 10)
    (arch,) = chosen(space, 1).values()
    network, images = network_of(supernet_of(space), arch)
    found = agreement("ncnn", Conversions(network), images)
    assert found["problems"] == []
    assert 0 <= found["difference"] <= ALLOWED
