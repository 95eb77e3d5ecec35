"""Damage to what nasdeploy wrote itself is named, with a way out."""

from pathlib import Path

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings
from nasdeploy.store.files import write_json
from nasdeploy.store.records import read_record


class Cat(Settings):
    name: str
    lives: int = 9


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "cat.json", Cat(name="Tom").model_dump(mode="json"))
    assert read_record(Cat, tmp_path / "cat.json", "get another") == Cat(name="Tom")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged, not valid JSON"),
        (b'{"name": "To', "damaged, not valid JSON"),
        (b"[" * 100_000, "damaged, not valid JSON"),
        (b"[1]", "damaged, it holds no JSON object"),
        (b"{}", "name is missing"),
        (b'{"name": "Tom", "live": 3}', "unknown key 'live'; did you mean 'lives'?"),
        (b'{"name": "Tom", "lives": NaN}', "lives is NaN"),
    ],
)
def test_damage_is_named_with_a_way_out(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "cat.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_record(Cat, file, "get another")
    assert str(caught.value).startswith(f"{file}: {said}")
    assert str(caught.value).endswith("; get another")
