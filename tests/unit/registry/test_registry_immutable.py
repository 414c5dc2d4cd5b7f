"""What may not change once it is made, and what of it may."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from netplane.controlplane.registry import builtin
from tests.support.registry_objects import created, made, type_of, updated

STORAGE_CLASSES = "storageclasses.storage.k8s.io"
TEMPLATE: dict[str, Any] = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}


def merged(obj: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    new = copy.deepcopy(obj)
    for key, value in change.items():
        new[key] = merged(new.get(key) or {}, value) if isinstance(value, dict) else value
    return new


def changed(name: str, old: dict[str, Any], change: dict[str, Any]) -> list[str]:
    """Return the faults of a merge into an object."""
    return updated(name, copy.deepcopy(old), merged(old, change))


@pytest.mark.parametrize(
    ("field", "value"), [("provisioner", "q"), ("parameters", {"a": "c"}), ("reclaimPolicy", "Retain")]
)
def test_a_storage_class_makes_all_volumes_alike(field: str, value: Any) -> None:
    old = created(STORAGE_CLASSES, {"provisioner": "x.y/z", "parameters": {"a": "b"}})
    assert changed(STORAGE_CLASSES, old, {field: value}) == [f"{field}: Forbidden: updates to {field} are forbidden."]
    assert changed(STORAGE_CLASSES, old, {"allowVolumeExpansion": True}) == []


def test_a_storage_class_binds_as_it_did() -> None:
    old = created(STORAGE_CLASSES, {"provisioner": "x.y/z"})
    (fault,) = changed(STORAGE_CLASSES, old, {"volumeBindingMode": "WaitForFirstConsumer"})
    assert fault == 'volumeBindingMode: Invalid value: "WaitForFirstConsumer": field is immutable'


def volume() -> dict[str, Any]:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
    return created("persistentvolumes", {"spec": spec})


def test_a_volume_stays_where_its_data_is() -> None:
    (fault,) = changed("persistentvolumes", volume(), {"spec": {"hostPath": {"path": "/y"}}})
    assert fault.startswith("spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable")
    more = {"capacity": {"storage": "2Gi"}, "claimRef": {"name": "c", "namespace": "default"}}
    assert changed("persistentvolumes", volume(), {"spec": more}) == []


def claim(status: dict[str, Any] | None = None) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
    made = created("persistentvolumeclaims", {"spec": spec})
    return made if status is None else {**made, "status": status}


def asked(amount: str) -> dict[str, Any]:
    return {"spec": {"resources": {"requests": {"storage": amount}}}}


def test_a_claim_that_is_not_bound_asks_for_what_it_asked_for() -> None:
    for amount in ("3Gi", "1Mi"):
        (fault,) = changed("persistentvolumeclaims", claim(), asked(amount))
        assert fault.startswith("spec: Forbidden: spec is immutable after creation except resources.requests")
    assert changed("persistentvolumeclaims", claim(), {"spec": {"volumeName": "v"}}) == []
    assert changed("persistentvolumeclaims", claim(), {"spec": {"storageClassName": "late"}}) == []


def test_a_bound_claim_grows_and_never_shrinks_below_what_it_has() -> None:
    bound = claim({"phase": "Bound", "capacity": {"storage": "1Gi"}})
    assert changed("persistentvolumeclaims", bound, asked("3Gi")) == []
    assert changed("persistentvolumeclaims", bound, asked("1500Mi")) == []
    (fault,) = changed("persistentvolumeclaims", bound, asked("1Gi"))
    assert fault == "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
    (fault,) = changed("persistentvolumeclaims", bound, {"spec": {"resources": {"limits": {"storage": "9Gi"}}}})
    assert fault.startswith("spec: Forbidden: ")


def job(**spec: Any) -> dict[str, Any]:
    return created("jobs.batch", {"spec": {"suspend": True, "template": copy.deepcopy(TEMPLATE), **spec}})


def test_a_job_that_waits_may_be_moved_and_nothing_else() -> None:
    other = [{"name": "c", "image": "other"}]
    (fault,) = changed("jobs.batch", job(), {"spec": {"template": {"spec": {"containers": other}}}})
    assert fault.startswith("spec.template: Invalid value: ")
    assert fault.endswith("field is immutable")
    node: dict[str, Any] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    moved = {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": node}
    assert changed("jobs.batch", job(), {"spec": {"template": {"spec": moved}}}) == []


def test_a_job_that_started_stays_where_it_is() -> None:
    started = {**job(), "status": {"startTime": "2026-01-01T00:00:00Z"}}
    (fault,) = changed("jobs.batch", started, {"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}})
    assert fault.startswith("spec.template: Invalid value: ")


def test_how_a_job_is_judged_never_changes() -> None:
    rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    old = job(podFailurePolicy={"rules": [rule]}, completions=3, parallelism=3, completionMode="Indexed")
    (fault,) = changed("jobs.batch", old, {"spec": {"podFailurePolicy": None}})
    assert fault == "spec.podFailurePolicy: Invalid value: null: field is immutable"
    (fault,) = changed("jobs.batch", old, {"spec": {"backoffLimitPerIndex": 2}})
    assert fault == "spec.backoffLimitPerIndex: Invalid value: 2: field is immutable"
    (fault,) = changed("jobs.batch", old, {"spec": {"completions": 5}})
    assert fault == "spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism"
    assert changed("jobs.batch", old, {"spec": {"completions": 5, "parallelism": 5}}) == []


def test_a_quota_counts_what_it_counted() -> None:
    old = created("resourcequotas", {"spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}})
    (fault,) = changed("resourcequotas", old, {"spec": {"scopes": ["NotBestEffort"]}})
    assert fault == 'spec.scopes: Invalid value: []string{"NotBestEffort"}: field is immutable'


def cron_job(schedule: str, **spec: Any) -> dict[str, Any]:
    return {"spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": copy.deepcopy(TEMPLATE)}}, **spec}}


def faults(obj: dict[str, Any]) -> list[str]:
    return [str(each) for each in made(type_of("cronjobs.batch"), obj)[1]]


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ("99 99 99 99 99", "end of range (99) above maximum (59): 99"),
        ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("x * * * *", 'failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'),
        ("@often", "unrecognized descriptor: @often"),
        ("TZ=UTC */5 * * * *", "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
    ],
)
def test_a_schedule_that_says_no_times_is_refused(schedule: str, why: str) -> None:
    (fault,) = faults(cron_job(schedule))
    assert fault.startswith("spec.schedule: Invalid value: ")
    assert fault.endswith(why)


@pytest.mark.parametrize(
    "schedule", ["*/5 * * * *", "0-30/5,45 0 1,15 jan-Mar MON-fri", "@daily", "@every 1h30m", "5/15 * ? * *"]
)
def test_a_schedule_as_people_write_them_is_taken(schedule: str) -> None:
    assert faults(cron_job(schedule)) == []


def test_a_time_zone_is_one_of_the_world() -> None:
    assert faults(cron_job("@daily", timeZone="Etc/UTC")) == []
    for zone in ("Nowhere/Foo", "../etc", "-x"):
        assert faults(cron_job("@daily", timeZone=zone)) == [
            f'spec.timeZone: Invalid value: "{zone}": unknown time zone {zone}'
        ]
    (fault,) = faults(cron_job("@daily", timeZone="Local"))
    assert "must be an explicit time zone" in fault
    old = {**created("cronjobs.batch", cron_job("@daily"))}
    old["spec"]["timeZone"] = "Gone/Away"
    assert changed("cronjobs.batch", old, {"spec": {"suspend": True}}) == []


def test_what_annotations_say_of_an_autoscaler_is_read_like_its_spec() -> None:
    for text in ("[1]", '{"a": 1}', '[{"type": "Foo"}]'):
        annotations = {"autoscaling.alpha.kubernetes.io/metrics": text}
        spec = {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}
        versions = [each for each in builtin().all() if each.kind == "HorizontalPodAutoscaler"]
        (v1,) = [each for each in versions if each.version == "v1"]
        assert made(v1, {"metadata": {"annotations": annotations}, "spec": spec})[1]
