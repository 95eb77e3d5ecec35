"""What a user may write for an architecture."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.cli.wording import typed
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.spaces import load_space
from nasdeploy.spaces.resolve import resolve_arch
from tests.small_spaces import one_stage

ALPHANET = load_space("alphanet", 10)
SMALLEST = ALPHANET.smallest()


def test_a_name() -> None:
    assert resolve_arch("a1", ALPHANET, []) == ALPHANET.named["a1"]
    assert resolve_arch("smallest", ALPHANET, []) == SMALLEST
    assert resolve_arch("largest", ALPHANET, []) == ALPHANET.largest()


def test_json_on_the_command_line() -> None:
    text = (
        '{"resolution":192,"width":[16,16,24,32,64,112,192,216,1792],"depth":[1,3,3,3,3,3,1],'
        '"kernel_size":[3,3,3,3,3,3,3],"expand_ratio":[1,4,4,4,4,6,6]}'
    )
    assert resolve_arch(text, ALPHANET, []) == resolve_arch(f" {text}\n", ALPHANET, []) == ALPHANET.named["a0"]


def test_a_json_file(tmp_path: Path) -> None:
    for name in ("arch.json", "arch.txt"):
        (tmp_path / name).write_text(ALPHANET.named["a2"].text)
        assert resolve_arch(str(tmp_path / name), ALPHANET, []) == ALPHANET.named["a2"]


@pytest.mark.parametrize("arch", [SMALLEST, ALPHANET.named["a6"]])
@pytest.mark.parametrize("digits", [5, 12])
def test_a_digest_of_a_searched_or_named_one(arch: Arch, digits: int) -> None:
    assert resolve_arch(arch.digest[:digits], ALPHANET, [SMALLEST, ALPHANET.largest(), SMALLEST]) == arch


def test_a_digest_that_fits_several_is_refused() -> None:
    archs = {arch.digest[:4]: arch for arch in map(fake, range(2000))}
    twin = next(a for a in map(fake, range(2000, 9000)) if a.digest[:4] in archs)
    with pytest.raises(UserError) as caught:
        resolve_arch(twin.digest[:4], ALPHANET, [*archs.values(), twin])
    assert f"--arch {twin.digest[:4]}: the beginning of 2 digests" in typed(caught.value)
    assert twin.digest in typed(caught.value)


def fake(number: int) -> Arch:
    return Arch({"resolution": number})


@pytest.mark.parametrize(
    ("text", "space", "message"),
    [
        ("a9", ALPHANET, '--arch a9: not found; give a JSON file, JSON such as {"resolution": ...}, the'),
        ("a5-smal", ALPHANET, "or a name; did you mean 'a5-small'?"),
        ("0123456789ab", ALPHANET, "the digest (4 digits or more) of one of 9 known networks"),
        (SMALLEST.digest[:3], ALPHANET, "not found"),
        ("", ALPHANET, "not found"),
        ("x" * 5000, ALPHANET, "not found"),
        ("nul\0byte", ALPHANET, "not found"),
        ("a0", load_space("digits"), "or a name; known: largest, smallest"),
        ("nowhere.json", ALPHANET, "nowhere.json: cannot be read (No such file"),
        ("{]", ALPHANET, "--arch: not valid JSON"),
        ('{"resolution": 192}', ALPHANET, "width.0 is missing; allowed: 16, 24"),
        (SMALLEST.text.replace("192", "200", 1), ALPHANET, "resolution is 200; allowed: 192, 224, 256, 288"),
    ],
)
def test_mistakes_end_in_one_line_that_says_what_is_possible(text: str, space: SearchSpace, message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_arch(text, space, [SMALLEST])
    assert message in typed(caught.value)
    assert "\n" not in typed(caught.value)


def test_a_file_with_a_mistake_is_named(tmp_path: Path) -> None:
    path = tmp_path / "arch.json"
    path.write_text(json.dumps({**SMALLEST.to_json(), "resolution": 1}))
    with pytest.raises(UserError, match=r"arch\.json: architecture: resolution is 1; allowed"):
        resolve_arch(str(path), ALPHANET, [])


@given(
    st.text(max_size=30).filter(lambda text: text not in ("smallest", "largest"))
    | st.text("0123456789abcdef", max_size=12)
    | st.text('{}[]":,0', max_size=20).map("{".__add__)
)
def test_nothing_crashes(text: str) -> None:
    with pytest.raises(UserError):
        resolve_arch(text, one_stage(), [])
