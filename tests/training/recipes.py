"""A run of seconds."""

from typing import Any

from nasdeploy.core.settings import override
from nasdeploy.recipe import Recipe, parse_recipe

CONTENT: dict[str, Any] = {
    "name": "tiny",
    "space": {
        "name": "tiny",
        "resolution": [8, 10],
        "stem": {"width": [8], "stride": 1},
        "stages": [
            {"width": [8, 16], "depth": [1, 2], "kernel": [3], "expand": [1, 2], "stride": 2},
            {"width": [16], "depth": [1], "kernel": [3, 5], "expand": [2], "stride": 1, "se": True},
        ],
        "head": {"width": [16], "expand": 2},
    },
    "data": {
        "kind": "digits",
        "size": 8,
        "augment": {"crop": "pad", "pad": 1, "flip": False},
        "holdout": 0.15,
        "images_per_class": 12,
        "workers": 0,
    },
    "train": {
        "epochs": 3,
        "batch_size": 25,
        "learning_rate": 0.4,
        "warmup_epochs": 1,
        "dropout": 0.2,
        "drop_connect": 0.2,
        "validate_random": 1,
        "threads": 1,
    },
    "recalibration": {"batch_size": 16, "batches": 2, "search_batches": 2},
}


def tiny_recipe(*assignments: str) -> Recipe:
    return parse_recipe(override(CONTENT, assignments), "tiny.yaml")
