"""Predictors in files, and files that are none."""

import json
from dataclasses import replace
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.searching.predictors import KINDS
from nasdeploy.searching.predictors.predictor import fit_predictor, load_predictor, save_predictor
from nasdeploy.spaces import load_space

SPACE = load_space("digits", 10)
CODES = SPACE.sample_codes(40, np.random.default_rng(0))
FITTED = {
    kind: fit_predictor(SPACE, kind, CODES, 0.9 + 0.01 * CODES.mean(axis=1), np.random.default_rng(0)) for kind in KINDS
}
ANEW = "search again with --strategy predictor-guided to make it anew"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("predictor") / "predictor.npz"
    save_predictor(path, FITTED["linear"], "weights")
    return path


def refusal(path, space=SPACE, supernet="weights"):
    with pytest.raises(UserError) as refused:
        load_predictor(path, space, supernet)
    assert "\n" not in typed(refused.value)
    return typed(refused.value).removeprefix(f"{path}: ")


def rewritten(file, path, header=None, **arrays):
    with np.load(file) as content:
        kept = dict(content)
    if header:
        changed = json.loads(kept["header"].tobytes()) | header
        kept["header"] = np.frombuffer(json.dumps(changed).encode(), dtype=np.uint8)
    np.savez(path, **{**kept, **arrays})
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_predictor_is_read_back(kind, tmp_path):
    save_predictor(tmp_path / "p.npz", FITTED[kind], "weights")
    found = load_predictor(tmp_path / "p.npz", SPACE, "weights")
    assert (found.predictor(CODES) == FITTED[kind].predictor(CODES)).all()
    assert (found.quality, found.n, found.predictor.kind) == (FITTED[kind].quality, 40, kind)


def test_of_another_score(tmp_path):
    save_predictor(tmp_path / "p.npz", FITTED["linear"], "weights", "both")
    assert refusal(tmp_path / "p.npz") == (
        f"predicts what networks are ranked by with search.score both, and it is metric now; {ANEW}"
    )
    assert load_predictor(tmp_path / "p.npz", SPACE, "weights", "both").n == 40


def test_of_another_space(file):
    other = load_space("cifar10", 10)
    assert refusal(file, other) == (
        f"predicts another search space ({SPACE.digest}, not {other.digest} as cifar10 is now); "
        "give a predictor of this run's space"
    )


def test_of_another_supernet(file):
    assert refusal(file, supernet="others") == (
        f"predicts accuracies of another supernet (weights, not others); {ANEW}"
    )


def test_of_another_version(file, tmp_path):
    path = rewritten(file, tmp_path / "p.npz", {"schema_version": 2})
    assert refusal(path) == f"an accuracy predictor of another version of nasdeploy; {ANEW}"


def test_edited(file, tmp_path):
    path = rewritten(file, tmp_path / "p.npz", weights=np.zeros(3))
    assert refusal(path) == f"damaged, its arrays do not match their checksum; {ANEW}"


def test_an_unknown_kind(file, tmp_path):
    path = rewritten(file, tmp_path / "p.npz", {"kind": "oracle"})
    assert refusal(path) == f"damaged (unknown kind oracle); {ANEW}"


def test_a_key_that_no_header_has(file, tmp_path):
    assert "more" in refusal(rewritten(file, tmp_path / "p.npz", {"more": 1}))


def test_of_other_features(tmp_path):
    model = KINDS["linear"].restore({"weights": np.zeros(3), "offset": np.array(0.5)})
    fitted = FITTED["linear"]
    predictor = type(fitted.predictor)(SPACE, "linear", model)
    save_predictor(tmp_path / "p.npz", replace(fitted, predictor=predictor), "weights")
    assert refusal(tmp_path / "p.npz").startswith("damaged (")


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "p.npz", header=np.array([print], dtype=object))
    assert refusal(tmp_path / "p.npz") == f"damaged, or no accuracy predictor of nasdeploy; {ANEW}"


def test_an_archive_that_would_fill_the_memory(tmp_path):
    with ZipFile(tmp_path / "p.npz", "w", ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", bytes(9 << 20))
    assert refusal(tmp_path / "p.npz") == f"no accuracy predictor, it would take 9 MiB; {ANEW}"


def test_no_file(tmp_path):
    assert refusal(tmp_path / "p.npz") == f"no such file; {ANEW}"
    assert refusal(tmp_path) == f"a directory, not an accuracy predictor; {ANEW}"


@given(st.binary(max_size=200))
def test_any_other_file(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "other.npz"
    path.write_bytes(content)
    assert refusal(path) == f"damaged, or no accuracy predictor of nasdeploy; {ANEW}"


@given(st.data())
def test_a_flipped_bit_is_harmless_or_noticed(file, tmp_path_factory, data):
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    path.write_bytes(content)
    try:
        found = load_predictor(path, SPACE, "weights")
    except UserError:
        return
    assert (found.predictor(CODES) == FITTED["linear"].predictor(CODES)).all()
