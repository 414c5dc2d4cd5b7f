"""Say what an object uses of a ResourceQuota, which quotas are about it, and which of them it would exceed. Pure.

Source: k8s.io/kubernetes/pkg/quota/v1/evaluator/core and apiserver/pkg/admission/plugin/resourcequota.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from netplane.kube import quantity
from netplane.kube.types import Object

Usage = dict[str, Decimal]
_ONE = Decimal(1)
_COUNTED = frozenset({"configmaps", "secrets", "replicationcontrollers", "resourcequotas", "services", "pods",
                      "persistentvolumeclaims"})  # fmt: skip
_PLAIN = ("cpu", "memory", "ephemeral-storage")
_DEMANDED = frozenset({"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"})
_CLASS = ".storageclass.storage.k8s.io/"
_AFFINITIES = ("podAffinity", "podAntiAffinity")


def usage(plural: str, group: str, obj: Object) -> Usage:
    """Return what one object counts for."""
    out: Usage = {f"count/{plural}.{group}" if group else f"count/{plural}": _ONE}
    if group or plural not in _COUNTED:
        return out
    if plural == "pods":
        return out | _pod(obj)
    out[plural] = _ONE
    if plural == "services":
        out |= _service(obj)
    elif plural == "persistentvolumeclaims":
        out |= _claim(obj)
    return out


def _pod(pod: Object) -> Usage:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return {}
    spec, out = pod.get("spec") or {}, {"pods": _ONE}
    for name, amount in pod_total(spec, "requests").items():
        if name in _PLAIN or name.startswith("hugepages-"):
            out[name] = amount
        out[f"requests.{name}"] = amount
    for name, amount in pod_total(spec, "limits").items():
        out[f"limits.{name}"] = amount
    return out


def pod_total(spec: Object, kind: str) -> Usage:
    """Return a pod's requests or limits: its containers together, or the hungriest moment of its start; overhead."""
    total: Usage = {}
    for container in spec.get("containers") or ():
        _add(total, _amounts(container, kind))
    sidecars, peak = Usage(), Usage()
    for container in spec.get("initContainers") or ():
        wanted = _amounts(container, kind)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, wanted)
            wanted = Usage()
            _add(wanted, sidecars)
        else:
            _add(wanted, sidecars)
        for name, amount in wanted.items():
            peak[name] = max(peak.get(name, Decimal(0)), amount)
    _add(total, sidecars)
    for name, amount in peak.items():
        total[name] = max(total.get(name, Decimal(0)), amount)
    if kind == "requests" or total:
        overhead = {name: quantity.parse(text) for name, text in (spec.get("overhead") or {}).items()}
        _add(total, {name: amount for name, amount in overhead.items() if kind == "requests" or name in total})
    return total


def _amounts(container: Object, kind: str) -> Usage:
    given = (container.get("resources") or {}).get(kind) or {}
    return {name: quantity.parse(text) for name, text in given.items()}


def _add(total: Usage, more: Mapping[str, Decimal]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Decimal(0)) + amount


def _service(service: Object) -> Usage:
    spec = service.get("spec") or {}
    ports, kind = spec.get("ports") or (), spec.get("type")
    out = {"services.nodeports": Decimal(0), "services.loadbalancers": Decimal(0)}
    if kind == "NodePort":
        out["services.nodeports"] = Decimal(len(ports))
    elif kind == "LoadBalancer":
        out["services.loadbalancers"] = _ONE
        if spec.get("allocateLoadBalancerNodePorts", True):
            out["services.nodeports"] = Decimal(len(ports))
        else:
            out["services.nodeports"] = Decimal(sum(bool(port.get("nodePort")) for port in ports))
    return out


def _claim(claim: Object) -> Usage:
    spec = claim.get("spec") or {}
    asked = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    name = spec.get("storageClassName")
    out: Usage = {f"{name}{_CLASS}persistentvolumeclaims": _ONE} if name else {}
    if asked is not None:
        amount = quantity.parse(asked)
        out["requests.storage"] = amount
        if name:
            out[f"{name}{_CLASS}requests.storage"] = amount
    return out


def concerns(quota: Object, plural: str, group: str, obj: Object) -> bool:
    """Whether a quota's scopes choose an object; a quota with scopes is about pods alone."""
    spec = quota.get("spec") or {}
    chosen = [{"scopeName": each, "operator": "Exists"} for each in spec.get("scopes") or ()]
    chosen += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    if not chosen:
        return True
    return plural == "pods" and not group and all(_in_scope(each, obj) for each in chosen)


def _in_scope(chosen: Mapping[str, Any], pod: Object) -> bool:
    name, spec = chosen["scopeName"], pod.get("spec") or {}
    if name == "PriorityClass":
        return _has_priority(chosen, spec.get("priorityClassName") or "")
    is_terminating = spec.get("activeDeadlineSeconds") is not None
    is_best_effort = not any(
        (each.get("resources") or {}).get(kind)
        for each in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        for kind in ("requests", "limits")
    )
    return {
        "Terminating": is_terminating,
        "NotTerminating": not is_terminating,
        "BestEffort": is_best_effort,
        "NotBestEffort": not is_best_effort,
        "CrossNamespacePodAffinity": _crosses(spec),
    }.get(name, False)


def _has_priority(chosen: Mapping[str, Any], name: str) -> bool:
    values = chosen.get("values") or ()
    return {
        "In": name in values,
        "NotIn": name not in values,
        "Exists": bool(name),
        "DoesNotExist": not name,
    }.get(chosen.get("operator", ""), False)


def _crosses(spec: Object) -> bool:
    affinity = spec.get("affinity") or {}
    for kind in _AFFINITIES:
        terms = affinity.get(kind) or {}
        found = list(terms.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        preferred = terms.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        found += [each.get("podAffinityTerm") or {} for each in preferred]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in found):
            return True
    return False


def hard(quota: Object) -> Usage:
    """Return a quota's bounds."""
    return {name: quantity.parse(text) for name, text in ((quota.get("spec") or {}).get("hard") or {}).items()}


def used(quota: Object) -> Usage:
    """Return what a quota says is used."""
    return {name: quantity.parse(text) for name, text in ((quota.get("status") or {}).get("used") or {}).items()}


def texts(amounts: Mapping[str, Decimal], like: Mapping[str, str]) -> dict[str, str]:
    """Return amounts as quantities, in the unit family in which the bounds are written."""
    return {name: _text(amount, like.get(name, "")) for name, amount in sorted(amounts.items())}


def _text(amount: Decimal, like: str) -> str:
    if like.endswith("i") and amount % 1024 == 0 and amount:
        return quantity.canonical(f"{int(amount) // 1024}Ki")
    return quantity.canonical(format(amount, "f"))


def undeclared(quota: Object, pod: Object) -> str:
    """Return what a pod's containers must say because a quota counts it: `cpu for: c1; memory for: c1`; "" if all."""
    wanted = sorted(_DEMANDED & set((quota.get("spec") or {}).get("hard") or {}))
    spec = pod.get("spec") or {}
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    missing: list[str] = []
    for name in wanted:
        kind, _, resource = name.rpartition(".")
        field = kind or "requests"
        without = [c["name"] for c in containers if resource not in ((c.get("resources") or {}).get(field) or {})]
        if without:
            missing.append(f"{name} for: {','.join(sorted(without))}")
    return "; ".join(missing)


def exceeded(quota: Object, delta: Mapping[str, Decimal], now_used: Mapping[str, Decimal]) -> Sequence[str]:
    """Return the names of the bounds that adding `delta` would break."""
    return sorted(
        name
        for name, bound in hard(quota).items()
        if delta.get(name, Decimal(0)) > 0 and now_used.get(name, Decimal(0)) + delta[name] > bound
    )
