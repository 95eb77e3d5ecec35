from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings, load_yaml, override, parse
from tests.wording import assert_stops


class Folder(Settings):
    kind: Literal["folder"]
    directory: str


class Digits(Settings):
    kind: Literal["digits"]
    side: int = 8


class Training(Settings):
    epochs: int = Field(default=1, ge=1)
    rate: float = Field(default=0.1, gt=0)


class Whole(Settings):
    name: str
    data: Annotated[Folder | Digits, Field(discriminator="kind")] = Digits(kind="digits")
    train: Training = Training()
    latency: float | str = "40%"
    widths: tuple[int, ...] = (8, 16)
    heads: dict[str, Training] = Field(default_factory=dict)


def mistake(**data: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse(Whole, {"name": "x", **data}, "r.yaml")
    return typed(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"trian": {}}, "r.yaml: unknown key 'trian'; did you mean 'train'?"),
        ({"train": {"epoch": 3}}, "r.yaml: unknown key 'train.epoch'; did you mean 'epochs'?"),
        ({"train": {"zzz": 3}}, "r.yaml: unknown key 'train.zzz'; known: epochs, rate"),
        ({"heads": {"a": {"rat": 1}}}, "r.yaml: unknown key 'heads.a.rat'; did you mean 'rate'?"),
        (
            {"data": {"kind": "folder", "directroy": "x"}},
            "r.yaml: unknown key 'data.directroy'; did you mean 'directory'?",
        ),
        ({"data": {"kind": "folder"}}, "r.yaml: data.directory is missing"),
        ({"train": {"epochs": 0}}, "r.yaml: train.epochs is 0: input should be greater than or equal to 1"),
        ({"train": {"epochs": "3"}}, 'r.yaml: train.epochs is "3": input should be a valid integer'),
        ({"train": {"epochs": 2.5}}, "r.yaml: train.epochs is 2.5: input should be a valid integer"),
        ({"train": {"epochs": True}}, "r.yaml: train.epochs is true: input should be a valid integer"),
        ({"train": {"rate": float("nan")}}, "r.yaml: train.rate is NaN: input should be a finite number"),
        ({"train": None}, "r.yaml: train is null: input should be an object"),
        ({"widths": [8, "wide"]}, 'r.yaml: widths.1 is "wide": input should be a valid integer'),
        ({"latency": [1]}, "r.yaml: latency is [1]: input should be a valid number"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(data: dict[str, Any], said: str) -> None:
    assert mistake(**data) == said


def test_a_name_that_is_not_in_unicode_is_named() -> None:
    assert mistake(heads={"b": {}}, data={"kind": "folder", "directory": "M\udcfcller"}) == (
        "r.yaml: data.directory is 'M\\udcfcller', a name that is not in Unicode (UTF-8); rename what it names"
    )


def test_an_unknown_key_comes_before_the_missing_one_that_it_causes() -> None:
    with pytest.raises(UserError, match="unknown key 'nmae'; did you mean 'name'"):
        parse(Whole, {"nmae": "x"}, "r.yaml")


def test_a_long_value_is_shown_short() -> None:
    assert len(mistake(train={"epochs": "9" * 1000})) < 160


def test_settings_are_immutable_and_take_integers_for_floats() -> None:
    whole = parse(Whole, {"name": "x", "train": {"rate": 1}, "widths": [4]}, "r.yaml")
    assert (whole.train.rate, whole.widths) == (1.0, (4,))
    with pytest.raises(ValidationError):
        whole.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("train.rate=1e-3", {"train": {"rate": 0.001, "epochs": 5}}),
        ("train.rate=5E+2", {"train": {"rate": 500.0, "epochs": 5}}),
        ("train.epochs=7", {"train": {"epochs": 7}}),
        ("data.kind=digits", {"train": {"epochs": 5}, "data": {"kind": "digits"}}),
        ("widths=[1, 2]", {"train": {"epochs": 5}, "widths": [1, 2]}),
        ("name=a=b", {"train": {"epochs": 5}, "name": "a=b"}),
        ("name=e5", {"train": {"epochs": 5}, "name": "e5"}),
    ],
)
def test_set_reaches_the_key_and_changes_nothing_else(assignment: str, value: dict[str, Any]) -> None:
    data = {"train": {"epochs": 5}}
    assert override(data, [assignment]) == value
    assert data == {"train": {"epochs": 5}}


def test_a_number_is_a_place_in_a_list() -> None:
    data = {"phases": [{"name": "a", "rates": [1, 2]}, {"name": "b"}]}
    assert override(data, ["phases.1.epochs=3", "phases.0.rates.1=9"]) == {
        "phases": [{"name": "a", "rates": [1, 9]}, {"name": "b", "epochs": 3}]
    }
    for place in ("2", "-1", "a", "1_0", "\N{SUPERSCRIPT TWO}"):
        with assert_stops(
            UserError, match=rf"^--set phases.{place}.x=1: '{place}' is no place in a list; there are 0 to 1$"
        ):
            override(data, [f"phases.{place}.x=1"])
    with assert_stops(UserError, match="there are none, it is empty$"):
        override({"phases": []}, ["phases.0=1"])
    with assert_stops(UserError, match="1 holds a value, not settings$"):
        override(data, ["phases.0.rates.1.x=1"])


def test_assignments_add_up() -> None:
    assert override({}, ["a={d: 4}", "a.b=1", "a.c=2", "a.b=1"]) == {"a": {"b": 1, "c": 2, "d": 4}}


@pytest.mark.parametrize("second", ["a.b=3", "a={}", "a=1"])
def test_no_assignment_takes_back_another(second: str) -> None:
    with assert_stops(UserError, match=rf"^--set {second}: a\.b was set by an earlier --set; leave one of them out$"):
        override({"x": 1}, ["a.b=1", second])


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train", "write it as key.key=value"),
        ("=3", "write it as key.key=value"),
        ("train..epochs=3", "write it as key.key=value"),
        ("train.epochs.x=3", "epochs holds a value, not settings"),
        ("a=[1", "not valid YAML"),
        ("a=2024-13-45", "2024-13-45 is a date in YAML 1.1 and the text '2024-13-45' in YAML 1.2"),
        ("train.epochs=010", "010 is 8 in YAML 1.1 and 10 in YAML 1.2; write 8, 10 or '010'"),
        ("train.epochs=12:30", "12:30 is 750 in YAML 1.1"),
        ("data.path=photos #2", "'#2' in it is no part of the value; put all of it into quotes"),
    ],
)
def test_set_says_what_is_wrong(assignment: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        override({"train": {"epochs": 5}}, [assignment])
    assert typed(caught.value).startswith(f"--set {assignment}: ")
    assert said in typed(caught.value)


def test_reads_yaml(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: möwe # a bird\nrate: 2e-4\nwidths: [1, 2]\n", encoding="utf-8")
    data = load_yaml(file)
    assert (data["name"], data["rate"], data["widths"]) == ("möwe", 2e-4, [1, 2])


@pytest.mark.parametrize(
    "content",
    [b"", b"- 1\n", b"word", b"a: [1", b"a: 2024-05-01", b"\xff\xfe\x00", b"a: !!python/name:os.system", b"[" * 5000],
)
def test_refuses_what_is_no_mapping(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_yaml(file)
    assert typed(caught.value).startswith(f"{file}: ")
    assert "\n" not in typed(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read \(No such file"):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        load_yaml(tmp_path)


TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from([*Whole.model_fields, "other"]) | st.integers(), VALUES, max_size=4))
def test_whatever_a_file_holds_the_answer_is_settings_or_one_line(data: dict[Any, Any]) -> None:
    said = ""
    try:
        parse(Whole, data, "r.yaml")
    except UserError as error:
        said = str(error)
    assert "\n" not in said


@given(st.text(max_size=30))
def test_whatever_is_set_the_answer_is_a_mapping_or_one_line(text: str) -> None:
    said = ""
    changed: dict[str, Any] = {"train": {"epochs": 5}}
    try:
        changed = override(changed, [f"train.rate={text}"])
    except UserError as error:
        said = str(error)
    assert bool(said) != ("rate" in changed["train"])
    assert changed["train"]["epochs"] == 5
