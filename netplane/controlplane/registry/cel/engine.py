"""Compile and evaluate expressions. The library (a native one, 10 µs an evaluation) is loaded with the first of them.

It cannot be interrupted, so what an evaluation may cost is bounded before it begins: by how deep comprehensions
stand in each other and how large the values are that they go over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from netplane.controlplane.registry.cel import functions, syntax

BUDGET = 10_000_000
"""What the rules of one object may cost together, in steps: about half a second."""
_LONGEST = 10_000
_TYPES = frozenset(
    {"int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type", "optional", "dyn",
     "timestamp", "duration"}
)  # fmt: skip
_BUILTIN = frozenset(
    {"size", "int", "uint", "double", "bool", "string", "bytes", "type", "dyn", "duration", "timestamp", "contains",
     "startsWith", "endsWith", "matches", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek",
     "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds", "of", "ofNonZeroValue", "none",
     "hasValue", "value", "orValue", "or", "has", "optional", "max", "min"}
)  # fmt: skip
_OWN = {syntax.OPTIONAL, syntax.OPTIONAL_LIST, syntax.OPTIONAL_FIRST, syntax.OPTIONAL_FLAT}
_FAILURES = (ValueError, TypeError, RuntimeError, KeyError, IndexError, ArithmeticError, AttributeError)


class CompileError(Exception):
    """An expression that is none."""


class EvaluationError(Exception):
    """An expression that has no value here: a field that is not there, an index out of range, too costly."""


class MismatchError(EvaluationError):
    """An operation between types that it is not for."""


@dataclass(slots=True)
class Budget:
    """What is left to spend."""

    left: int = BUDGET

    def spend(self, cost: int) -> None:
        """Take from it; raise EvaluationError when it is not enough."""
        self.left -= cost
        if self.left < 0:
            raise EvaluationError(
                "validation failed due to running out of cost budget, no further validation rules will be run"
            )


@dataclass(frozen=True, slots=True)
class Size:
    """How large a value is: its parts, and its longest text."""

    parts: int = 1
    longest: int = 0


def size(value: Any) -> Size:
    """Measure a value."""
    parts, longest, todo = 0, 0, [value]
    while todo:
        each = todo.pop()
        parts += 1
        if isinstance(each, str):
            longest = max(longest, len(each))
        elif isinstance(each, dict):
            todo.extend(each.values())
        elif isinstance(each, list):
            todo.extend(each)
    return Size(parts, longest)


class Program:
    """A compiled expression."""

    __slots__ = ("_depth", "_length", "_pluses", "_program", "expression", "names")

    def __init__(self, expression: str, variables: Sequence[str]) -> None:
        found = syntax.words(expression)
        self.expression = expression
        self.names = syntax.names(found)
        self._depth, self._length, self._pluses = syntax.depth(found), len(found), syntax.pluses(found)
        self._program = _compiled(expression, found, frozenset(variables))

    def cost(self, of: Size) -> int:
        """Return the most steps that an evaluation over values of this size can take."""
        rounds = (of.parts + self._length) ** self._depth if self._depth < 8 else BUDGET
        return int(self._length * min(rounds, BUDGET) * (1 + of.longest * (self._pluses + 1) // 100))

    def evaluate(self, variables: Mapping[str, Any], budget: Budget, of: Size) -> Any:
        """Return the value for these variables; raise EvaluationError."""
        budget.spend(self.cost(of))
        context = _context()
        for name, value in variables.items():
            context.add_variable(name, value)
        try:
            return self._program.execute(context)
        except _FAILURES as error:
            text = _first_line(error)
            if isinstance(error, TypeError) and text.startswith(("Unsupported operation", "No such overload")):
                raise MismatchError("no such overload") from error
            raise EvaluationError(f"no such key: {text}" if isinstance(error, KeyError) else text) from error


def _first_line(error: BaseException) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.splitlines()[0][:300] if text else type(error).__name__


def _compiled(expression: str, found: list[syntax.Word], variables: frozenset[str]) -> Any:
    if len(expression) > _LONGEST:
        raise CompileError(f"the expression has more than {_LONGEST} characters")
    if not found:
        raise CompileError("the expression is empty")
    try:
        program = _library().compile(syntax.plain(found))
    except _FAILURES as error:
        lines = [line.strip() for line in str(error).splitlines() if "ERROR" in line]
        raise CompileError(f"compilation failed: {lines[0] if lines else _first_line(error)}"[:500]) from error
    known = variables | _TYPES | syntax.bound(found)
    for name in sorted(set(program.variables()) - known):
        if not name.startswith("@"):
            raise CompileError(f"compilation failed: ERROR: undeclared reference to '{name}' (in container '')")
    for name in sorted(set(program.functions()) - _BUILTIN - set(functions.FUNCTIONS) - _OWN):
        if name.isidentifier():
            raise CompileError(f"compilation failed: ERROR: undeclared reference to '{name}' (in container '')")
    return program


@cache
def _library() -> Any:
    import cel

    return cel


@cache
def _context() -> Any:
    """The one context: its functions are set once, its variables before each evaluation."""
    library = _library()
    context = library.Context()
    for name, function in functions.FUNCTIONS.items():
        context.add_function(name, function)

    def get(value: Any, key: Any) -> Any:
        if isinstance(value, library.OptionalValue):
            if not value.has_value():
                return value
            value = value.value()
        if isinstance(value, dict) and key in value:
            return library.OptionalValue.of(value[key])
        if isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            return library.OptionalValue.of(value[key])
        return library.OptionalValue.none()

    kind = library.OptionalValue
    context.add_function(syntax.OPTIONAL, get)

    def held(value: Any) -> list[Any]:
        if not isinstance(value, kind):
            raise TypeError("No such overload: an optional value is wanted")
        return [value.value()] if value.has_value() else []

    def flat(found: list[Any]) -> Any:  # the library takes optional values in a list for what they hold
        return found[0] if found and isinstance(found[0], kind) else kind.of(found[0]) if found else kind.none()

    context.add_function(syntax.OPTIONAL_LIST, held)
    context.add_function(syntax.OPTIONAL_FIRST, lambda found: kind.of(found[0]) if found else kind.none())
    context.add_function(syntax.OPTIONAL_FLAT, flat)
    return context


def optional(value: Any) -> Any:
    """Return an optional value as expressions see it: of None there is none."""
    kind = _library().OptionalValue
    return kind.none() if value is None else kind.of(value)
