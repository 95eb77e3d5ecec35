"""Pickles taken apart: objects of classes that are not there are records, calls of what is not known are refused."""

import io
import pickle
import pickletools
import sys
from types import ModuleType

import pytest
import torch

from nasdeploy.supernet.archives import UnreadableArchive, open_archive
from nasdeploy.supernet.pickles import Call, UnreadablePickle, described

SOURCE = """
class Plain:
    def __init__(self):
        self.lr, self.nested = 0.1, {"a": 1}
class Options(dict):
    pass
class Names(list):
    pass
class Empty(object):
    __slots__ = ()
class Made(tuple):
    pass
def act(path):
    open(path, "w")
class Acting:
    def __reduce__(self):
        return act, ("canary",)
"""


@pytest.fixture
def code(monkeypatch):
    """Return a module that is there only while something is pickled."""
    module = ModuleType("code_of_another_time")
    exec(SOURCE, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module
    assert module.__name__ not in sys.modules, "take it away before anything is read"


def pickled(code, value, protocol):
    content = pickle.dumps(value, protocol)
    del sys.modules[code.__name__]
    return content


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["Plain", "Options", "Names"])
def test_an_object_of_a_class_that_is_not_there_is_a_record(kind, protocol, code):
    made = getattr(code, kind)()
    if kind == "Options":
        made.update(seed=0, more=code.Plain())
    if kind == "Names":
        made.append("a")
    found = described(io.BytesIO(pickled(code, {"args": made, "epoch": 3}, protocol))).value
    assert found["epoch"] == 3
    assert isinstance(found["args"], Call)
    assert (str(found["args"].function), found["args"].arguments) == (f"code_of_another_time.{kind}", ())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["Acting", "Made"])
def test_what_is_called_or_made_of_arguments_is_refused(kind, protocol, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickled(code, {"args": code.Acting() if kind == "Acting" else code.Made((1, 2))}, protocol)
    if kind == "Made" and protocol < 2:
        # What the tuple holds is an argument of the function that makes it without any, and is left out.
        assert described(io.BytesIO(content)).value["args"].arguments == ()
        return
    with pytest.raises(UnreadablePickle, match="its pickle would use code_of_another_time"):
        described(io.BytesIO(content))
    assert not list(tmp_path.iterdir())


def test_a_name_alone_is_a_record_and_calls_nothing():
    content = b"\x80\x02cos\nsystem\n."
    assert [opcode.name for opcode, _, _ in pickletools.genops(content)] == ["PROTO", "GLOBAL", "STOP"]
    assert str(described(io.BytesIO(content)).value) == "os.system"


def test_our_own_files_hold_no_records(code, tmp_path):
    torch.save({"weights": {"a": torch.zeros(1)}, "args": code.Plain()}, tmp_path / "a.pt")
    del sys.modules[code.__name__]
    with pytest.raises(UnreadableArchive, match="it holds more than tensors and plain values"):
        open_archive(tmp_path / "a.pt").everything()
