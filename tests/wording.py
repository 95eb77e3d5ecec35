"""Errors of the library as the command line words them, which is what a user reads."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import NasdeployError


@contextmanager
def assert_stops(kind: type[NasdeployError], match: str) -> Iterator[pytest.ExceptionInfo[NasdeployError]]:
    """Like `pytest.raises`, of what the command line makes of the message."""
    with pytest.raises(kind) as caught:
        yield caught
    said = typed(caught.value)
    assert re.search(match, said), f"{said!r} does not match {match!r}"
    assert "`" not in said
