"""Parse and evaluate label and field selectors. Which objects to ask is the caller's.

Grammar: k8s.io/apimachinery/pkg/labels and /fields. `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`,
`a>1`, `a<1`, joined by commas, all of which must hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]

_TERM = re.compile(
    r"""\s*(?:
        !\s*(?P<absent>[^\s,=!<>()]+)
      | (?P<key>[^\s,=!<>()]+)\s*(?:
            (?P<compare>==|=|!=|>|<)\s*(?P<value>[^\s,=!<>()]*)
          | (?P<set>(?<=\s)in|(?<=\s)notin)\s*\((?P<values>[^()]*)\)
        )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)
_NAME = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)"
_KEY = re.compile(rf"(?:(?=.{{1,253}}/)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*/)?{_NAME}")
_VALUE = re.compile(rf"{_NAME}?")
_FIELD = re.compile(r"\s*(?P<path>(?:\\.|[^\\=!])*)(?P<operator>!=|==|=)(?P<value>(?:\\[\\,=]|[^\\,=])*)", re.DOTALL)
_FIELD_TERM = re.compile(r"(?:\\.|[^\\,]|\\$)+", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_COMPARE: dict[str, Operator] = {"=": "In", "==": "In", "!=": "NotIn", ">": "Gt", "<": "Lt"}
_SET: dict[str, Operator] = {"in": "In", "notin": "NotIn"}
_EXPRESSION: dict[str, Operator] = {
    "In": "In",
    "NotIn": "NotIn",
    "Exists": "Exists",
    "DoesNotExist": "DoesNotExist",
    "Gt": "Gt",
    "Lt": "Lt",
}


class SelectorError(ValueError):
    """The text or object is no selector; says which part."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels meet it. NotIn and DoesNotExist hold when the label is missing."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return value is not None and self._compares(value)

    def _compares(self, value: str) -> bool:
        try:
            left, right = int(value), int(self.values[0])
        except ValueError:
            return False
        return left > right if self.operator == "Gt" else left < right

    def __str__(self) -> str:
        match self.operator:
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case "Gt" | "Lt":
                return f"{self.key}{'>' if self.operator == 'Gt' else '<'}{self.values[0]}"
            case _ if len(self.values) == 1:
                return f"{self.key}{'=' if self.operator == 'In' else '!='}{self.values[0]}"
            case _:
                return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold. Without any it selects everything; `NOTHING` selects nothing."""

    requirements: tuple[Requirement, ...] = ()
    selects_nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """Whether an object with these labels is selected."""
        if self.selects_nothing:
            return False
        given = labels or {}
        return all(requirement.matches(given) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = Selector()
NOTHING = Selector(selects_nothing=True)


def parse(text: str) -> Selector:
    """Return the label selector written as in a URL or after `kubectl -l`. Raises SelectorError."""
    requirements, position = [], 0
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None or (term.end() == len(text) and text.rstrip().endswith(",")):
            raise SelectorError(f"cannot parse selector {text!r} at {text[position:]!r}")
        requirements.append(_requirement(term))
        position = term.end()
    return Selector(tuple(requirements))


def _requirement(term: re.Match[str]) -> Requirement:
    if term["absent"]:
        return _named(Requirement(term["absent"], "DoesNotExist"))
    if term["compare"]:
        return _named(_checked(Requirement(term["key"], _COMPARE[term["compare"]], (term["value"],))))
    if term["set"]:
        values = tuple(sorted({value.strip() for value in term["values"].split(",")}))
        return _named(Requirement(term["key"], _SET[term["set"]], values))
    return _named(Requirement(term["key"], "Exists"))


def _named(requirement: Requirement) -> Requirement:
    """Return a requirement whose key and values some label could have."""
    if not _KEY.fullmatch(requirement.key):
        raise SelectorError(f"key: Invalid value: {requirement.key!r}: not a label's key, as app or example.com/role")
    if requirement.operator in ("In", "NotIn"):
        for value in requirement.values:
            if not _VALUE.fullmatch(value):
                raise SelectorError(f"values: Invalid value: {value!r}: not a label's value, as 1.2_a")
    return requirement


def _checked(requirement: Requirement) -> Requirement:
    if requirement.operator in ("Gt", "Lt") and not requirement.values[0].lstrip("-").isdigit():
        raise SelectorError(f"selector {requirement}: {requirement.values[0]!r} is not an integer")
    return requirement


def from_map(labels: Mapping[str, str]) -> Selector:
    """Return the selector that wants each of these labels, as a Service's `spec.selector` means it."""
    return Selector(tuple(Requirement(key, "In", (value,)) for key, value in sorted(labels.items())))


def from_object(selector: Mapping[str, Any] | None) -> Selector:
    """Return what a metav1.LabelSelector means: missing selects nothing, empty selects everything."""
    if selector is None:
        return NOTHING
    wanted = from_map(selector.get("matchLabels") or {})
    expressions = tuple(_expression(expression) for expression in selector.get("matchExpressions") or ())
    return Selector(wanted.requirements + expressions)


def _expression(expression: Mapping[str, Any]) -> Requirement:
    key, values = str(expression.get("key") or ""), tuple(map(str, expression.get("values") or ()))
    operator = _EXPRESSION.get(str(expression.get("operator")))
    if not key or operator is None:
        raise SelectorError(f"matchExpressions: {dict(expression)!r} needs a key and a known operator")
    if bool(values) != (operator not in ("Exists", "DoesNotExist")):
        raise SelectorError(f"matchExpressions: {key} {operator}: values {'missing' if not values else 'not allowed'}")
    return _checked(Requirement(key, operator, values))


def matches(selector: Selector | str | Mapping[str, Any] | None, labels: Mapping[str, str] | None) -> bool:
    """Whether labels are selected by a Selector, its text, or a metav1.LabelSelector object."""
    if isinstance(selector, str):
        return parse(selector).matches(labels)
    return (selector if isinstance(selector, Selector) else from_object(selector)).matches(labels)


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    """One condition on one field, named by its path: `spec.nodeName`."""

    path: str
    value: str
    is_negated: bool = False

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether the object's field, as text and "" when missing, equals the value."""
        return (field(obj, self.path) == self.value) != self.is_negated


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Conditions on fields that must all hold."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether the object is selected."""
        return all(requirement.matches(obj) for requirement in self.requirements)


def parse_fields(text: str) -> FieldSelector:
    """Return the field selector written as in a URL: `spec.nodeName=n1,status.phase!=Failed`. Raises SelectorError."""
    requirements = []
    for term in (part for part in _FIELD_TERM.findall(text) if part.strip()):
        found = _FIELD.fullmatch(term)
        if found is None or not found["path"].strip():
            why = "want path=value or path!=value, and a backslash before each comma, equals sign and backslash in it"
            raise SelectorError(f"cannot parse field selector {text!r} at {term!r}: {why}")
        value = _ESCAPED.sub(r"\1", found["value"]).strip()
        requirements.append(FieldRequirement(found["path"].strip(), value, is_negated=found["operator"] == "!="))
    return FieldSelector(tuple(requirements))


def field(obj: Mapping[str, Any], path: str) -> str:
    """Return the text of the field at a dotted path, "" when there is none."""
    value: Any = obj
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return ""
        value = value[part]
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
