"""The subresource eviction: a deletion that a PodDisruptionBudget may forbid for now.

What a budget allows is counted by its controller (controllers/disruption) and spent here
(pkg/registry/core/pod/storage/eviction.go, KEP-3017 for Pods that are not ready).
"""

from __future__ import annotations

from dataclasses import replace

import orjson

from netplane.controlplane.api import (
    admission,
    admitting,
    cluster,
    deleting,
    http,
    options,
    reading,
    status,
    writing,
)  # fmt: skip
from netplane.controlplane.registry import types
from netplane.controlplane.store import protocol
from netplane.kube import select
from netplane.kube.types import Key, Object

_DISRUPTED = "DisruptionTarget"
_BUDGETS = "poddisruptionbudgets.policy"
_RACE_ATTEMPTS = 32


async def evict(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a POST of an Eviction: a deletion, unless a PodDisruptionBudget forbids it now (429)."""
    assert request.target is not None
    key = (request.target.namespace, request.target.name)
    raw = await request.body()
    body = writing.any_object(raw, request.content_type) if raw.strip() else {}
    wanted = _options(request, body)
    admission.before_delete(request.user, of, _pod(at, of, key, wanted))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", **body}
    await admitting.check_part(at, request, of, eviction, is_dry_run=wanted.is_dry_run)
    for _ in range(_RACE_ATTEMPTS):
        allowed = await _allowed(at, _pod(at, of, key, wanted), wanted)
        try:
            await deleting.remove(at, request.user, of, key, allowed, mark=lambda pod: disrupt(pod, now=at.now()))
        except status.ApiStatus as refusal:
            if refusal.code == 409 and allowed is not wanted:
                continue  # the pod is another than the one that was judged: it may be ready now
            raise
        done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return http.json(201, done)
    raise status.conflict(of, key[1])


def disrupt(pod: Object, *, now: str) -> None:
    """Write into a pod why it goes: Jobs with a podFailurePolicy and whoever looks at it can tell (KEP-3329). Pure."""
    told = {"status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
    shown = pod.setdefault("status", {})
    conditions = shown["conditions"] = list(shown.get("conditions") or ())
    held = next((each for each in conditions if each.get("type") == _DISRUPTED), None)
    if held is None:
        conditions.append({"type": _DISRUPTED, **told, "lastTransitionTime": now})
    else:
        since = held.get("lastTransitionTime") if held.get("status") == "True" else now
        held.update(told, lastTransitionTime=since)


def _options(request: http.Request, body: Object) -> options.Deleting:
    assert request.target is not None
    if ((body.get("metadata") or {}).get("name") or request.target.name) != request.target.name:
        raise status.bad_request("name in URL does not match name in Eviction object")
    given = body.get("deleteOptions")
    if not isinstance(given, dict | None):
        raise status.bad_request("deleteOptions: Invalid value: must be an object")
    return options.deleting(request.query, given)


def _pod(at: cluster.Cluster, of: types.ResourceType, key: Key, wanted: options.Deleting) -> Object:
    """Return the pod as it is now; raise 404, and 409 when it is not the one that is meant."""
    pod: Object = orjson.loads(reading.newest(at, of, key).value)
    deleting.check_preconditions(of, pod, wanted)
    return pod


async def _allowed(at: cluster.Cluster, pod: Object, wanted: options.Deleting) -> options.Deleting:
    """Return how the pod may be deleted, its budget spent where it counts; raise 429 when it may not be now.

    A pod that does not count must be gone before it does: it is deleted as it was seen, or judged anew.
    """
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed") or pod["metadata"].get("deletionTimestamp"):
        return wanted
    as_seen = replace(wanted, resource_version=pod["metadata"]["resourceVersion"])
    if phase == "Pending":
        return as_seen
    budget = _budget_of(at, pod)
    if budget is None:
        return wanted
    if not _is_ready(pod) and _lets_unready_go(budget):
        return as_seen
    await _spend(at, budget["metadata"]["name"], pod, is_dry_run=wanted.is_dry_run)
    return wanted


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _lets_unready_go(budget: Object) -> bool:
    if budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    shown = budget.get("status") or {}
    desired = int(shown.get("desiredHealthy") or 0)
    return desired > 0 and int(shown.get("currentHealthy") or 0) >= desired


def _budget_of(at: cluster.Cluster, pod: Object) -> Object | None:
    metadata = pod["metadata"]
    budgets = [orjson.loads(each.value) for each in at.store.cache(_BUDGETS).range(namespace=metadata["namespace"])]
    mine: list[Object] = [b for b in budgets if select.matches(b["spec"].get("selector"), metadata.get("labels"))]
    if len(mine) > 1:
        raise status.internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    return mine[0] if mine else None


async def _spend(at: cluster.Cluster, name: str, pod: Object, *, is_dry_run: bool) -> None:
    """Take one disruption off the newest state of a budget: others may be evicting at the same time."""
    metadata = pod["metadata"]
    for _ in range(_RACE_ATTEMPTS):
        record = at.store.latest(_BUDGETS, (metadata["namespace"], name))
        if record is None:
            return
        budget = spent(orjson.loads(record.value), metadata["name"], now=at.now())
        if is_dry_run:
            return
        try:
            await writing.keep(at.store.update(_BUDGETS, budget, expected=record.revision))
        except (protocol.Conflict, protocol.Missing):
            await at.store.fresh()
            continue
        return
    raise _not_now(f"couldn't update PodDisruptionBudget {name} due to conflicts", 10)


def spent(budget: Object, pod: str, *, now: str) -> Object:
    """Return a budget (the caller's own) after the eviction of a pod; raise 429 when it allows none. Pure."""
    name, shown = budget["metadata"]["name"], budget.setdefault("status", {})
    if shown.get("observedGeneration", 0) < int(budget["metadata"].get("generation") or 0):
        raise _not_now(f"The disruption budget {name} is still being processed by the server.", 10)
    if shown.get("disruptionsAllowed", 0) <= 0:
        desired, current = shown.get("desiredHealthy", 0), shown.get("currentHealthy", 0)
        raise _not_now(f"The disruption budget {name} needs {desired} healthy pods and has {current} currently", 0)
    shown["disruptionsAllowed"] -= 1
    shown.setdefault("disruptedPods", {})[pod] = now
    return budget


def _not_now(message: str, retry_after: int) -> status.ApiStatus:
    cause = {"reason": "DisruptionBudget", "message": message}
    text = "Cannot evict pod as it would violate the pod's disruption budget."
    return status.too_many(text, retry_after=retry_after, causes=[cause])
