import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.data.settings import DataSettings


def settings(**changes: object) -> DataSettings:
    return parse(DataSettings, {"kind": "folder", "path": "photos", "size": 32, **changes}, "recipe")


def test_what_a_user_writes_is_taken() -> None:
    found = settings(resize=36, augment={"crop": "pad", "pad": 2, "policy": "v0-mstd0.5"}, mean=[0.5, 0.5, 0.5])
    assert (found.shorter_side, found.augment.pad, found.mean) == (36, 2, (0.5, 0.5, 0.5))
    assert settings().shorter_side == 32


@pytest.mark.parametrize(
    "policy", ["none", "imagenet", "trivial", "v0", "3a-mstd0.5", "rand-m9-mstd0.5-inc1", "augmix-m3-w3"]
)
def test_policies(policy: str) -> None:
    assert settings(augment={"policy": policy}).augment.policy == policy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "foldr"}, "kind is"),
        ({"path": None}, "path is missing"),
        ({"kind": "digits"}, "leave path out"),
        ({"size": 2}, "size is 2"),
        ({"size": "32"}, "size is"),
        ({"resize": 30}, "resize is 30, less than size 32"),
        ({"std": [0.0, 0.2, 0.2]}, "std.0 is 0.0"),
        ({"mean": [0.5, 0.5]}, "mean"),
        ({"holdout": 1.0}, "holdout is 1.0"),
        ({"test": 0}, "test is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"balance": "weights"}, 'balance is "weights"'),
        ({"images_per_class": 1}, "images_per_class is 1"),
        ({"range": [5, 5]}, "range is [5, 5]: the first number, that of black, must be below the second"),
        ({"range": "measure"}, 'range is "measure"'),
        ({"range": [0]}, "range"),
        ({"max_pixels": 0}, "max_pixels is 0"),
        ({"kind": "digits", "path": None, "range": [0, 4]}, "range has an effect only with kind: folder or shards"),
        ({"sise": 32}, "did you mean 'size'"),
        ({"augment": {"crop": "pad", "scale": [0.1, 1.0]}}, "scale has an effect only with crop: random-resized"),
        ({"augment": {"pad": 3}}, "pad has an effect only with crop: pad"),
        ({"augment": {"scale": [0.9, 0.1]}}, "first number must not be above"),
        ({"augment": {"policy": "autoaugment"}}, 'augment.policy is "autoaugment": write none, imagenet'),
        ({"augment": {"flipp": True}}, "did you mean 'flip'"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        settings(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("crop", ["random-resized", "pad", "none"])
def test_saved_settings_are_read_back(crop: str) -> None:
    found = settings(augment={"crop": crop})
    assert parse(DataSettings, found.model_dump(mode="json"), "recipe") == found
