"""Files of safetensors: what is written is read, the bytes are the same each time, and headers take no memory."""

import json
import shutil
import struct
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.store.checkpoints import supernet_file, trained_weights
from nasdeploy.store.run import Run
from nasdeploy.supernet.archives import UnreadableArchive
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.tensor_files import digest_of, read_tensors, write_tensors
from nasdeploy.supernet.weights import initialise, keep_trained, load_supernet
from tests.small_spaces import two_stages
from tests.supernet.test_weights import same, supernet

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
_TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    made = (10 * torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))).to(
        draw(st.sampled_from(_DTYPES))
    )
    if made.ndim == 4 and draw(st.booleans()):
        return made.to(memory_format=torch.channels_last)
    return made.transpose(0, -1) if made.ndim and draw(st.booleans()) else made


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_TEXTS.filter(lambda name: name != "__metadata__"), tensors(), max_size=5), _TEXTS, _TEXTS)
def test_what_is_written_is_read(state: dict[str, Tensor], key: str, stated: str) -> None:
    state |= {f"{name} again": tensor for name, tensor in state.items()}
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        write_tensors(path, state, {key: stated})
        first = path.read_bytes()
        write_tensors(path, dict(reversed(state.items())), {key: stated})
        assert path.read_bytes() == first
        found = read_tensors(path)
        assert found.metadata == {key: stated}
        assert found.tensors.keys() == state.keys()
        for name, tensor in state.items():
            assert found.tensors[name].dtype == tensor.dtype
            assert torch.equal(found.tensors[name], tensor)
        assert digest_of(found.tensors) == digest_of(state)


def test_a_digest_knows_names_shapes_kinds_and_values() -> None:
    state = {"a": torch.arange(4.0)}
    others = [{"b": state["a"]}, {"a": state["a"].view(2, 2)}, {"a": state["a"].half()}, {"a": state["a"] + 1}, {}]
    assert len({digest_of(each) for each in (state, *others)}) == 6


@pytest.mark.parametrize("length", [0, 1 << 20, (8 << 20) + 1, 1 << 62, (1 << 64) - 1])
def test_a_header_takes_no_memory_that_is_not_there(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(min(8 + length, 64 << 20) if length > 8 << 20 else 99)
    tracemalloc.start()
    with pytest.raises(UnreadableArchive, match="header"):
        read_tensors(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path, "x", recipe={}, space=two_stages().digest, seed=0)
    made.finish("train", keep_trained(made, two_stages().digest, supernet().state_dict(), 4))
    return made


def test_what_a_run_hands_on_is_read_and_started_from(run: Run) -> None:
    path = trained_weights(run).path
    assert same(load_supernet(path, two_stages()), supernet())
    begun = Supernet(two_stages())
    initialise(begun, path, classifier=True)
    assert same(begun, supernet())
    with pytest.raises(UserError, match="weights of another search space"):
        load_supernet(path, two_stages(4))


def test_a_flipped_bit_of_the_weights_is_never_loaded(run: Run) -> None:
    """Also where no manifest knows the sum of the file, as for `init`."""
    path = supernet_file(run)
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    for place in (start, (start + len(content)) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        for use in (lambda: load_supernet(path, two_stages()), lambda: initialise(Supernet(two_stages()), path)):
            with pytest.raises(UserError, match="damaged"):
                use()


@pytest.mark.parametrize("stated", ["{", "[]", "1", "[" * 50_000, json.dumps({"schema": 1})])
def test_what_it_says_of_itself_is_not_trusted(stated: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, supernet().state_dict(), {"nasdeploy": stated})
    with pytest.raises(UserError, match="damaged"):
        load_supernet(path, two_stages())


def test_weights_of_others_are_started_from_and_not_taken_for_a_supernets(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, supernet().state_dict())
    initialise(Supernet(two_stages()), path, classifier=True)
    with pytest.raises(UserError, match="no weights of this version of nasdeploy"):
        load_supernet(path, two_stages())


def test_what_cannot_be_written_leaves_what_was_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = supernet_file(run).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"supernet\.safetensors: cannot be written, disk full"):
        keep_trained(run, two_stages().digest, supernet(seed=1).state_dict(), 5)
    assert supernet_file(run).read_bytes() == before
    assert [path.name for path in run.path.iterdir()] == [".lock", "manifest.json", "supernet.safetensors"]


def test_a_run_that_was_deleted_meanwhile_does_not_come_back(run: Run) -> None:
    with run.lock():
        shutil.rmtree(run.path)
        with pytest.raises(UserError, match="the run was deleted or replaced while it was used"):
            keep_trained(run, two_stages().digest, supernet().state_dict(), 4)
    assert not run.path.exists()
