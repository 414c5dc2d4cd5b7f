"""What nodes, namespaces, configuration, roles, events and the other smaller types must fulfil."""

from __future__ import annotations

import ipaddress
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.validate import template_faults
from netplane.controlplane.registry.rules import labels, names
from netplane.kube.types import Object

_MAX_SECRET = 1024 * 1024
_IMMUTABLE = "field is immutable"
_WHEN_SET = "field is immutable when `immutable` is set"
_SECRET_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def config_map(obj: Object) -> list[Fault]:
    """Return every fault of a ConfigMap."""
    data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
    found = _keys(data, "data") + _keys(binary, "binaryData")
    for key in sorted(data.keys() & binary.keys()):
        found.append(faults.invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
    size = sum(len(each.encode()) for each in data.values()) + sum(len(each) * 3 // 4 for each in binary.values())
    return [*found, faults.too_long("", _MAX_SECRET)] if size > _MAX_SECRET else found


def _keys(data: Object, path: str) -> list[Fault]:
    return [faults.invalid(f"{path}[{key}]", key, reason) for key in data for reason in names.config_key(key)]


def config_map_update(new: Object, old: Object) -> list[Fault]:
    """An immutable ConfigMap stays as it is."""
    return _frozen(new, old, ("data", "binaryData"))


def _frozen(new: Object, old: Object, fields: tuple[str, ...]) -> list[Fault]:
    if not old.get("immutable"):
        return []
    found: list[Fault] = []
    if not new.get("immutable"):
        found.append(faults.forbidden("immutable", _WHEN_SET))
    return found + [faults.forbidden(each, _WHEN_SET) for each in fields if new.get(each) != old.get(each)]


def secret(obj: Object) -> list[Fault]:
    """Return every fault of a Secret."""
    data = obj.get("data") or {}
    found = _keys(data, "data")
    if sum(len(each) * 3 // 4 for each in data.values()) > _MAX_SECRET:
        found.append(faults.too_long("data", _MAX_SECRET))
    kind = obj["type"]
    found += [faults.required(f"data[{key}]") for key in _SECRET_KEYS.get(kind, ()) if key not in data]
    annotations = obj["metadata"].get("annotations") or {}
    if kind == "kubernetes.io/service-account-token" and not annotations.get("kubernetes.io/service-account.name"):
        found.append(faults.required("metadata.annotations[kubernetes.io/service-account.name]"))
    if kind == "kubernetes.io/basic-auth" and not data.keys() & {"username", "password"}:
        found += [faults.required("data[username]"), faults.required("data[password]")]
    return found


def secret_update(new: Object, old: Object) -> list[Fault]:
    """A Secret's type never changes; an immutable one stays as it is."""
    found = _frozen(new, old, ("data",))
    return found if new["type"] == old["type"] else [*found, faults.invalid("type", new["type"], _IMMUTABLE)]


def node(obj: Object) -> list[Fault]:
    """Return every fault of a Node."""
    spec = obj.get("spec") or {}
    found: list[Fault] = []
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(spec.get("taints") or ()):
        at = f"spec.taints[{index}]"
        key, value, effect = taint.get("key", ""), taint.get("value", ""), taint.get("effect", "")
        found += [faults.invalid(f"{at}.key", key, each) for each in names.qualified(key)]
        found += [faults.invalid(f"{at}.value", value, each) for each in names.label_value(value)]
        if not effect:
            found.append(faults.required(f"{at}.effect"))
        elif effect not in _EFFECTS:
            found.append(faults.not_supported(f"{at}.effect", effect, _EFFECTS))
        if (key, effect) in seen:
            found.append(faults.duplicate(at, f"taints must be unique by key and effect: {key}:{effect}"))
        seen.add((key, effect))
    cidrs = spec.get("podCIDRs") or []
    for index, each in enumerate(cidrs):
        found += [faults.invalid(f"spec.podCIDRs[{index}]", each, reason) for reason in names.cidr(each)]
    versions = [] if found else [ipaddress.ip_network(each, strict=False).version for each in cidrs]
    if len(cidrs) > 2 or len(set(versions)) < len(versions):
        detail = "may specify no more than one CIDR for each IP family"
        found.append(faults.invalid("spec.podCIDRs", cidrs, detail))
    return found


def node_update(new: Object, old: Object) -> list[Fault]:
    """A node's pod networks and provider never change once they are set."""
    found: list[Fault] = []
    for name, told in (("podCIDRs", "podCIDR"), ("providerID", "providerID")):
        was, now = (old.get("spec") or {}).get(name), (new.get("spec") or {}).get(name)
        if was and was != now:
            detail = f'node updates may not change {told} except from "" to valid'
            found.append(faults.forbidden(f"spec.{name}", detail))
    return found


def event(obj: Object) -> list[Fault]:
    """Return every fault of an Event: it lives in the namespace of what it is about."""
    involved = (obj.get("involvedObject") or {}).get("namespace", "")
    namespace = obj["metadata"].get("namespace", "")
    if (involved or "default") != namespace and not (involved == "" and namespace == "kube-system"):
        return [faults.invalid("involvedObject.namespace", involved, "does not match event.namespace")]
    return []


def new_event(obj: Object) -> list[Fault]:
    """Return what a new Event of events.k8s.io lacks: who reports what he did, why and when."""
    found: list[Fault] = []
    if not obj.get("eventTime"):
        found.append(faults.required("eventTime"))
    else:
        needed = ("reportingController", "reportingInstance", "action", "reason")
        found += [faults.required(each) for each in needed if not obj.get(each)]
        reporter = obj.get("reportingController") or ""
        if reporter:
            found += [faults.invalid("reportingController", reporter, each) for each in names.qualified(reporter)]
        for name, most in (("reportingInstance", 128), ("action", 128), ("reason", 128), ("note", 1024)):
            if len(obj.get(name) or "") > most:
                told = "message" if name == "note" else name
                found.append(faults.invalid(told, "", f"can have at most {most} characters"))
    if obj.get("type") not in ("Normal", "Warning"):
        found.append(faults.invalid("type", "", f"has invalid value: {obj.get('type', '')}"))
    for name in ("FirstTimestamp", "LastTimestamp", "Count", "Source"):
        if obj.get(f"deprecated{name}"):
            found.append(faults.invalid(name[0].lower() + name[1:], "", "needs to be unset"))
    return found


def pod_template(obj: Object) -> list[Fault]:
    """Return every fault of a PodTemplate."""
    return template_faults(obj["template"], "template")


def cluster_role(obj: Object) -> list[Fault]:
    """Return every fault of a ClusterRole, whose rules may name URLs."""
    return _rules(obj, is_namespaced=False)


def role(obj: Object) -> list[Fault]:
    """Return every fault of a Role."""
    return _rules(obj, is_namespaced=True)


def _rules(obj: Object, *, is_namespaced: bool) -> list[Fault]:
    found: list[Fault] = []
    for index, rule in enumerate(obj.get("rules") or ()):
        at = f"rules[{index}]"
        urls = rule.get("nonResourceURLs") or []
        if not rule.get("verbs"):
            found.append(faults.required(f"{at}.verbs", "verbs must contain at least one value"))
        if urls:
            if is_namespaced:
                detail = "namespaced rules cannot apply to non-resource URLs"
                found.append(faults.invalid(f"{at}.nonResourceURLs", urls, detail))
            if any(rule.get(each) for each in ("apiGroups", "resources", "resourceNames")):
                detail = "rules cannot apply to both regular resources and non-resource URLs"
                found.append(faults.invalid(f"{at}.nonResourceURLs", urls, detail))
            continue
        if not rule.get("apiGroups"):
            found.append(faults.required(f"{at}.apiGroups", "resource rules must supply at least one api group"))
        if not rule.get("resources"):
            found.append(faults.required(f"{at}.resources", "resource rules must supply at least one resource"))
    return found


def cluster_role_binding(obj: Object) -> list[Fault]:
    """Return every fault of a ClusterRoleBinding, which binds cluster roles only."""
    return _binding(obj, ("ClusterRole",))


def role_binding(obj: Object) -> list[Fault]:
    """Return every fault of a RoleBinding."""
    return _binding(obj, ("Role", "ClusterRole"))


def _binding(obj: Object, kinds: tuple[str, ...]) -> list[Fault]:
    role = obj["roleRef"]
    found: list[Fault] = []
    if role["apiGroup"] != "rbac.authorization.k8s.io":
        found.append(faults.not_supported("roleRef.apiGroup", role["apiGroup"], ("rbac.authorization.k8s.io",)))
    if role.get("kind") not in kinds:
        found.append(faults.not_supported("roleRef.kind", role.get("kind", ""), kinds))
    if not role.get("name"):
        found.append(faults.required("roleRef.name"))
    else:
        found += [faults.invalid("roleRef.name", role["name"], each) for each in names.path_segment(role["name"])]
    for index, subject in enumerate(obj.get("subjects") or ()):
        found += _subject(subject, f"subjects[{index}]")
    return found


def _subject(subject: Object, path: str) -> list[Fault]:
    kind, name, group = subject.get("kind"), subject.get("name", ""), subject.get("apiGroup", "")
    found = [] if name else [faults.required(f"{path}.name")]
    if kind == "ServiceAccount":
        if name:
            found += [faults.invalid(f"{path}.name", name, each) for each in names.subdomain(name)]
        if group:
            found.append(faults.not_supported(f"{path}.apiGroup", group, ("",)))
        if not subject.get("namespace"):
            found.append(faults.required(f"{path}.namespace"))
    elif kind in ("User", "Group"):
        if group != "rbac.authorization.k8s.io":
            found.append(faults.not_supported(f"{path}.apiGroup", group, ("rbac.authorization.k8s.io",)))
    else:
        found.append(faults.not_supported(f"{path}.kind", kind or "", ("Group", "ServiceAccount", "User")))
    return found


def binding_update(new: Object, old: Object) -> list[Fault]:
    """A binding's role never changes."""
    if new["roleRef"] == old["roleRef"]:
        return []
    return [faults.invalid("roleRef", new["roleRef"], "cannot change roleRef")]


def lease(obj: Object) -> list[Fault]:
    """Return every fault of a Lease."""
    spec = obj.get("spec") or {}
    found: list[Fault] = []
    if spec.get("leaseDurationSeconds", 1) <= 0:
        value = spec["leaseDurationSeconds"]
        found.append(faults.invalid("spec.leaseDurationSeconds", value, "must be greater than 0"))
    if spec.get("leaseTransitions", 0) < 0:
        found.append(faults.invalid("spec.leaseTransitions", spec["leaseTransitions"], names.NOT_NEGATIVE))
    return found


def disruption_budget(obj: Object) -> list[Fault]:
    """Return every fault of a PodDisruptionBudget."""
    spec = obj.get("spec") or {}
    found: list[Fault] = []
    if "minAvailable" in spec and "maxUnavailable" in spec:
        found.append(faults.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set"))
    for name in ("minAvailable", "maxUnavailable"):
        found += _amount(spec[name], f"spec.{name}") if name in spec else []
    found += labels.selector_faults(spec.get("selector") or {}, "spec.selector")
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None and policy not in ("AlwaysAllow", "IfHealthyBudget"):
        supported = ("AlwaysAllow", "IfHealthyBudget")
        found.append(faults.not_supported("spec.unhealthyPodEvictionPolicy", policy, supported))
    return found


def _amount(value: Any, path: str) -> list[Fault]:
    if not isinstance(value, str):
        return [faults.invalid(path, value, names.NOT_NEGATIVE)] if value < 0 else []
    if not names.is_percent(value):
        return [faults.invalid(path, value, names.PERCENT_TEXT)]
    return [faults.invalid(path, value, "must not be greater than 100%")] if int(value[:-1]) > 100 else []


def priority_class(obj: Object) -> list[Fault]:
    """Return every fault of a PriorityClass."""
    value, name = obj.get("value", 0), obj["metadata"].get("name", "")
    if name.startswith("system-") and name not in ("system-node-critical", "system-cluster-critical"):
        return [
            faults.forbidden(
                "metadata.name", "priority class names with 'system-' prefix are reserved for system use only"
            )
        ]
    if value > 10**9 and not name.startswith("system-"):
        return [faults.forbidden("value", f"maximum allowed value of a user defined priority is {10**9}")]
    return []


def priority_class_update(new: Object, old: Object) -> list[Fault]:
    """A class's value and preemption never change."""
    found: list[Fault] = []
    for name in ("value", "preemptionPolicy"):
        if new.get(name) != old.get(name):
            found.append(faults.forbidden(name, "may not be changed in an update."))
    return found
