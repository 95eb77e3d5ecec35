"""YAML text as a tree of nodes, by ruamel.yaml. Importing it takes a moment, so it is imported when a file is read."""

import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import BaseResolver
from ruamel.yaml.tag import Tag

MOST_DEPTH = 40

# They end a line in YAML 1.1 and stand for themselves in 1.2.
_OLDER_BREAKS = re.compile("[\x85\u2028\u2029]")

__all__ = [
    "MOST_DEPTH",
    "InvalidYaml",
    "MappingNode",
    "Node",
    "ScalarNode",
    "SequenceNode",
    "compose",
    "is_plain",
    "is_tagged",
]


class InvalidYaml(Exception):
    """What is wrong with a text, and in which line, from 0, if that is known."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem)
        self.problem, self.line = problem, line


class _PlainResolver(BaseResolver):
    """Leaves plain scalars to whoever reads the tree: ruamel.yaml's rules for 1.2 keep some of 1.1 (dates, 1_000)."""

    PLAIN = Tag(suffix="plain")

    def __init__(self, version: object = None, loader: Any = None) -> None:
        super().__init__(loader)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Return the tag of a node that has none."""
        return self.PLAIN if kind is ScalarNode and implicit[0] else super().resolve(kind, value, (False, False))

    @property
    def processing_version(self) -> tuple[int, int]:
        """The version of YAML, whatever the file says of itself."""
        return (1, 2)


_TAGS = {
    ScalarNode: _PlainResolver.DEFAULT_SCALAR_TAG,
    SequenceNode: _PlainResolver.DEFAULT_SEQUENCE_TAG,
    MappingNode: _PlainResolver.DEFAULT_MAPPING_TAG,
}


def is_plain(node: Node) -> bool:
    """Return whether a node is a scalar without quotes and tag, so that what it is follows from its characters."""
    return str(node.ctag) == str(_PlainResolver.PLAIN)


def is_tagged(node: Node) -> bool:
    """Return whether a node has a tag that makes it anything but text, a list or a mapping."""
    return not is_plain(node) and str(node.ctag) != str(_TAGS[type(node)])


def compose(text: str) -> Node | None:
    """Return the tree of the only document in a text, None if it is empty; raises `InvalidYaml`."""
    forbidden = _OLDER_BREAKS.search(text)
    if forbidden:
        raise _not_allowed(text, forbidden.start(), ord(forbidden[0]))
    reader = YAML(typ="safe", pure=True)
    reader.Resolver = _PlainResolver
    reader.max_depth = MOST_DEPTH
    reader.composer.warn_double_anchors = False
    try:
        root: Node | None = reader.compose(text)
    except (MaxDepthExceededError, RecursionError):
        raise InvalidYaml(f"nested more than {MOST_DEPTH} deep", None) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or ""
        # The context is what was being read, but for this half of a sentence.
        said = f"{error.context}, {problem}" if problem.startswith("but ") else problem
        raise InvalidYaml(said, None if mark is None else mark.line) from None
    except ReaderError as error:
        raise _not_allowed(text, error.position, error.character) from None
    # Of escapes that stand for no character.
    except (YAMLError, ValueError, OverflowError) as error:
        raise InvalidYaml(str(error), None) from None
    return root


def _not_allowed(text: str, position: int, character: int) -> InvalidYaml:
    return InvalidYaml(f"the character U+{character:04X} is not allowed there", text.count("\n", 0, position))
