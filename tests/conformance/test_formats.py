"""What every export format has to give: a file of a sound form that computes what its network computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nasdeploy.arch import Arch
from nasdeploy.export.agreement import difference
from nasdeploy.export.figures import TOLERANCE
from nasdeploy.export.formats import FORMATS
from nasdeploy.export.manifest import interface
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.space import SearchSpace
from nasdeploy.spaces import load_space
from nasdeploy.supernet.calibrate import calibrate
from nasdeploy.supernet.extract import extract
from tests.export.models import supernet_of

ALPHANET, DIGITS = load_space("alphanet", 100), load_space("digits", 10)


@pytest.mark.parametrize(
    ("space", "arch"),
    [
        (DIGITS, DIGITS.smallest()),
        pytest.param(DIGITS, DIGITS.largest(), marks=pytest.mark.slow),
        pytest.param(ALPHANET, ALPHANET.named["a0"], marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_the_file_computes_what_the_network_computes(name: str, space: SearchSpace, arch: Arch, tmp_path: Path) -> None:
    side = arch["resolution"]
    network = extract(supernet_of(space), arch)
    torch.manual_seed(1)
    calibrate(network, [torch.randn(16, 3, side, side)])
    form, path = FORMATS[name], tmp_path / FORMATS[name].file_name
    form.write(network, path)
    assert [file.name for file in tmp_path.iterdir()] == [form.file_name]
    assert form.inspect(path, *interface(network.plan)) == []
    session = runtime_of(load_device("cpu")).open(path, load_device("cpu"))
    for batch in (1, 2, 7):
        images = torch.randn(batch, 3, side, side)
        with torch.no_grad():
            expected = network(images).numpy()
        (found,) = session.run({"input": images.numpy()})
        assert difference(expected, found).max() <= TOLERANCE
        assert np.ptp(expected) > 100 * TOLERANCE


@pytest.mark.parametrize("name", FORMATS)
def test_another_networks_file_is_found_by_its_form(name: str, tmp_path: Path) -> None:
    arch = DIGITS.arch({**DIGITS.smallest(), "resolution": 12})
    path = tmp_path / FORMATS[name].file_name
    FORMATS[name].write(extract(supernet_of(DIGITS), DIGITS.smallest()), path)
    assert FORMATS[name].inspect(path, *interface(DIGITS.plan(arch)))
    path.write_bytes(b"")
    assert FORMATS[name].inspect(path, *interface(DIGITS.plan(DIGITS.smallest())))
