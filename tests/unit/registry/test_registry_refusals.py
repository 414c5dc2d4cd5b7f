"""What is wrong in an object is told as the real API tells it: the field's path, and its words."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from netplane.controlplane.registry import strategy
from tests.support.registry_objects import created, deployment, made, pod, type_of, updated

Spec = dict[str, Any]


def told(name: str, obj: Spec) -> list[str]:
    """Return what is wrong with an object, without the object's own field in front."""
    _, found = made(type_of(name), obj)
    return [str(each).removeprefix("spec.") for each in found]


def job(text: str) -> Spec:
    """A Job with these fields, of one container that is not restarted."""
    spec: Spec = yaml.safe_load(text)
    template = {"spec": {**pod()["spec"], "restartPolicy": "Never"}}
    return {"metadata": {"name": "work"}, "spec": {"template": template, **spec}}


JOBS = {
    "{backoffLimitPerIndex: 1}": "backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
    "{completionMode: Indexed, completions: 1, maxFailedIndexes: 1}": (
        "backoffLimitPerIndex: Required value: when maxFailedIndexes is specified"
    ),
    "{completionMode: Indexed, completions: 1, backoffLimitPerIndex: 1, maxFailedIndexes: 2}": (
        "maxFailedIndexes: Invalid value: 2: must be less than or equal to completions"
    ),
    "{completionMode: Indexed, completions: 2, parallelism: 100001}": (
        "parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed"
    ),
    "{completionMode: Indexed, completions: 200000, backoffLimitPerIndex: 1}": (
        "maxFailedIndexes: Required value: must be specified when completions is above 100000"
    ),
    "{managedBy: me}": 'managedBy: Invalid value: "me": must be a domain-prefixed path (such as "acme.io/foo")',
    "{podReplacementPolicy: Never}": (
        'podReplacementPolicy: Unsupported value: "Never": supported values: "Failed", "TerminatingOrFailed"'
    ),
    "{podFailurePolicy: {rules: [{action: Ignore}]}}": (
        "podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"
    ),
    "{podFailurePolicy: {rules: [{action: FailIndex, onPodConditions: [{type: DisruptionTarget}]}]}}": (
        'podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set'
    ),
    "{podFailurePolicy: {rules: [{onExitCodes: {operator: In, values: [1]}}]}}": (
        'podFailurePolicy.rules[0].action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]'
    ),
    "{podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [0]}}]}}": (
        "podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator"
    ),
    "{podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [2, 1]}}]}}": (
        "podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered"
    ),
    "{completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: 1-3}]}}": (
        'successPolicy.rules[0].succeededIndexes: Invalid value: "1-3": error parsing succeededIndexes: '
        'too large index: "3"'
    ),
    "{completionMode: Indexed, completions: 3, "
    'successPolicy: {rules: [{succeededIndexes: "0,2", succeededCount: 3}]}}': (
        "successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of "
        "indexes in the specified succeededIndexes field)"
    ),
    "{template: {spec: {containers: [{name: c, image: i}]}}}": (
        'template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'
    ),
}


@pytest.mark.parametrize("fields", JOBS)
def test_a_job_is_refused_for_what_its_indexes_and_policies_cannot_mean(fields: str) -> None:
    assert told("jobs.batch", job(fields)) == [JOBS[fields]]


def test_policies_of_jobs_that_go_together_are_taken() -> None:
    created(
        "jobs.batch", job("{completionMode: Indexed, completions: 5, successPolicy: {rules: [{succeededCount: 2}]}}")
    )
    created("jobs.batch", job("{podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: Gone}]}]}}"))
    indexes = '{succeededIndexes: "0,2-4", succeededCount: 4}'
    created("jobs.batch", job(f"{{completionMode: Indexed, completions: 5, successPolicy: {{rules: [{indexes}]}}}}"))


def test_an_indexed_job_is_named_so_that_its_pods_can_be() -> None:
    wanted = job("{completionMode: Indexed, completions: 11}")
    wanted["metadata"]["name"] = "a" * 60
    created("jobs.batch", wanted)
    wanted["metadata"]["name"] = "a" * 61
    (fault,) = told("jobs.batch", wanted)
    assert "will not able to create pod with invalid DNS label" in fault


def stateful(**fields: Any) -> Spec:
    """A StatefulSet with these fields."""
    return deployment(serviceName="web", **fields)


def test_a_stateful_set_is_refused_for_ordinals_and_updates_that_cannot_be() -> None:
    start = told("statefulsets.apps", stateful(ordinals={"start": -1}))
    assert start == ["ordinals.start: Invalid value: -1: must be greater than or equal to 0"]
    rolling = {"type": "OnDelete", "rollingUpdate": {"partition": 1}}
    (fault,) = told("statefulsets.apps", stateful(updateStrategy=rolling))
    assert fault.endswith("only allowed for updateStrategy 'RollingUpdate'")
    (fault,) = told("statefulsets.apps", stateful(updateStrategy={"rollingUpdate": {"partition": -1}}))
    assert fault.startswith("updateStrategy.rollingUpdate.partition: Invalid value: -1")


def test_a_deployment_without_a_selector_hears_of_its_labels_too() -> None:
    wanted = deployment()
    del wanted["spec"]["selector"]
    at = "template.metadata.labels: Invalid value"
    required, mismatch = told("deployments.apps", wanted)
    assert required == "selector: Required value"
    assert mismatch == f'{at}: map[string]string{{"app":"web"}}: `selector` does not match template `labels`'


VOLUMES = {
    "{emptyDir: {sizeLimit: '-1'}}": (
        "emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"
    ),
    "{nfs: {server: a, path: b}}": 'nfs.path: Invalid value: "b": must be an absolute path',
    "{rbd: {image: i}}": "rbd.monitors: Required value",
    "{cephfs: {}}": "cephfs.monitors: Required value",
    "{cinder: {}}": "cinder.volumeID: Required value",
    "{flexVolume: {}}": "flexVolume.driver: Required value",
    "{image: {}}": "image.reference: Required value",
    "{azureFile: {secretName: s}}": "azureFile.shareName: Required value",
    "{fc: {targetWWNs: [a]}}": "fc.lun: Required value: lun is required if targetWWNs is specified",
    "{iscsi: {targetPortal: a, iqn: b, lun: 256}}": (
        "iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"
    ),
    "{ephemeral: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 1Gi}}}}}}": (
        "ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required"
    ),
    "{projected: {sources: [{secret: {name: a, items: [{key: k, path: p}]}}, {serviceAccountToken: {path: p}}]}}": (
        'projected.sources[1].serviceAccountToken: Invalid value: "p": conflicting duplicate paths'
    ),
}


@pytest.mark.parametrize("source", VOLUMES)
def test_a_volume_is_refused_for_what_its_source_lacks(source: str) -> None:
    (fault,) = told("pods", pod(volumes=[{"name": "data", **yaml.safe_load(source)}]))
    assert fault == f"volumes[0].{VOLUMES[source]}"


PERSISTENT = {
    "{nfs: {server: a, path: b}}": 'nfs.path: Invalid value: "b": must be an absolute path',
    "{csi: {driver: a}}": "csi.volumeHandle: Required value",
    "{local: {path: /a}}": "nodeAffinity: Required value: Local volume requires node affinity",
    "{hostPath: {path: /a}, nodeAffinity: {}}": (
        "nodeAffinity.required: Required value: must specify required node constraints"
    ),
}


@pytest.mark.parametrize("source", PERSISTENT)
def test_a_persistent_volume_is_refused_for_what_its_source_lacks(source: str) -> None:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], **yaml.safe_load(source)}
    assert told("persistentvolumes", {"spec": spec}) == [PERSISTENT[source]]


def test_a_source_is_filled_in_as_the_real_api_fills_it_in() -> None:
    (volume,) = created("pods", pod(volumes=[{"name": "disk", "rbd": {"monitors": ["m"], "image": "i"}}]))["spec"][
        "volumes"
    ]
    assert volume["rbd"] == {
        "monitors": ["m"], "image": "i", "pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"
    }  # fmt: skip


CONTAINERS = {
    "{securityContext: {runAsUser: 2147483648}}": (
        "securityContext.runAsUser: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive"
    ),
    "{securityContext: {appArmorProfile: {type: Localhost}}}": (
        "securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost"
    ),
    "{lifecycle: {preStop: {sleep: {seconds: 31}}}}": (
        "lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than "
        "terminationGracePeriodSeconds (30)"
    ),
    "{restartPolicy: Always}": "restartPolicy: Forbidden: may not be set for non-init containers",
    "{resources: {limits: {hugepages-2Mi: 2Mi}}}": "resources: Forbidden: HugePages require cpu or memory",
    "{env: [{name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 2}}}]}": (
        'env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor\'s values 1m and 1 are '
        "supported with the cpu resource"
    ),
    "{volumeDevices: [{name: data, devicePath: /dev/a}]}": (
        'volumeDevices[0].name: Invalid value: "data": can only use volume source type of PersistentVolumeClaim or '
        "Ephemeral for block mode"
    ),
    "{volumeMounts: [{name: data, mountPath: /a, recursiveReadOnly: Enabled}]}": (
        "volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true"
    ),
}


@pytest.mark.parametrize("fields", CONTAINERS)
def test_a_container_is_refused_for_what_it_may_not_have(fields: str) -> None:
    wanted = pod(volumes=[{"name": "data", "emptyDir": {}}])
    wanted["spec"]["containers"][0] |= yaml.safe_load(fields)
    assert told("pods", wanted) == [f"containers[0].{CONTAINERS[fields]}"]


PODS = {
    "{securityContext: {fsGroupChangePolicy: Often}}": (
        'securityContext.fsGroupChangePolicy: Unsupported value: "Often": supported values: "Always", "OnRootMismatch"'
    ),
    "{securityContext: {supplementalGroupsPolicy: Some}}": (
        'securityContext.supplementalGroupsPolicy: Unsupported value: "Some": supported values: "Merge", "Strict"'
    ),
    "{topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule, "
    "matchLabelKeys: [b]}]}": (
        "topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"
    ),
    "{topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule, "
    "nodeTaintsPolicy: Some}]}": (
        'topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: "Some": supported values: "Honor", "Ignore"'
    ),
    "{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
    "[{topologyKey: a, labelSelector: {}, matchLabelKeys: [b], mismatchLabelKeys: [b]}]}}}": (
        "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].mismatchLabelKeys[0]: "
        'Invalid value: "b": exists in both matchLabelKeys and mismatchLabelKeys'
    ),
}


@pytest.mark.parametrize("fields", PODS)
def test_a_pod_is_refused_for_choices_there_are_not(fields: str) -> None:
    assert told("pods", pod(**yaml.safe_load(fields))) == [PODS[fields]]


def test_a_value_of_the_wrong_type_is_named_as_gos_decoder_names_it() -> None:
    """Of maps it names the field alone: tools look for these very words."""
    outcome = strategy.read(type_of("configmaps"), {"metadata": {"name": "it"}, "data": {"key": 1}})
    assert outcome.error.endswith("json: cannot unmarshal number into Go struct field ConfigMap.data of type string")


def test_a_node_has_one_pod_network_whichever_field_names_it() -> None:
    node = created("nodes", {"spec": {"podCIDR": "10.1.0.0/24"}})
    assert node["spec"]["podCIDRs"] == ["10.1.0.0/24"]
    changed = {**node, "spec": {**node["spec"], "podCIDR": "10.2.0.0/24"}}
    (fault,) = updated("nodes", node, changed)
    assert fault == 'spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid'


def test_metadata_holds_nothing_that_is_empty() -> None:
    empty: Spec = {"labels": {}, "annotations": {}, "finalizers": [], "ownerReferences": []}
    kept = created("configmaps", {"metadata": {"name": "it", **empty}})["metadata"]
    assert not empty.keys() & kept.keys()
