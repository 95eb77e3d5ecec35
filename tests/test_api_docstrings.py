"""What `import nasdeploy as nd` offers, takes and gives is described: arguments, results, shapes, units and errors.

The house writes docstrings as prose, with arguments between backticks. What several functions of a module share is said
once, in the docstring of the module.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import griffe

import nasdeploy as nd

ROOT = Path(nd.__file__).parents[1]

RETURNS = re.compile(r"\b(return|yield|read)s?\b", re.IGNORECASE)
"""What a function's description says of what it gives."""
ARRAYS = re.compile(r"\b(Codes|Mask|Floats|Array|NDArray|Tensor|Shape)\b")
"""Types that have a shape."""
SHAPE = re.compile(r"`\[[^\]`]+\]`|`\([^)`]+\)`")
QUANTITY = re.compile(
    r"_(ms|s|m|mb|gib|min|minutes|seconds|bytes|macs|latency)$"
    r"|^(hours|seconds|minutes|p\d\d|median|bytes|macs|params|latency|memory|megabytes|uncertainty)$"
)
"""Names of times, sizes and costs."""
UNIT = re.compile(
    r"\b(seconds?|milliseconds|ms|minutes|hours|bytes|MB|megabytes|GiB|multiply-accumulates?"
    r"|millions?|parameters|pixels|elements|points|per cent|unit)\b",
    re.IGNORECASE,
)
RAISED = ("UserError", "InfeasibleBudget", "CheckFailed", "ValueError", "KeyError", "TypeError", "NotImplementedError")


@cache
def package() -> griffe.Module:
    found = griffe.load("nasdeploy", search_paths=[str(ROOT)], docstring_parser="google")
    assert isinstance(found, griffe.Module)
    return found


def resolved(path: str) -> griffe.Object | None:
    """The class or function at a path inside the package, wherever it was imported from; None outside of it."""
    if not path.startswith("nasdeploy."):
        return None
    found = package()[path.removeprefix("nasdeploy.")]
    found = found.final_target if isinstance(found, griffe.Alias) else found
    return found if found.is_class or found.is_function else None


def named_in(annotation: str | griffe.Expr | None) -> Iterator[str]:
    if isinstance(annotation, griffe.Expr):
        yield from (each.canonical_path for each in annotation.iterate(flat=True) if isinstance(each, griffe.ExprName))


def fields_of(one: griffe.Object) -> Iterator[griffe.Attribute]:
    """The public fields of a class, which are no properties."""
    for member in one.members.values():
        is_field = isinstance(member, griffe.Attribute) and not member.has_labels("property")
        if is_field and member.is_public and member.name != "model_config":
            yield member


def offered() -> dict[str, griffe.Object]:
    """What is public, what its functions take and give, and what the fields of that hold."""
    found: dict[str, griffe.Object] = {}
    paths = [f"{home}.{name}" for home, names in nd._HOMES.items() for name in names]
    while paths:
        one = resolved(paths.pop(0))
        if one is None or one.path in found or one.name.startswith("_"):
            continue
        found[one.path] = one
        if isinstance(one, griffe.Function):
            paths += [path for each in one.parameters for path in named_in(each.annotation)] + [*named_in(one.returns)]
        else:
            paths += [path for each in fields_of(one) for path in named_in(each.annotation)]
    return found


def described(one: griffe.Object) -> Iterator[griffe.Function | griffe.Attribute]:
    """What is described of a class or a function: it itself, or its public methods, properties and fields."""
    if isinstance(one, griffe.Function):
        yield one
        return
    yield from fields_of(one)
    for member in one.members.values():
        special = member.name.startswith("__")
        if member.is_public and not member.is_alias and not special and member.is_function:
            assert isinstance(member, griffe.Function)
            yield member
        elif isinstance(member, griffe.Attribute) and member.is_public and member.has_labels("property"):
            yield member


def text_of(one: griffe.Object) -> str:
    """The docstring as griffe reads it; that of a base class where a member says no more than the one there."""
    if one.docstring is not None:
        return "\n".join(str(part.value) for part in one.docstring.parse() if part.kind.value == "text")
    bases = one.parent.mro() if isinstance(one.parent, griffe.Class) else []
    return next((text for base in bases if one.name in base.members and (text := text_of(base[one.name]))), "")


def lacking(one: griffe.Function | griffe.Attribute) -> list[str]:
    """What the description of a function, property or field lacks."""
    text = text_of(one)
    if not text:
        return [f"{one.path}: no docstring"]
    found = []
    if isinstance(one, griffe.Attribute):
        if ARRAYS.search(str(one.annotation)) and not SHAPE.search(text) and one.name != "shape":
            found.append("the shape")
        if needs_unit(one.name, one.annotation) and not UNIT.search(text):
            found.append("the unit")
        return [f"{one.path}: {each}" for each in found + unsaid_errors(one, text)]
    shared = text_of(one.module)
    for parameter in one.parameters:
        name = parameter.name
        if name in ("self", "cls"):
            continue
        if not re.search(rf"`{name}[`=]", text) and not re.search(rf"^- `{name}` ", shared, re.M):
            found.append(f"the argument {name}")
        if needs_unit(name, parameter.annotation) and not UNIT.search(text):
            found.append(f"the unit of {name}")
    if str(one.returns) not in ("None", "Iterator[None]") and not RETURNS.search(text):
        found.append("what it returns")
    typed = [str(parameter.annotation) for parameter in one.parameters] + [str(one.returns)]
    if any(ARRAYS.search(each) for each in typed) and not SHAPE.search(text):
        found.append("the shape")
    return [f"{one.path}: {each}" for each in found + unsaid_errors(one, text)]


def needs_unit(name: str, annotation: object) -> bool:
    return bool(QUANTITY.search(name)) and bool(re.search(r"\b(int|float|Milliseconds)\b", str(annotation)))


def unsaid_errors(one: griffe.Object, text: str) -> list[str]:
    """The errors that are raised in the function itself and that its description does not name."""
    names = {
        each.exc.func.id
        for each in ast.walk(ast.parse(source(one)))
        if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call) and isinstance(each.exc.func, ast.Name)
    }
    return [f"the error {name}" for name in sorted(names) if name in RAISED and name not in text]


def source(one: griffe.Object) -> str:
    first, *others = one.lines
    return "\n".join([first.strip(), *others]) if len(one.lines) == 1 else "class _:\n" + "\n".join(indented(one.lines))


def indented(lines: Sequence[str]) -> list[str]:
    return lines if lines[0].startswith(" ") else [f"    {line}" for line in lines]


def test_all_that_is_public_is_described() -> None:
    found = offered()
    assert {"nasdeploy.api.search", "nasdeploy.searching.result.NetworkRecord"} <= set(found)
    assert [path for path, one in found.items() if not text_of(one)] == []
    assert [each for one in found.values() for member in described(one) for each in lacking(member)] == []


def test_the_check_would_notice() -> None:
    with griffe.temporary_visited_module(CODE) as module:
        found = [each for one in module["One"].members.values() for each in lacking(one)]
    assert [each.partition(": ")[2] for each in found] == [
        "no docstring",
        "the unit",
        "the argument codes",
        "what it returns",
        "the shape",
        "the error ValueError",
    ]


CODE = '''
class One:
    """A thing."""
    name: str
    wait_s: float
    """The pause."""
    size: int
    """The size in bytes."""
    def two(self, codes: "Codes") -> "Codes":
        """Change something."""
        raise ValueError("no")
    def three(self, codes: "Codes") -> "Codes":
        """Return `codes` `[n, choices]`; raises `ValueError`."""
        raise ValueError("no")
'''
