"""What the tests of workflows share."""

from tests.exporting.converted import converted_once, functions_read_once

__all__ = ["converted_once", "functions_read_once"]
