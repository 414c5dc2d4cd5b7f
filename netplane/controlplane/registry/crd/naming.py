"""Which names a CustomResourceDefinition gets, and what its conditions say.

After apiextensions-apiserver's controller/status/naming_controller.go and controller/apiapproval.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from netplane.kube.types import Object

APPROVED = "api-approved.kubernetes.io"
_SEE = "see https://github.com/kubernetes/enhancements/pull/1111"
_CONFLICTS = (("plural", "Plural"), ("singular", "Singular"), ("kind", "Kind"), ("listKind", "ListKind"))
_KINDS = ("kind", "listKind")


def condition(kind: str, *, holds: bool, reason: str, message: str) -> Object:
    """Return a condition without its time."""
    return {"type": kind, "status": "True" if holds else "False", "reason": reason, "message": message}


def is_true(crd: Object, kind: str) -> bool:
    """Whether a condition of a definition is there and true."""
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == kind and each.get("status") == "True" for each in conditions)


def has_all_names(crd: Object) -> bool:
    """Whether a definition has the names it asks for."""
    return bool((crd.get("status") or {}).get("acceptedNames") == crd["spec"]["names"])


def accepted(crd: Object, others: Iterable[Object]) -> tuple[Object, Object]:
    """Return the names that a definition has among the `others` of its group, and the condition NamesAccepted."""
    wanted: Object = crd["spec"]["names"]
    had: Object = (crd.get("status") or {}).get("acceptedNames") or {}
    held: list[Object] = [(each.get("status") or {}).get("acceptedNames") or {} for each in others]
    kinds = {names[field] for names in held for field in _KINDS if names.get(field)}
    resources = {names[field] for names in held for field in ("plural", "singular") if names.get(field)}
    resources.update(short for names in held for short in names.get("shortNames") or ())
    names, reason, message = dict(had), "", ""
    for field, title in _CONFLICTS:
        taken = kinds if field in _KINDS else resources
        value = wanted.get(field, "")
        if value != had.get(field) and value in taken:
            reason, message = f"{title}Conflict", f'"{value}" is already in use'
        else:
            names[field] = value
    clashes = [each for each in wanted.get("shortNames") or () if each in resources]
    if clashes:
        told = ", ".join(f'"{each}" is already in use' for each in clashes)
        reason, message = "ShortNamesConflict", f"[{told}]" if len(clashes) > 1 else told
    else:
        _take(names, wanted, "shortNames")
    _take(names, wanted, "categories")
    if reason:
        return names, condition("NamesAccepted", holds=False, reason=reason, message=message)
    return names, condition("NamesAccepted", holds=True, reason="NoConflicts", message="no conflicts found")


def _take(names: Object, wanted: Object, field: str) -> None:
    if wanted.get(field):
        names[field] = wanted[field]
    else:
        names.pop(field, None)


def conditions(crd: Object, names_accepted: Object) -> list[Object]:
    """Return the conditions of a definition that is not going away, without their times.

    Once established it stays so: what it asks for anew waits until it can have it.
    """
    made = [names_accepted]
    if is_true(crd, "Established") or names_accepted["status"] == "True":
        message = "the initial names have been accepted"
        made.append(condition("Established", holds=True, reason="InitialNamesAccepted", message=message))
    else:
        message = "not all names are accepted"
        made.append(condition("Established", holds=False, reason="NotAccepted", message=message))
    if is_protected(crd["spec"]["group"]):
        state, message = approval(crd)
        reason = {"Approved": "ApprovedAnnotation", "Bypassed": "UnapprovedAnnotation"}.get(state, f"{state}Annotation")
        kind = "KubernetesAPIApprovalPolicyConformant"
        made.append(condition(kind, holds=state == "Approved", reason=reason, message=message))
    return made


def put(crd: Object, wanted: Iterable[Object], now: str) -> None:
    """Set conditions of a definition; one keeps its time for as long as it keeps its status."""
    known: list[Object] = crd.setdefault("status", {}).setdefault("conditions", [])
    for each in wanted:
        old: Any = next((one for one in known if one.get("type") == each["type"]), None)
        if old is None:
            known.append({"lastTransitionTime": now, **each})
            continue
        if old.get("status") != each["status"]:
            old["lastTransitionTime"] = now
        old.update(each)


def is_protected(group: str) -> bool:
    """Whether a group is the Kubernetes project's own."""
    return any(group == name or group.endswith(f".{name}") for name in ("k8s.io", "kubernetes.io"))


def approval(crd: Object) -> tuple[str, str]:
    """Return the state of a definition in such a group (Missing, Bypassed, Approved, Invalid), and why."""
    text = str((crd["metadata"].get("annotations") or {}).get(APPROVED) or "")
    if not text:
        return "Missing", f'protected groups must have approval annotation "{APPROVED}", {_SEE}'
    if text.startswith("unapproved"):
        return "Bypassed", f'not approved: "{text}"'
    try:
        url = urlsplit(text)
    except ValueError:
        url = urlsplit("")
    if url.scheme and url.netloc:
        return "Approved", f"approved in {text}"
    either = 'with either a URL or a reason starting with "unapproved"'
    return "Invalid", f'protected groups must have approval annotation "{APPROVED}" {either}, {_SEE}'
