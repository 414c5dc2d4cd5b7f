"""The rules that a custom resource's schema states in CEL (`x-kubernetes-validations`): compile them, judge by them.

After k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel. A schema without rules costs nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.cel import engine, syntax
from netplane.controlplane.registry.crd import rules
from netplane.controlplane.registry.crd.structural import Schema
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import times

KEY = "x-kubernetes-validations"
_REASONS = ("FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate")
_VARIABLES = ("self", "oldSelf")
_METADATA = ("name", "generateName")
_MISSING = object()
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule."""

    program: engine.Program
    message: str
    message_program: engine.Program | None
    reason: str
    field_path: str
    is_transition: bool
    is_optional: bool


@dataclass(slots=True)
class Node:
    """The rules of a schema and of what is below it; branches without rules are not there."""

    schema: Schema
    rules: list[Rule] = field(default_factory=list)
    properties: dict[str, Node] = field(default_factory=dict)
    items: Node | None = None
    additional: Node | None = None


def has_rules(schema: Any) -> bool:
    """Whether a schema states rules anywhere."""
    if isinstance(schema, dict):
        return bool(schema.get(KEY)) or any(has_rules(each) for name, each in schema.items() if name != "default")
    return isinstance(schema, list) and any(has_rules(each) for each in schema)


def compiled(schema: Schema) -> Node | None:
    """Return the rules of a schema, None when there are none; raise CompileError."""
    node = Node(schema)
    node.rules = [_rule(each) for each in schema.get(KEY) or ()]
    for name, child in (schema.get("properties") or {}).items():
        below = compiled(child)
        if below is not None:
            node.properties[name] = below
    if isinstance(schema.get("items"), dict):
        node.items = compiled(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        node.additional = compiled(schema["additionalProperties"])
    return node if node.rules or node.properties or node.items or node.additional else None


def _rule(stated: Mapping[str, Any]) -> Rule:
    program = engine.Program(stated.get("rule") or "", _VARIABLES)
    expression = stated.get("messageExpression")
    return Rule(
        program=program,
        message=(stated.get("message") or "").strip(),
        message_program=engine.Program(expression, _VARIABLES) if expression else None,
        reason=stated.get("reason") or _REASONS[0],
        field_path=stated.get("fieldPath") or "",
        is_transition="oldSelf" in program.names,
        is_optional=bool(stated.get("optionalOldSelf")),
    )


def definition_faults(schema: Schema, path: str) -> list[Fault]:
    """Return every fault of the rules that a schema states; `path` is its own in the definition."""
    found: list[Fault] = []
    if has_rules(schema):
        _definition(schema, path, found, is_correlated=True)
    return found


def _definition(schema: Schema, path: str, found: list[Fault], *, is_correlated: bool) -> None:
    for index, stated in enumerate(schema.get(KEY) or ()):
        found += _stated(schema, stated, f"{path}.{KEY}[{index}]", is_correlated=is_correlated)
    for name, child in (schema.get("properties") or {}).items():
        _definition(child, f"{path}.properties[{name}]", found, is_correlated=is_correlated)
    if isinstance(schema.get("items"), dict):
        keyed = is_correlated and schema.get("x-kubernetes-list-type") == "map"
        _definition(schema["items"], f"{path}.items", found, is_correlated=keyed)
    if isinstance(schema.get("additionalProperties"), dict):
        below = schema["additionalProperties"]
        _definition(below, f"{path}.additionalProperties", found, is_correlated=is_correlated)


def _stated(schema: Schema, stated: Mapping[str, Any], path: str, *, is_correlated: bool) -> list[Fault]:
    text = stated.get("rule") or ""
    if not text.strip():
        return [faults.required(f"{path}.rule", "rule is not specified")]
    found: list[Fault] = []
    try:
        rule = _rule({**stated, "messageExpression": None})
    except engine.CompileError as error:
        return [faults.invalid(f"{path}.rule", text, str(error))]
    found += [faults.invalid(f"{path}.rule", text, each) for each in _type_problems(schema, rule, text)]
    if (rule.is_transition or rule.is_optional) and not is_correlated:
        detail = "oldSelf cannot be used on the uncorrelatable portion of the schema"
        found.append(faults.invalid(f"{path}.rule", text, detail))
    if rule.is_optional and not rule.is_transition:
        detail = "may not be set if oldSelf is not used in rule"
        found.append(faults.invalid(f"{path}.optionalOldSelf", True, detail))
    if stated.get("messageExpression"):
        try:
            engine.Program(stated["messageExpression"], _VARIABLES)
        except engine.CompileError as error:
            found.append(faults.invalid(f"{path}.messageExpression", stated["messageExpression"], str(error)))
    if "\n" in rule.message:
        found.append(faults.invalid(f"{path}.message", rule.message, "message must not contain line breaks"))
    if rule.reason not in _REASONS:
        found.append(faults.not_supported(f"{path}.reason", rule.reason, _REASONS))
    if rule.field_path and not _leads_somewhere(schema, rule.field_path):
        detail = "fieldPath must be a valid path"
        found.append(faults.invalid(f"{path}.fieldPath", rule.field_path, detail))
    return found


def _leads_somewhere(schema: Schema, path: str) -> bool:
    if not path.startswith("."):
        return False
    for step in path[1:].split("."):
        schema = (schema.get("properties") or {}).get(step.partition("[")[0], _MISSING)
        if schema is _MISSING:
            return False
    return True


def _type_problems(schema: Schema, rule: Rule, text: str) -> Iterator[str]:
    """Yield what shows that a rule cannot work: fields that are not there, types that do not go together.

    The library judges types as it evaluates; a value made up from the schema brings that to light.
    """
    found = syntax.words(text)
    for root in _VARIABLES if not rule.is_optional else ("self",):
        for steps in syntax.chains(found, root):
            missing = _undefined(schema, steps)
            if missing:
                yield f"compilation failed: ERROR: undefined field '{missing}'"
                return
    made = _example(schema, is_root=True)
    value = value_of(made, schema, is_root=True)
    old = engine.optional(value) if rule.is_optional else value
    try:
        outcome = rule.program.evaluate({"self": value, "oldSelf": old}, engine.Budget(), engine.size(value))
    except engine.MismatchError:
        yield "compilation failed: ERROR: found no matching overload"
    except engine.EvaluationError:
        return
    else:
        if not isinstance(outcome, bool):
            yield f"cel expression must evaluate to a bool, not {type(outcome).__name__}"


def _undefined(schema: Schema, steps: tuple[str, ...]) -> str:
    is_root = True
    for step in steps:
        if is_root and step in ("apiVersion", "kind", "metadata"):
            return ""
        is_root = False
        properties = schema.get("properties")
        if not properties or schema.get("x-kubernetes-preserve-unknown-fields"):
            return "" if schema.get("type") in (None, "", "object", "array") else step
        known = {syntax.escape(name): child for name, child in properties.items()}
        if step not in known:
            return step
        schema = known[step]
    return ""


def _example(schema: Schema, *, is_root: bool = False) -> Any:
    if "default" in schema:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "")
    if kind == "object":
        made = {name: _example(child) for name, child in (schema.get("properties") or {}).items() if _is_plain(child)}
        if isinstance(schema.get("additionalProperties"), dict) and _is_plain(schema["additionalProperties"]):
            made["a"] = _example(schema["additionalProperties"])
        if is_root:
            made["metadata"] = {"name": "a"}
        return made
    if kind == "array":
        items = schema.get("items") or {}
        return [_example(items)] if _is_plain(items) else []
    formats = {"date-time": "2000-01-01T00:00:00Z", "duration": "1s"}
    example = {"integer": 1, "number": 1.0, "boolean": True, "string": formats.get(schema.get("format", ""), "a")}
    return example.get(kind)


def _is_plain(schema: Schema) -> bool:
    return bool(schema.get("type")) and not schema.get("nullable") and not schema.get("x-kubernetes-int-or-string")


def judge(node: Node, obj: Any, old: Any = None) -> list[Fault]:
    """Return every rule that an object breaks; `old` is what it replaces.

    What is as it was is judged by rules about the change alone: an object that once was good stays writable.
    """
    found: list[Fault] = []
    budget = engine.Budget()
    try:
        _judge(node, obj, old, "", found, budget, is_root=True)
    except _Exhausted as error:
        found.append(error.fault)
    return found


class _Exhausted(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def _judge(
    node: Node, value: Any, old: Any, path: str, found: list[Fault], budget: engine.Budget, *, is_root: bool = False
) -> None:
    if value is None:
        return
    if node.rules:
        _apply(node, value, old, path, found, budget, is_root=is_root)
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        prefix = f"{path}." if path else ""
        for name, each in value.items():
            below = node.properties.get(name) or (node.additional if name not in node.properties else None)
            if below is not None:
                _judge(below, each, before.get(name), f"{prefix}{name}", found, budget)
    elif isinstance(value, list) and node.items is not None:
        known = rules.counterparts(node.schema, old)
        for index, each in enumerate(value):
            was = known.get(rules.identity(node.schema, each)) if known else None
            _judge(node.items, each, was, f"{path}[{index}]", found, budget)


def _apply(
    node: Node, value: Any, old: Any, path: str, found: list[Fault], budget: engine.Budget, *, is_root: bool
) -> None:
    is_same = old is not None and value == old
    shown = value_of(value, node.schema, is_root=is_root)
    before = value_of(old, node.schema, is_root=is_root) if old is not None else None
    size = engine.size(shown)
    if before is not None:
        other = engine.size(before)
        size = engine.Size(size.parts + other.parts, max(size.longest, other.longest))
    for rule in node.rules:
        if rule.is_transition and not rule.is_optional and old is None:
            continue
        if is_same and not rule.is_transition:
            continue
        variables = {"self": shown, "oldSelf": engine.optional(before) if rule.is_optional else before}
        at = path + rule.field_path if path else rule.field_path.removeprefix(".")
        fault = _broken(rule, variables, at, str(node.schema.get("type", "object")), budget, size)
        if fault is not None:
            found.append(fault)


def _broken(
    rule: Rule, variables: Mapping[str, Any], path: str, kind: str, budget: engine.Budget, size: engine.Size
) -> Fault | None:
    try:
        outcome = rule.program.evaluate(variables, budget, size)
    except engine.EvaluationError as error:
        detail = str(error) if budget.left < 0 else f"rule evaluation error: {error}: {rule.program.expression}"
        fault = faults.invalid(path or "<nil>", kind, detail)
        if budget.left < 0:
            raise _Exhausted(fault) from error
        return fault
    if outcome is True:
        return None
    message = _message(rule, variables, budget, size)
    if rule.reason == "FieldValueForbidden":
        return faults.forbidden(path, message)
    if rule.reason == "FieldValueRequired":
        return faults.required(path, message)
    if rule.reason == "FieldValueDuplicate":
        return faults.duplicate(path, kind)
    return faults.invalid(path or "<nil>", kind, message)


def _message(rule: Rule, variables: Mapping[str, Any], budget: engine.Budget, size: engine.Size) -> str:
    if rule.message_program is not None:
        try:
            told = rule.message_program.evaluate(variables, budget, size)
        except engine.EvaluationError:
            told = ""
        if isinstance(told, str) and told.strip() and "\n" not in told and len(told) <= 5000:
            return told.strip()
    return rule.message or f"failed rule: {rule.program.expression}"


def value_of(value: Any, schema: Schema, *, is_root: bool = False) -> Any:
    """Return a value as expressions see it: numbers by their schema's type, times as times, names spelt out."""
    if isinstance(value, dict):
        properties, additional = schema.get("properties") or {}, schema.get("additionalProperties")
        out: dict[str, Any] = {}
        for name, each in value.items():
            if is_root and name == "metadata":
                out[name] = {key: each[key] for key in _METADATA if key in each}
            elif name in properties:
                out[syntax.escape(name)] = value_of(each, properties[name])
            else:
                out[name] = value_of(each, additional) if isinstance(additional, dict) else each
        return out
    if isinstance(value, list):
        items = schema.get("items") or {}
        return [value_of(each, items) for each in value]
    if schema.get("type") == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if schema.get("type") == "integer" and isinstance(value, float):
        return int(value)
    if isinstance(value, str) and schema.get("format") in ("date-time", "duration"):
        return _time(value, schema["format"])
    return value


def _duration(text: str) -> timedelta:
    """Read a duration as Go writes it; raise ValueError."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.lstrip("+-"):
        raise ValueError(f"{text!r} is no duration")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return timedelta(seconds=-seconds if text.startswith("-") else seconds)


def _time(text: str, kind: str) -> Any:
    try:
        if kind == "date-time":
            return times.parse(text)
        return _duration(text)
    except ValueError:
        return text
