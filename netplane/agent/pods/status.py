"""Write a pod's status as the kubelet does, from what is known of it. Sending it is `report`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from netplane.agent.pods import qos, resize
from netplane.agent.pods.decide import Decision
from netplane.agent.pods.observed import Observed, Waiting, is_running, verdict
from netplane.agent.pods.spec import Container, Pod
from netplane.agent.runtime.protocol import ContainerStatus
from netplane.kube import meta
from netplane.kube.types import Object
from netplane.lib.clock import rfc3339

OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
PASSING_CONDITIONS = ("PodResizePending", "PodResizeInProgress")
"""Ours too; they are there only while they are true."""


@dataclass(frozen=True, slots=True)
class Extra:
    """What a status needs beside the pod: `host_ips` of the node, why starts failed, what programs left as message."""

    runtime: str
    host_ips: tuple[str, ...]
    failures: Mapping[str, Waiting] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)


def status(seen: Observed, decision: Decision, extra: Extra, before: Mapping[str, Any]) -> Object:
    """Return the pod's status; `before` is the last one written, whose transition times are kept."""
    pod = seen.pod
    init = [_container_status(seen, c, decision, extra, before, "initContainerStatuses") for c in pod.init_containers]
    main = [_container_status(seen, c, decision, extra, before, "containerStatuses") for c in pod.containers]
    added = [
        _container_status(seen, c, decision, extra, before, "ephemeralContainerStatuses")
        for c in pod.ephemeral_containers
    ]
    is_over = (bool(pod.deleted_at) or seen.gone or decision.finished) and not any(map(is_running, seen.containers))
    ended = verdict(seen)
    phase = "Failed" if ended else _phase(pod, init, main, is_over=is_over)
    if before.get("phase") in ("Succeeded", "Failed"):
        phase = before["phase"]
    ips = _ips(seen, extra, before)
    result: Object = {
        "phase": phase,
        "conditions": _conditions(seen, phase, init, main, before),
        **({"reason": ended.reason, "message": ended.message} if ended else {}),
        **({"hostIP": extra.host_ips[0], "hostIPs": [{"ip": ip} for ip in extra.host_ips]} if extra.host_ips else {}),
        **({"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]} if ips else {}),
        "startTime": rfc3339(seen.started_at or seen.now),
        **({"initContainerStatuses": init} if init else {}),
        "containerStatuses": main,
        **({"ephemeralContainerStatuses": added} if added else {}),
        "qosClass": before.get("qosClass") or qos.class_of(pod),
    }
    return result


def _ips(seen: Observed, extra: Extra, before: Mapping[str, Any]) -> tuple[str, ...]:
    if seen.pod.host_network:
        return extra.host_ips if seen.sandboxes else ()
    for sandbox in seen.sandboxes:
        if sandbox.ips:
            return sandbox.ips
    return tuple(entry["ip"] for entry in before.get("podIPs") or ())


def _phase(pod: Pod, init: Sequence[Object], main: Sequence[Object], *, is_over: bool) -> str:
    """The kubelet's getPhase."""
    plain = [s for s, c in zip(init, pod.init_containers, strict=True) if not c.is_sidecar]
    sidecars = [s for s, c in zip(init, pod.init_containers, strict=True) if c.is_sidecar]
    if pod.restart_policy == "Never" and any(_ended(s) and _ended(s)["exitCode"] for s in plain):
        return "Failed"
    began = any("running" in s["state"] or "terminated" in s["state"] or s["lastState"] for s in main)
    if not began and not is_over and any(not _ended(s) or _ended(s)["exitCode"] for s in plain):
        return "Pending"
    if not began and not is_over and any(not s.get("started") for s in sidecars):
        return "Pending"
    if not is_over and any("waiting" in s["state"] and not s["lastState"] for s in main):
        return "Pending"
    if any("running" in s["state"] for s in main):
        return "Running"
    ends = [_ended(s) for s in main]
    if not any(ends):
        return "Failed" if is_over else "Pending"
    if not is_over and (pod.restart_policy == "Always" or any("waiting" in s["state"] for s in main)):
        return "Running"
    if all(end and end["exitCode"] == 0 for end in ends):
        return "Succeeded"
    return "Failed" if pod.restart_policy == "Never" or is_over else "Running"


def _ended(status: Object) -> Object:
    found: Object = status["state"].get("terminated") or status["lastState"].get("terminated") or {}
    return found


def _container_status(
    seen: Observed, container: Container, decision: Decision, extra: Extra, before: Mapping[str, Any], group: str
) -> Object:
    latest = seen.latest(container.name)
    waiting = decision.waiting.get(container.name) or extra.failures.get(container.name)
    known = next((s for s in before.get(group) or () if s["name"] == container.name), None)
    if latest is None and known and known.get("containerID"):
        return _lost(seen, container, known)
    previous = [s for s in seen.containers if s.name == container.name and s.state == "exited"]
    result: Object = {"name": container.name, "state": {}, "lastState": {}, "ready": False, "restartCount": 0}
    result |= {"image": container.image, "imageID": "", "started": False}
    if latest is None:
        result["state"] = {"waiting": _waiting(waiting or _first_waiting(seen, container))}
        return _with_mounts(result, container)
    ending = extra.messages.get(latest.id, "")
    if latest.state == "running":
        result["state"] = {"running": {"startedAt": rfc3339(latest.started_at or latest.created_at)}}
    elif latest.state != "exited":
        result["state"] = {"waiting": _waiting(waiting or Waiting("ContainerCreating"))}
    elif waiting:
        result["state"] = {"waiting": _waiting(waiting)}
        result["lastState"] = {"terminated": _terminated(latest, extra.runtime, ending)}
    else:
        result["state"] = {"terminated": _terminated(latest, extra.runtime, ending)}
    earlier = next((s for s in previous if s.id != latest.id), None)
    if earlier and not result["lastState"]:
        message = extra.messages.get(earlier.id, "")
        result["lastState"] = {"terminated": _terminated(earlier, extra.runtime, message)}
    is_done = latest.state == "exited" and latest.exit_code == 0
    runs_to_its_end = container.is_init and not container.is_sidecar
    result |= {
        "ready": is_done if runs_to_its_end else not container.is_ephemeral and seen.is_ready(container, latest),
        "started": not container.is_ephemeral and seen.is_started(container, latest),
        "restartCount": latest.attempt,
        "image": latest.image or container.image,
        "imageID": latest.image_ref,
        "containerID": f"{extra.runtime}://{latest.id}",
    }
    return _with_mounts(_with_resources(seen, result, container, latest), container)


def _with_resources(seen: Observed, result: Object, container: Container, latest: ContainerStatus) -> Object:
    """Tell what the container was allotted, and what holds for the one that runs."""
    if not container.requests and not container.limits:
        return result
    if container.requests:
        result["allocatedResources"] = dict(container.requests)
    now = seen.applied.get(latest.id, resize.share(container))
    held = {
        "requests": {**dict(container.requests), **dict(now.requests)},
        "limits": {**dict(container.limits), **dict(now.limits)},
    }
    result["resources"] = {kind: amounts for kind, amounts in held.items() if amounts}
    return result


def _with_mounts(result: Object, container: Container) -> Object:
    if container.mounts:
        result["volumeMounts"] = [
            {
                "name": mount["name"],
                "mountPath": mount["mountPath"],
                **({"readOnly": True, "recursiveReadOnly": "Disabled"} if mount.get("readOnly") else {}),
            }
            for mount in container.mounts
        ]
    return result


def _lost(seen: Observed, container: Container, known: Mapping[str, Any]) -> Object:
    """The runtime has forgotten it: what ran ended we know not how; what had ended stays as it was."""
    if "running" not in known["state"]:
        return dict(known)
    end = {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": "The container could not be located when the pod was terminated",
        "startedAt": None,
        "finishedAt": None,
    }
    if seen.pod.deleted_at or container.is_ephemeral:
        return {**known, "ready": False, "started": False, "state": {"terminated": end}}
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    return {**known, "ready": False, "started": False, "state": waiting, "lastState": {"terminated": end}}


def _first_waiting(seen: Observed, container: Container) -> Waiting:
    is_initializing = bool(seen.pod.init_containers) and (not container.is_init or seen.sandbox is not None)
    return Waiting("PodInitializing" if is_initializing else "ContainerCreating")


def _waiting(waiting: Waiting) -> Object:
    return {"reason": waiting.reason, **({"message": waiting.message} if waiting.message else {})}


def _terminated(status: ContainerStatus, runtime: str, message: str) -> Object:
    text = message or status.message
    return {
        "exitCode": status.exit_code,
        "reason": status.reason or ("Error" if status.exit_code else "Completed"),
        **({"message": text} if text else {}),
        "startedAt": _moment(status.started_at or status.created_at),
        "finishedAt": _moment(status.finished_at),
        "containerID": f"{runtime}://{status.id}",
    }


def _moment(when: datetime | None) -> str | None:
    return rfc3339(when) if when else None


def _conditions(
    seen: Observed, phase: str, init: Sequence[Object], main: Sequence[Object], before: Mapping[str, Any]
) -> list[Object]:
    is_done = phase in ("Succeeded", "Failed")
    initialized = _initialized(seen.pod, init, main, phase)
    containers = _containers_ready(seen.pod, init, main, phase)
    ready = containers if containers[0] is False else _gates(seen.pod)
    found = {
        "PodReadyToStartContainers": (seen.sandbox is not None and not is_done, "", ""),
        "Initialized": initialized,
        "Ready": ready,
        "ContainersReady": containers,
    }
    current: Sequence[Mapping[str, Any]] = _merged(seen.pod, before)
    for kind in OWN_CONDITIONS:
        is_true, reason, message = found[kind]
        current = meta.with_condition(current, kind, is_true, now=seen.now, reason=reason, message=message)
    for kind, claim in _passing(seen).items():
        if claim is None:
            current = [c for c in current if c["type"] != kind]
        else:
            current = meta.with_condition(current, kind, True, now=seen.now, reason=claim[0], message=claim[1])
    own = [dict(c) for kind in OWN_CONDITIONS for c in current if c["type"] == kind]
    return own + [dict(c) for c in current if c["type"] not in OWN_CONDITIONS]


def _merged(pod: Pod, before: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Our own conditions as we last wrote them, those of others (PodScheduled, readiness gates) as the API has them."""
    ours = (*OWN_CONDITIONS, *PASSING_CONDITIONS)
    own = [c for c in before.get("conditions") or () if c["type"] in ours]
    others = [c for c in pod.status.get("conditions") or () if c["type"] not in ours]
    return own + others


def _passing(seen: Observed) -> dict[str, tuple[str, str] | None]:
    """Return the conditions of a resize: reason and message of what is so now."""
    pending = (seen.pending.reason, seen.pending.message) if seen.pending else None
    containers = {container.name: container for container in seen.pod.all_containers}
    is_behind = any(
        status.state == "running" and status.id in seen.applied and status.name in containers
        and seen.applied[status.id] != resize.share(containers[status.name])
        for status in seen.containers
    )  # fmt: skip
    progress = ("Error" if seen.resize_error else "", seen.resize_error) if is_behind else None
    return {"PodResizePending": pending, "PodResizeInProgress": progress}


Claim = tuple[bool, str, str]


def _initialized(pod: Pod, init: Sequence[Object], main: Sequence[Object], phase: str) -> Claim:
    began = any("running" in s["state"] or "terminated" in s["state"] or s["lastState"] for s in main)
    sidecars = {c.name for c in pod.init_containers if c.is_sidecar}
    pending = [s["name"] for s in init if not (s["started"] if s["name"] in sidecars else s["ready"])]
    if phase == "Succeeded":
        return True, "PodCompleted" if init else "", ""
    if began or not pending:
        return True, "", ""
    return False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(pending)}]"


def _containers_ready(pod: Pod, init: Sequence[Object], main: Sequence[Object], phase: str) -> Claim:
    if phase == "Succeeded":
        return False, "PodCompleted", ""
    if phase == "Failed":
        return False, "PodFailed", ""
    sidecars = {c.name for c in pod.init_containers if c.is_sidecar}
    relevant = [s for s in init if s["name"] in sidecars] + list(main)
    unready = [s["name"] for s in relevant if not s["ready"]]
    if unready:
        return False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    return True, "", ""


def _gates(pod: Pod) -> Claim:
    """Readiness gates: conditions that others must have set (KEP-580)."""
    faults = []
    for gate in pod.spec.get("readinessGates") or ():
        kind = gate["conditionType"]
        entry = meta.condition(pod.obj, kind)
        if entry is None:
            faults.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif entry.get("status") != "True":
            faults.append(f'the status of pod readiness gate "{kind}" is not "True", but {entry.get("status")}')
    return (False, "ReadinessGatesNotReady", ", ".join(faults)) if faults else (True, "", "")
