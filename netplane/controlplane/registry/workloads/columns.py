"""What tables print of deployments, sets and jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from netplane.controlplane.registry.rules import times
from netplane.controlplane.registry.rules.labels import map_text, selector_text
from netplane.controlplane.registry.types import Column
from netplane.kube.types import Object

_NAME = Column("Name", format="name")
_AGE = Column("Age")
_CONTAINERS = Column("Containers", description="Names of each container in the template.", priority=1)
_IMAGES = Column("Images", description="Images referenced by each container in the template.", priority=1)
_WIDE = (_CONTAINERS, _IMAGES, Column("Selector", priority=1))


def _counts(*names: str) -> tuple[Column, ...]:
    return tuple(Column(each, "integer") for each in names)


DEPLOYMENT = (_NAME, Column("Ready"), Column("Up-to-date"), Column("Available"), _AGE, *_WIDE)
REPLICA_SET = (_NAME, *_counts("Desired", "Current", "Ready"), _AGE, *_WIDE)
DAEMON_SET = (
    _NAME,
    *_counts("Desired", "Current", "Ready", "Up-to-date", "Available"),
    Column("Node Selector"),
    _AGE,
    *_WIDE,
)
STATEFUL_SET = (_NAME, Column("Ready"), _AGE, _CONTAINERS, _IMAGES)
JOB = (_NAME, Column("Status"), Column("Completions"), Column("Duration"), _AGE, *_WIDE)
CRON_JOB = (
    _NAME,
    Column("Schedule"),
    Column("Timezone"),
    Column("Suspend", "boolean"),
    Column("Active", "integer"),
    Column("Last Schedule"),
    _AGE,
    *_WIDE,
)
SCALE = (_NAME, *_counts("Desired", "Available"), _AGE)
CONTROLLER_REVISION = (_NAME, Column("Controller"), Column("Revision"), _AGE)


def _parts(obj: Object) -> tuple[str, Object, Object, str]:
    metadata = obj["metadata"]
    return metadata["name"], obj.get("spec") or {}, obj.get("status") or {}, metadata.get("creationTimestamp", "")


def images(template: Object | None) -> list[str]:
    """The names and images of a template's containers, each joined by commas."""
    containers = ((template or {}).get("spec") or {}).get("containers") or ()
    return [
        ",".join(each.get("name", "") for each in containers),
        ",".join(each.get("image", "") for each in containers),
    ]


def deployment(obj: Object, now: datetime) -> list[Any]:
    """One row of deployments."""
    name, spec, status, created = _parts(obj)
    return [
        name,
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}",
        str(status.get("updatedReplicas", 0)),
        str(status.get("availableReplicas", 0)),
        times.age(created, now),
        *images(spec.get("template")),
        selector_text(spec.get("selector")),
    ]


def replica_set(obj: Object, now: datetime) -> list[Any]:
    """One row of replica sets; of replication controllers, whose selector is a map."""
    name, spec, status, created = _parts(obj)
    selector = spec.get("selector") or {}
    is_map = obj.get("kind") == "ReplicationController"
    return [
        name,
        spec.get("replicas", 1),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        times.age(created, now),
        *images(spec.get("template")),
        map_text(selector) if is_map else selector_text(selector),
    ]


def daemon_set(obj: Object, now: datetime) -> list[Any]:
    """One row of daemon sets."""
    name, spec, status, created = _parts(obj)
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled")
    return [
        name,
        *(status.get(each, 0) for each in (*counts, "numberAvailable")),
        map_text(((spec.get("template") or {}).get("spec") or {}).get("nodeSelector")),
        times.age(created, now),
        *images(spec.get("template")),
        selector_text(spec.get("selector")),
    ]


def stateful_set(obj: Object, now: datetime) -> list[Any]:
    """One row of stateful sets."""
    name, spec, status, created = _parts(obj)
    ready = f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}"
    return [name, ready, times.age(created, now), *images(spec.get("template"))]


def job(obj: Object, now: datetime) -> list[Any]:
    """One row of jobs."""
    name, spec, status, created = _parts(obj)
    done = status.get("succeeded", 0)
    if spec.get("completions") is not None:
        completions = f"{done}/{spec.get('completions', '')}"
    else:
        parallel = spec.get("parallelism", 0)
        completions = f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"
    return [
        name,
        _job_word(obj, status),
        completions,
        _duration(status, now),
        times.age(created, now),
        *images(spec.get("template")),
        selector_text(spec.get("selector")),
    ]


def _job_word(obj: Object, status: Object) -> str:
    true = {each.get("type", "") for each in status.get("conditions") or () if each.get("status") == "True"}
    if "Complete" in true:
        return "Complete"
    if "Failed" in true:
        return "Failed"
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if "Suspended" in true:
        return "Suspended"
    if "FailureTarget" in true:
        return "FailureTarget"
    return "SuccessCriteriaMet" if "SuccessCriteriaMet" in true else "Running"


def _duration(status: Object, now: datetime) -> str:
    if not status.get("startTime"):
        return ""
    ended = times.parse(status.get("completionTime", "")) if status.get("completionTime") else now
    return times.human(ended - times.parse(status.get("startTime", "")))


def cron_job(obj: Object, now: datetime) -> list[Any]:
    """One row of cron jobs."""
    name, spec, status, created = _parts(obj)
    template = (spec.get("jobTemplate") or {}).get("spec") or {}
    last = status.get("lastScheduleTime")
    return [
        name,
        spec.get("schedule", ""),
        spec.get("timeZone") or "<none>",
        "True" if spec.get("suspend") else "False",
        len(status.get("active") or ()),
        times.age(last, now) if last else "<none>",
        times.age(created, now),
        *images(template.get("template")),
        selector_text(template.get("selector")),
    ]


def scale(obj: Object, now: datetime) -> list[Any]:
    """One row of what the subresource `scale` shows of any type."""
    name, spec, status, created = _parts(obj)
    return [name, spec.get("replicas", 0), status.get("replicas", 0), times.age(created, now)]


def controller_revision(obj: Object, now: datetime) -> list[Any]:
    """One row of controller revisions."""
    metadata = obj["metadata"]
    owner = next((each for each in metadata.get("ownerReferences") or () if each.get("controller")), None)
    shown = "<none>"
    if owner:
        group = owner.get("apiVersion", "").partition("/")[0] if "/" in owner.get("apiVersion", "") else ""
        shown = f"{owner.get('kind', '').lower()}{'.' if group else ''}{group}/{owner.get('name', '')}"
    return [metadata["name"], shown, obj.get("revision", 0), times.age(metadata.get("creationTimestamp"), now)]
