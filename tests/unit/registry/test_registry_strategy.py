"""What happens to objects on their way into the store."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from netplane.controlplane.registry import builtin, strategy
from netplane.controlplane.registry.services import slices, validate
from tests.support.registry_objects import NOW, created, deployment, made, pod, type_of, updated


def test_a_pod_gets_what_it_left_unsaid() -> None:
    obj = created("pods", pod())
    spec = obj["spec"]
    assert spec["restartPolicy"] == "Always"
    assert spec["terminationGracePeriodSeconds"] == 30
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "default"
    assert [each["tolerationSeconds"] for each in spec["tolerations"]] == [300, 300]
    assert spec["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert obj["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0", "IfNotPresent"),
        ("nginx:latest@sha256:0", "Always"),
    ],
)
def test_images_that_may_change_are_always_pulled(image: str, policy: str) -> None:
    obj = created("pods", pod(containers=[{"name": "a", "image": image}]))
    assert obj["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_limits_are_requests_unless_requests_are_given() -> None:
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}
    obj = created("pods", pod(containers=[{"name": "a", "image": "x:1", "resources": resources}]))
    assert obj["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert obj["status"]["qosClass"] == "Burstable"


def test_equal_requests_and_limits_are_guaranteed() -> None:
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}
    obj = created("pods", pod(containers=[{"name": "a", "image": "x:1", "resources": resources}]))
    assert obj["status"]["qosClass"] == "Guaranteed"


def test_a_deployment_gets_what_it_left_unsaid() -> None:
    spec = created("deployments.apps", deployment())["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
    assert (spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (10, 600)
    assert spec["template"]["spec"]["dnsPolicy"] == "ClusterFirst"
    assert "enableServiceLinks" not in spec["template"]["spec"]


def test_clients_set_no_status_and_no_identity() -> None:
    obj = deployment()
    obj["status"] = {"readyReplicas": 5}
    obj["metadata"] |= {"uid": "mine", "creationTimestamp": "2000-01-01T00:00:00Z", "generation": 7}
    new = created("deployments.apps", obj)
    assert new["status"] == {}
    assert new["metadata"]["uid"] == "uid-1"
    assert (new["metadata"]["creationTimestamp"], new["metadata"]["generation"]) == (NOW, 1)


def test_a_node_brings_its_status_with_it() -> None:
    obj = created("nodes", {"status": {"capacity": {"cpu": "2"}}})
    assert obj["status"]["allocatable"] == {"cpu": "2"}


def test_the_generation_counts_changes_of_the_spec_alone() -> None:
    old = created("deployments.apps", deployment())
    labelled = copy.deepcopy(old)
    labelled["metadata"]["labels"] = {"a": "b"}
    assert not updated("deployments.apps", old, labelled)
    assert labelled["metadata"]["generation"] == 1
    scaled = copy.deepcopy(old)
    scaled["spec"]["replicas"] = 3
    assert not updated("deployments.apps", old, scaled)
    assert scaled["metadata"]["generation"] == 2


def test_an_update_leaves_the_status_and_a_status_update_all_else() -> None:
    old = created("deployments.apps", deployment())
    new = copy.deepcopy(old)
    new["spec"]["replicas"], new["status"] = 3, {"readyReplicas": 3}
    both = copy.deepcopy(new)
    assert not updated("deployments.apps", old, new)
    assert new["status"] == {}
    assert not strategy.update_status(type_of("deployments.apps"), both, old)
    assert both["spec"]["replicas"] == 1
    assert both["status"] == {"readyReplicas": 3}


def test_an_unchanged_update_changes_nothing() -> None:
    for name, obj in (("pods", pod()), ("deployments.apps", deployment())):
        old = created(name, obj)
        new = copy.deepcopy(old)
        assert not updated(name, old, new)
        assert new == old


@pytest.mark.parametrize(
    ("name", "old", "change", "fault"),
    [
        ("pods", pod(), {"spec": {"nodeName": "n"}}, "spec: Forbidden: pod updates may not change fields other than"),
        ("deployments.apps", deployment(), {"spec": {"selector": {"matchLabels": {"x": "y"}}}}, "field is immutable"),
        ("secrets", {"type": "a/b"}, {"type": "c/d"}, 'type: Invalid value: "c/d": field is immutable'),
        (
            "configmaps",
            {"immutable": True},
            {"data": {"a": "b"}},
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        ("configmaps", {}, {"metadata": {"uid": "other"}}, 'metadata.uid: Invalid value: "other": field is immutable'),
    ],
)
def test_what_may_not_change_does_not(name: str, old: dict[str, Any], change: dict[str, Any], fault: str) -> None:
    before = created(name, old)
    new = copy.deepcopy(before)
    for key, value in change.items():
        new[key] = {**new[key], **value} if isinstance(value, dict) and key in new else value
    assert any(fault in each for each in updated(name, before, new))


def test_a_pods_image_and_tolerations_may_change() -> None:
    old = created("pods", pod())
    new = copy.deepcopy(old)
    new["spec"]["containers"][0]["image"] = "web:2"
    new["spec"]["tolerations"].append({"key": "a", "operator": "Exists"})
    assert not updated("pods", old, new)


def test_no_finalizer_joins_a_deletion() -> None:
    old = created("configmaps", {})
    old["metadata"] |= {"deletionTimestamp": NOW, "finalizers": ["a/b"]}
    new = copy.deepcopy(old)
    new["metadata"]["finalizers"] = ["a/b", "c/d"]
    assert any("no new finalizers can be added" in each for each in updated("configmaps", old, new))


def test_leases_are_only_updated_with_their_version() -> None:
    old = created("leases.coordination.k8s.io", {})
    faults = updated("leases.coordination.k8s.io", old, copy.deepcopy(old))
    assert faults == ["metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"]


def test_unknown_fields_are_refused_warned_of_or_ignored() -> None:
    def body() -> dict[str, Any]:
        return pod(bogus=1)

    rt = type_of("pods")
    text = 'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.bogus"'
    assert strategy.read(rt, body(), validation="Strict").error == text
    assert strategy.read(rt, body(), validation="Warn").warnings == ('unknown field "spec.bogus"',)
    ignored = body()
    assert strategy.read(rt, ignored, validation="Ignore") == strategy.Read()
    assert "bogus" not in ignored["spec"]


def test_a_value_of_the_wrong_type_cannot_be_read() -> None:
    outcome = strategy.read(type_of("pods"), pod(terminationGracePeriodSeconds="x"))
    assert outcome.error.endswith(
        "json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64"
    )


@pytest.mark.parametrize(("given", "told"), [("x", "string"), (2**31, "number 2147483648")])
def test_a_number_of_32_bits_is_told_as_one(given: object, told: str) -> None:
    outcome = strategy.read(type_of("deployments.apps"), {"spec": {"replicas": given}})
    assert outcome.error.endswith(
        f"json: cannot unmarshal {told} into Go struct field DeploymentSpec.spec.replicas of type int32"
    )


def test_nulls_are_absent_and_amounts_canonical() -> None:
    resources = {"limits": {"cpu": 0.5, "memory": "1024Mi"}}
    obj = pod(nodeName=None, containers=[{"name": "a", "image": "x:1", "resources": resources}])
    assert not strategy.read(type_of("pods"), obj).error
    assert "nodeName" not in obj["spec"]
    assert obj["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}


def test_secret_texts_become_data() -> None:
    obj = created("secrets", {"stringData": {"a": "b"}})
    assert obj["data"] == {"a": "Yg=="}
    assert "stringData" not in obj


def test_a_job_selects_its_own_pods() -> None:
    template = {"spec": {**pod()["spec"], "restartPolicy": "Never"}}
    spec = created("jobs.batch", {"spec": {"template": template}})["spec"]
    assert spec["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": "uid-1"}}
    assert spec["template"]["metadata"]["labels"]["job-name"] == "it"
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 6)


def test_a_namespace_is_active_and_labelled_with_its_name() -> None:
    obj = created("namespaces", {})
    assert obj["status"] == {"phase": "Active"}
    assert obj["spec"] == {"finalizers": ["kubernetes"]}
    assert obj["metadata"]["labels"] == {"kubernetes.io/metadata.name": "it"}


def test_newer_events_are_kept_as_core_events() -> None:
    rt = type_of("events.events.k8s.io")
    assert rt.conversion is not None
    obj = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "regarding": {"name": "p"},
        "note": "x",
        "deprecatedCount": 2,
    }
    stored = rt.conversion.to_stored(obj)
    assert (stored["involvedObject"], stored["message"], stored["count"]) == ({"name": "p"}, "x", 2)
    assert rt.conversion.from_stored(stored) == obj


def test_generated_names_fit_a_label() -> None:
    assert strategy.generated_name("web-", "abcde") == "web-abcde"
    assert len(strategy.generated_name("x" * 80, "abcde")) == 63


def test_every_type_refuses_an_empty_object_without_breaking() -> None:
    for rt in builtin().all():
        made(rt, {"metadata": {"name": "x"}})


@pytest.mark.parametrize(
    ("address", "detail"),
    [
        ("127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
        ("169.254.169.254", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("224.0.0.1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ],
)
def test_endpoints_are_nobodys_own_addresses(address: str, detail: str) -> None:
    slice_ = {"addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": []}
    endpoints = {"subsets": [{"addresses": [{"ip": address}], "ports": []}]}
    for found in (slices.endpoint_slice(slice_), validate.endpoints(endpoints)):
        assert [fault.message for fault in found] == [f'Invalid value: "{address}": {detail}']
