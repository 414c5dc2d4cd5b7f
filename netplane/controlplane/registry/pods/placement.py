"""What node selectors, affinity, tolerations and spread constraints must fulfil."""

from __future__ import annotations

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import labels, metadata, names
from netplane.kube.types import Object

_NODE_OPERATORS = ("DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")
_INCLUSIONS = ("Honor", "Ignore")


def placement_faults(spec: Object, path: str) -> list[Fault]:
    """Return every fault of what says where a pod may run."""
    found = metadata.label_faults(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")
    if "affinity" in spec:
        found += _affinity(spec["affinity"], f"{path}.affinity")
    for index, each in enumerate(spec.get("tolerations") or ()):
        found += _toleration(each, f"{path}.tolerations[{index}]")
    return found + _spread(spec.get("topologySpreadConstraints") or [], f"{path}.topologySpreadConstraints")


def _affinity(affinity: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    node = affinity.get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
    at = f"{path}.nodeAffinity"
    if required is not None:
        found += node_selector_faults(required, f"{at}.requiredDuringSchedulingIgnoredDuringExecution")
    for index, each in enumerate(node.get("preferredDuringSchedulingIgnoredDuringExecution") or ()):
        where = f"{at}.preferredDuringSchedulingIgnoredDuringExecution[{index}]"
        found += _weight(each, where) + _node_term(each.get("preference") or {}, f"{where}.preference")
    for kind in ("podAffinity", "podAntiAffinity"):
        found += _pod_affinity(affinity.get(kind) or {}, f"{path}.{kind}")
    return found


def node_selector_faults(selector: Object, path: str) -> list[Fault]:
    """Return every fault of a NodeSelector."""
    where, terms = f"{path}.nodeSelectorTerms", selector.get("nodeSelectorTerms") or []
    found = [] if terms else [faults.required(where, "must have at least one node selector term")]
    for index, term in enumerate(terms):
        found += _node_term(term, f"{where}[{index}]")
    return found


def _weight(term: Object, path: str) -> list[Fault]:
    weight = term.get("weight", 0)
    return [] if 1 <= weight <= 100 else [faults.invalid(f"{path}.weight", weight, "must be in the range 1-100")]


def _node_term(term: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    for index, each in enumerate(term.get("matchExpressions") or ()):
        at = f"{path}.matchExpressions[{index}]"
        found += _node_requirement(each, at)
        found += [faults.invalid(f"{at}.key", each.get("key"), text) for text in names.qualified(each.get("key", ""))]
    for index, each in enumerate(term.get("matchFields") or ()):
        at = f"{path}.matchFields[{index}]"
        if each.get("key") != "metadata.name":
            found.append(faults.invalid(f"{at}.key", each.get("key", ""), "not a valid field selector key"))
        if each.get("operator") not in ("In", "NotIn"):
            found.append(faults.invalid(f"{at}.operator", each.get("operator", ""), "not a valid selector operator"))
        elif len(each.get("values") or ()) != 1:
            detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            found.append(faults.required(f"{at}.values", detail))
    return found


def _node_requirement(requirement: Object, path: str) -> list[Fault]:
    operator, values = requirement.get("operator", ""), requirement.get("values") or []
    if operator not in _NODE_OPERATORS:
        return [faults.invalid(f"{path}.operator", operator, "not a valid selector operator")]
    if operator in ("In", "NotIn") and not values:
        return [faults.required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")]
    if operator in ("Exists", "DoesNotExist") and values:
        detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        return [faults.forbidden(f"{path}.values", detail)]
    if operator in ("Gt", "Lt") and len(values) != 1:
        return [faults.required(f"{path}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")]
    return []


def _pod_affinity(affinity: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    for index, each in enumerate(affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or ()):
        found += _pod_term(each, f"{path}.requiredDuringSchedulingIgnoredDuringExecution[{index}]")
    for index, each in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()):
        at = f"{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}]"
        found += _weight(each, at) + _pod_term(each.get("podAffinityTerm") or {}, f"{at}.podAffinityTerm")
    return found


def _pod_term(term: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    for name in ("labelSelector", "namespaceSelector"):
        if name in term:
            found += labels.selector_faults(term[name], f"{path}.{name}")
    for name in ("matchLabelKeys", "mismatchLabelKeys"):
        found += _label_keys(term, name, path)
    matched = term.get("matchLabelKeys") or ()
    for index, each in enumerate(term.get("mismatchLabelKeys") or ()):
        if each in matched:
            detail = "exists in both matchLabelKeys and mismatchLabelKeys"
            found.append(faults.invalid(f"{path}.mismatchLabelKeys[{index}]", each, detail))
    for each in term.get("namespaces") or ():
        found += [faults.invalid(f"{path}.namespace", each, text) for text in names.label(each)]
    key = term.get("topologyKey", "")
    if not key:
        return [*found, faults.required(f"{path}.topologyKey", "can not be empty")]
    return found + [faults.invalid(f"{path}.topologyKey", key, text) for text in names.qualified(key)]


def _label_keys(term: Object, name: str, path: str) -> list[Fault]:
    keys, at = term.get(name) or (), f"{path}.{name}"
    if not keys:
        return []
    if "labelSelector" not in term:
        return [faults.forbidden(at, "must not be specified when labelSelector is not set")]
    return [
        faults.invalid(f"{at}[{index}]", key, text) for index, key in enumerate(keys) for text in names.qualified(key)
    ]


def _toleration(toleration: Object, path: str) -> list[Fault]:
    key, operator = toleration.get("key", ""), toleration.get("operator", "")
    value, effect = toleration.get("value", ""), toleration.get("effect", "")
    found = [faults.invalid(f"{path}.key", key, text) for text in names.qualified(key)] if key else []
    if not key and operator != "Exists":
        detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        found.append(faults.invalid(f"{path}.operator", operator, detail))
    if "tolerationSeconds" in toleration and effect != "NoExecute":
        detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        found.append(faults.invalid(f"{path}.effect", effect, detail))
    if operator in ("", "Equal"):
        found += [faults.invalid(f"{path}.operator", value, text) for text in names.label_value(value)]
    elif operator == "Exists":
        if value:
            detail = "value must be empty when `operator` is 'Exists'"
            found.append(faults.invalid(f"{path}.operator", toleration, detail))
    else:
        found.append(faults.not_supported(f"{path}.operator", operator, ("Equal", "Exists")))
    if effect and effect not in _EFFECTS:
        found.append(faults.not_supported(f"{path}.effect", effect, _EFFECTS))
    return found


def _spread(constraints: list[Object], path: str) -> list[Fault]:
    found: list[Fault] = []
    seen: set[tuple[str, str]] = set()
    for index, each in enumerate(constraints):
        at = f"{path}[{index}]"
        if each.get("maxSkew", 0) <= 0:
            found.append(faults.invalid(f"{at}.maxSkew", each.get("maxSkew", 0), "must be greater than zero"))
        key, action = each.get("topologyKey", ""), each.get("whenUnsatisfiable", "")
        found += [] if key else [faults.required(f"{at}.topologyKey", "can not be empty")]
        if action not in _UNSATISFIABLE:
            found.append(faults.not_supported(f"{at}.whenUnsatisfiable", action, _UNSATISFIABLE))
        if (key, action) in seen:
            found.append(faults.duplicate(f"{at}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {action}}}"))
        seen.add((key, action))
        if each.get("minDomains", 1) <= 0:
            found.append(faults.invalid(f"{at}.minDomains", each["minDomains"], "must be greater than zero"))
        if "minDomains" in each and action != "DoNotSchedule":
            detail = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
            found.append(faults.invalid(f"{at}.minDomains", each["minDomains"], detail))
        for name in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if name in each and each[name] not in _INCLUSIONS:
                found.append(faults.not_supported(f"{at}.{name}", each[name], _INCLUSIONS))
        found += _spread_selector(each, at)
    return found


def _spread_selector(constraint: Object, path: str) -> list[Fault]:
    found = _label_keys(constraint, "matchLabelKeys", path)
    if "labelSelector" not in constraint:
        return found
    selector = constraint["labelSelector"]
    selected = {*(selector.get("matchLabels") or ()), *(e.get("key") for e in selector.get("matchExpressions") or ())}
    for index, key in enumerate(constraint.get("matchLabelKeys") or ()):
        if key in selected:
            detail = "exists in both matchLabelKeys and labelSelector"
            found.append(faults.invalid(f"{path}.matchLabelKeys[{index}]", key, detail))
    return found + labels.selector_faults(selector, f"{path}.labelSelector")
