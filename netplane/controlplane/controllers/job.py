"""Run the Pods of a Job until enough of them have succeeded, or too many have failed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from netplane.controlplane.controllers import conditions, owners, pods, templates, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import PODS, Key, Object, Resource, key_of
from netplane.lib import timestamp

JOBS = Resource("batch", "v1", "jobs", "Job")
FIRST_BACKOFF, LONGEST_BACKOFF = 10.0, 360.0


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the Pods to start or stop, the status, and the Job's removal when its time to live is over."""
    job = view.get(JOBS, key)
    if job is None or meta.is_deleting(job):
        return ()
    mine, adoptions = owners.claim(view, job, JOBS, PODS)
    if adoptions:
        return adoptions
    if ended := _end(job):
        return _expire(job, ended, now)
    return _work(job, mine, now)


def _work(job: Object, mine: list[Object], now: datetime) -> list[writes.Write]:
    spec = job["spec"]
    succeeded = [pod for pod in mine if pods.phase(pod) == "Succeeded"]
    failed = [pod for pod in mine if pods.phase(pod) == "Failed"]
    active = [pod for pod in mine if pods.is_active(pod)]
    status = _counts(job, succeeded, failed, active, now)
    verdict = _verdict(job, len(succeeded), len(failed), len(active), now)
    if verdict is not None:
        todo: list[writes.Write] = [_stop(job, pod) for pod in active]
        return [*todo, *_conclude(job, status, verdict, now)]
    if spec.get("suspend"):
        todo = [_stop(job, pod) for pod in active]
        status = conditions.ensure(status, "Suspended", "True", "JobSuspended", "Job suspended", now)
    else:
        todo = _balance(job, succeeded, failed, active, now)
    if not conditions.same(status, job.get("status") or {}):
        todo.append(writes.UpdateStatus(JOBS, writes.with_status(job, status)))
    if deadline := spec.get("activeDeadlineSeconds"):
        todo.append(writes.Requeue(max(0.1, _deadline(status, int(deadline), now))))
    return todo


def _balance(
    job: Object, succeeded: list[Object], failed: list[Object], active: list[Object], now: datetime
) -> list[writes.Write]:
    """Return the Pods to start, after a pause that doubles with each failure, or the surplus to stop."""
    completions = job["spec"].get("completions")
    wanted = int(job["spec"].get("parallelism", 1))
    if completions is not None:
        wanted = min(wanted, int(completions) - len(succeeded))
    elif succeeded:
        wanted = min(wanted, len(active))
    if len(active) > wanted:
        return [_stop(job, pod) for pod in pods.deletion_order(active, active, now)[: len(active) - wanted]]
    if len(active) == wanted:
        return []
    wait = _backoff(failed, now)
    if wait > 0:
        return [writes.Requeue(wait)]
    return [writes.Create(PODS, _pod(job, index), job) for index in _indexes(job, succeeded, active, wanted)]


def _indexes(job: Object, succeeded: list[Object], active: list[Object], wanted: int) -> list[int | None]:
    """Return the completion index of each Pod to start; None where the Job is not Indexed."""
    missing = wanted - len(active)
    if job["spec"].get("completionMode") != "Indexed":
        return [None] * missing
    taken = {meta.labels(pod).get("batch.kubernetes.io/job-completion-index") for pod in (*succeeded, *active)}
    free = [index for index in range(int(job["spec"].get("completions") or 0)) if str(index) not in taken]
    return [*free[:missing]]


def _backoff(failed: list[Object], now: datetime) -> float:
    times = [found for pod in failed if (found := _finished(pod)) is not None]
    if not times:
        return 0.0
    pause = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (len(failed) - 1))
    return (max(times) + timedelta(seconds=pause) - now).total_seconds()


def _finished(pod: Object) -> datetime | None:
    ended = [
        (status.get("state") or {}).get("terminated", {}).get("finishedAt")
        for status in pod.get("status", {}).get("containerStatuses") or ()
    ]
    found = max((text for text in ended if text), default=pod["metadata"].get("creationTimestamp"))
    return timestamp.parse(found) if found else None


def _verdict(job: Object, succeeded: int, failed: int, active: int, now: datetime) -> tuple[str, str, str] | None:
    """Return (type, reason, message) of the condition that ends the Job, or None while it goes on."""
    spec = job["spec"]
    completions = spec.get("completions")
    if completions is not None and succeeded >= int(completions):
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    if completions is None and succeeded and not active:
        return "Complete", "CompletionsReached", "Reached expected number of succeeded pods"
    limit = spec.get("backoffLimit")
    if failed > (6 if limit is None else int(limit)):
        return "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    deadline = spec.get("activeDeadlineSeconds")
    if deadline and _deadline(job.get("status") or {}, int(deadline), now) <= 0:
        return "Failed", "DeadlineExceeded", "Job was active longer than specified deadline"
    return None


def _deadline(status: Object, seconds: int, now: datetime) -> float:
    started = status.get("startTime")
    return (
        float(seconds) if not started else (timestamp.parse(started) + timedelta(seconds=seconds) - now).total_seconds()
    )


def _counts(job: Object, succeeded: list[Object], failed: list[Object], active: list[Object], now: datetime) -> Object:
    held = job.get("status") or {}
    status = {name: held[name] for name in ("startTime", "conditions", "uncountedTerminatedPods") if held.get(name)}
    if not job["spec"].get("suspend"):
        status.setdefault("startTime", timestamp.rfc3339(now))
        status = conditions.without(status, "Suspended")
    ready = sum(1 for pod in active if pods.is_ready(pod))
    counts = {"active": len(active), "ready": ready, "succeeded": len(succeeded), "failed": len(failed)}
    return {**status, **{name: count for name, count in counts.items() if count}}


def _conclude(job: Object, status: Object, verdict: tuple[str, str, str], now: datetime) -> list[writes.Write]:
    kind, reason, message = verdict
    if kind == "Complete":
        status = conditions.ensure(status, "SuccessCriteriaMet", "True", reason, message, now)
        status = {**status, "completionTime": timestamp.rfc3339(now)}
        event = writes.Event(job, "Normal", "Completed", "Job completed")
    else:
        status = conditions.ensure(status, "FailureTarget", "True", reason, message, now)
        event = writes.Event(job, "Warning", reason, message)
    status = conditions.ensure(status, kind, "True", reason, message, now)
    status = {name: value for name, value in status.items() if name not in ("active", "ready")}
    return [writes.UpdateStatus(JOBS, writes.with_status(job, status)), event]


def _end(job: Object) -> Object | None:
    for kind in ("Complete", "Failed"):
        if meta.is_condition_true(job, kind):
            return dict(meta.condition(job, kind) or {})
    return None


def _expire(job: Object, ended: Object, now: datetime) -> list[writes.Write]:
    seconds = job["spec"].get("ttlSecondsAfterFinished")
    if seconds is None or not ended.get("lastTransitionTime"):
        return []
    left = (timestamp.parse(ended["lastTransitionTime"]) + timedelta(seconds=int(seconds)) - now).total_seconds()
    if left > 0:
        return [writes.Requeue(left)]
    return [writes.Delete(JOBS, key_of(job), job["metadata"]["uid"], propagation="Foreground")]


def _stop(job: Object, pod: Object) -> writes.Delete:
    return writes.Delete(PODS, key_of(pod), pod["metadata"]["uid"], about=job)


def _pod(job: Object, index: int | None) -> Object:
    pod = templates.pod(job, JOBS)
    if index is None:
        return pod
    mark = {"batch.kubernetes.io/job-completion-index": str(index)}
    metadata = pod["metadata"]
    metadata = {
        **metadata,
        "labels": {**metadata.get("labels", {}), **mark},
        "annotations": {**metadata.get("annotations", {}), **mark},
        "generateName": f"{job['metadata']['name'][:50]}-{index}-",
    }
    environment = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
    containers = [{**found, "env": [*(found.get("env") or ()), environment]} for found in pod["spec"]["containers"]]
    return {**pod, "metadata": metadata, "spec": {**pod["spec"], "containers": containers}}
