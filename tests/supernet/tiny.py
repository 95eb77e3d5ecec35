"""A space small enough for float64 by hand, with every kind of difference between its networks."""

from nasdeploy.core.space import SearchSpace
from nasdeploy.spaces.mobilenet import MobileNetTable

TABLE = MobileNetTable.model_validate_json(
    """{"name": "tiny", "resolution": [6, 9], "activation": "swish", "stem": {"width": [8, 12]},
    "stages": [
        {"width": [8, 16], "depth": [1, 2], "kernel": [3, 5], "expand": [1, 2], "stride": 1},
        {"width": [12, 16], "depth": [1, 2], "kernel": [3, 5], "expand": [2, 3], "stride": 2, "se": true}],
    "head": {"width": [16, 24], "expand": 2}}"""
)


def tiny_space(classes: int = 3) -> SearchSpace:
    return TABLE.build(classes)
