"""What the tests of exports share."""

from tests.export.converted import converted_once

__all__ = ["converted_once"]
