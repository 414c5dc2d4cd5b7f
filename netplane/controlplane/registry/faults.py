"""Why an object is refused: one `Fault` per cause, worded as the real API words it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from netplane.kube.types import Object


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why an object is refused: a cause of a `Status` with reason Invalid.

    `field` is a path such as `spec.ports[0].port`; `reason` is `FieldValueRequired`, `FieldValueInvalid`, ...;
    `message` is what the real API prints after the path: `Invalid value: 0: must be between 1 and 65535, inclusive`.
    """

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"

    def cause(self) -> Object:
        """The fault as an entry of `Status.details.causes`."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


def required(field: str, detail: str = "") -> Fault:
    """A value is missing."""
    return Fault(field, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def invalid(field: str, value: Any, detail: str) -> Fault:
    """A value breaks a rule."""
    return Fault(field, "FieldValueInvalid", f"Invalid value: {shown(value)}: {detail}")


def bare(field: str, detail: str) -> Fault:
    """A value breaks a rule; it is too large to be told again."""
    return Fault(field, "FieldValueInvalid", f"Invalid value: {detail}")


def wrong_type(field: str, value: Any, detail: str) -> Fault:
    """A value is of another type than its schema says."""
    return Fault(field, "FieldValueTypeInvalid", f"Invalid value: {shown(value)}: {detail}")


def not_supported(field: str, value: Any, supported: Iterable[str]) -> Fault:
    """A value is not one of those that are known."""
    names = ", ".join(shown(each) for each in supported)
    return Fault(field, "FieldValueNotSupported", f"Unsupported value: {shown(value)}: supported values: {names}")


def duplicate(field: str, value: Any) -> Fault:
    """A value that must be unique occurs twice."""
    return Fault(field, "FieldValueDuplicate", f"Duplicate value: {shown(value)}")


def forbidden(field: str, detail: str) -> Fault:
    """A value may not be set here, or may not change."""
    return Fault(field, "FieldValueForbidden", f"Forbidden: {detail}")


def too_long(field: str, limit: int) -> Fault:
    """A text has more bytes than it may have."""
    return Fault(field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(field: str, count: int, limit: int) -> Fault:
    """A list has more items than it may have."""
    return Fault(field, "FieldValueTooMany", f"Too many: {count}: must have at most {limit} items")


def not_found(field: str, value: Any) -> Fault:
    """A name refers to nothing."""
    return Fault(field, "FieldValueNotFound", f"Not found: {shown(value)}")


def shown(value: Any) -> str:
    """Return a value as faults quote it: texts, and lists and maps of texts, as Go prints them; the rest as JSON."""
    if isinstance(value, str):
        return orjson.dumps(value).decode()
    if value and isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return f"[]string{{{', '.join(map(shown, value))}}}"
    if value and isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return f"map[string]string{{{', '.join(f'{shown(key)}:{shown(value[key])}' for key in sorted(value))}}}"
    if value is None:
        return "null"
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS, default=str).decode()


def summary(faults: Sequence[Fault]) -> str:
    """Return all faults in one line, as the message of a Status holds them: each once, in order."""
    texts = list(dict.fromkeys(str(each) for each in faults))
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def status(faults: Sequence[Fault], *, kind: str, group: str, name: str) -> Object:
    """Return the 422 Status that refuses the object, with every fault among its causes."""
    qualified = f"{kind}.{group}" if group else kind
    details: Object = {"name": name, "group": group, "kind": kind, "causes": [each.cause() for each in faults]}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f'{qualified} "{name}" is invalid: {summary(faults)}',
        "reason": "Invalid",
        "details": {k: v for k, v in details.items() if v},
        "code": 422,
    }
