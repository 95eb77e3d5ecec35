"""What every export format has to give: a file of a sound form that computes what its network computes."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.exporting.conversions import Conversions
from nasdeploy.exporting.formats import FORMATS, device_for
from nasdeploy.exporting.formats.format import Format, Source, file_name, files_of
from nasdeploy.exporting.record import Yardstick
from nasdeploy.nn.network import Network
from nasdeploy.runtimes.device import load_device
from nasdeploy.runtimes.engine import read_header
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.spaces import load_space
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.supernet import extract
from tests.exporting.models import interface, supernet_of

ALPHANET, DIGITS = load_space("alphanet", 100), load_space("digits", 10)
CPU = load_device("cpu")
AHEAD = ("SM86", "SM89", "SM120")
EXACT: tuple[Precision, ...] = ("fp32", "fp16")
SLOW = {"executorch"}


def marked(name: str, *further: object) -> ParameterSet:
    return pytest.param(name, *further, marks=pytest.mark.slow if name in SLOW else ())


PAIRS = [(name, precision) for name, form in FORMATS.items() for precision in EXACT if precision in form.precisions]


def usable(name: str) -> Format:
    form = FORMATS[name]
    absent = form.missing() or form.obstacle()
    if absent:
        pytest.skip(f"{name}: {absent}")
    return form


@cache
def network_of(space: SearchSpace, arch: Arch) -> Network:
    side = arch["resolution"]
    network = extract(supernet_of(space), arch)
    torch.manual_seed(1)
    return calibrate(network, [torch.randn(16, 3, side, side)]).eval()


conversions = cache(Conversions)
"""ONNX models are made once for all formats: that takes seconds."""


def written(form: Format, network: Network, precision: Precision, folder: Path) -> Path:
    for name, content in contents(form, network, precision).items():
        (folder / name).write_bytes(content)
    return folder / file_name(form, precision)


@cache
def contents(form: Format, network: Network, precision: Precision) -> dict[str, bytes]:
    """All files that the format writes, by name."""
    made, device = conversions(network), device_for(form, CPU, precision)
    capabilities = AHEAD if form.not_run(()) else ()
    recipe = form.recipe(device)
    source = Source(network, lambda wanted: made.onnx(wanted, recipe), precision, device, capabilities)
    with TemporaryDirectory() as folder:
        form.write(source, Path(folder, file_name(form, precision)))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize(
    ("name", "precision", "space", "arch"),
    [
        *(marked(*pair, DIGITS, DIGITS.smallest()) for pair in PAIRS),
        # What takes a minute to convert it does so in tests/benchmarks/bench_formats.py.
        *(
            pytest.param(*pair, ALPHANET, ALPHANET.named["a0"], marks=pytest.mark.slow)
            for pair in PAIRS
            if pair[0] not in SLOW
        ),
    ],
)
def test_the_file_computes_what_the_network_computes(
    name: str, precision: Precision, space: SearchSpace, arch: Arch, tmp_path: Path
) -> None:
    form, network, side = usable(name), network_of(space, arch), arch["resolution"]
    path = written(form, network, precision, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(files_of(form, path))
    assert form.inspect(path, *interface(network.plan)) == []
    if form.not_run(()):
        return
    session = form.open(path, device_for(form, CPU, precision))
    largest = form.largest_batch(device_for(form, CPU, precision))
    with pytest.raises(UserError, match="an empty batch"):
        session.run({next(iter(session.inputs)): np.empty((0, 3, side, side), np.float32)})
    for batch in [size for size in (1, 2, 3, 32, 33, 1) if largest is None or size <= largest]:
        images = torch.randn(batch, 3, side, side)
        with torch.no_grad():
            expected = network(images).numpy()
        (found,) = session.run({next(iter(session.inputs)): images.numpy()})
        assert found.dtype == np.float32
        yardstick = Yardstick.of(precision, expected)
        allowed = yardstick.tolerance.allowed
        assert allowed is not None
        assert yardstick.rows(expected, found).max() <= allowed
        assert np.ptp(expected) > 0.01
    session.close()


@pytest.mark.parametrize("name", [marked(name) for name in FORMATS])
def test_what_is_no_such_file_is_found_by_its_form(name: str, tmp_path: Path) -> None:
    form = usable(name)
    path = written(form, network_of(DIGITS, DIGITS.smallest()), "fp32", tmp_path)
    plan = DIGITS.plan(DIGITS.smallest())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"junk" * 100):
        path.write_bytes(content)
        (problem, *_) = form.inspect(path, *interface(plan))
        assert "\n" not in problem


@pytest.mark.parametrize("name", [marked(name) for name in FORMATS if not name.startswith("tensorrt")])
def test_another_networks_file_is_found_by_its_form(name: str, tmp_path: Path) -> None:
    form = usable(name)
    path = written(form, network_of(DIGITS, DIGITS.smallest()), "fp32", tmp_path)
    other = DIGITS.plan(DIGITS.arch({**DIGITS.smallest(), "resolution": 12}))
    (problem, *_) = form.inspect(path, *interface(other))
    assert problem.startswith("input: ")
    assert "expected" in problem


@pytest.mark.slow
@pytest.mark.parametrize("precision", EXACT)
def test_engines_of_the_largest_published_network_are_for_the_gpus_asked_for(
    precision: Precision, tmp_path: Path
) -> None:
    form = usable("tensorrt-rtx")
    network = network_of(ALPHANET, ALPHANET.named["a6"])
    made, device = conversions(network), device_for(form, CPU, precision)
    path = tmp_path / file_name(form, precision)
    form.write(Source(network, lambda wanted: made.onnx(wanted, form.recipe(device)), precision, device, AHEAD), path)
    assert read_header(path.read_bytes()).capabilities == AHEAD
    assert form.inspect(path, *interface(network.plan)) == []
