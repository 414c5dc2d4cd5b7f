"""What is remembered of a pod's spec is what would have been found out again."""

from __future__ import annotations

import copy

from netplane.controlplane.registry import builtin, strategy
from netplane.controlplane.registry.pods import admission, defaults, remembered
from netplane.kube.types import Object

_ACCOUNT: Object = {"metadata": {"name": "default", "namespace": "default"}}


def _pod(**spec: object) -> Object:
    container = {"name": "web", "image": "web:1", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    return {"metadata": {"name": "a", "namespace": "default"}, "spec": {"containers": [container], **spec}}


def _plainly(pod: Object) -> Object:
    done = copy.deepcopy(pod)
    defaults.pod(done)
    admission.prepare(done)
    return done


def test_a_remembered_spec_is_filled_in_as_a_new_one() -> None:
    for pod in (_pod(), _pod(), _pod(schedulingGates=[{"name": "a.b/c"}])):
        wanted = _plainly(pod)
        assert remembered.complete(pod)
        assert pod == wanted


def test_pods_of_one_template_keep_their_own_token_volumes() -> None:
    pods = [_pod() for _ in range(3)]
    for pod, suffix in zip(pods, ("bcdfg", "hjklm", "bcdfg"), strict=True):
        admission.mount_token(pod, _ACCOUNT, suffix=suffix)
        wanted = _plainly(pod)
        assert remembered.complete(pod)
        assert pod == wanted
        assert pod["spec"]["volumes"][0]["name"] == f"kube-api-access-{suffix}"


def test_a_text_like_the_stand_in_is_left_as_it_is() -> None:
    pod = _pod(nodeSelector={"kubernetes.io/hostname": "kube-api-access-00000"})
    admission.mount_token(pod, _ACCOUNT, suffix="bcdfg")
    assert not remembered.complete(pod)
    assert pod["spec"]["nodeSelector"] == {"kubernetes.io/hostname": "kube-api-access-00000"}


def test_pods_share_nothing_that_one_could_change_for_another() -> None:
    one, other = _pod(), _pod()
    assert remembered.complete(one)
    one["spec"]["containers"][0]["image"] = "else:2"
    assert remembered.complete(other)
    assert other["spec"]["containers"][0]["image"] == "web:1"


def test_faults_are_told_every_time() -> None:
    of = builtin().find("", "v1", "pods")
    assert of is not None
    for _ in range(2):
        found = strategy.create(of, _pod(restartPolicy="Never mind"), namespace="default", now="", uid="u")
        assert [each.field for each in found] == ["spec.restartPolicy"]


def test_unknown_fields_are_told_every_time() -> None:
    of = builtin().find("", "v1", "pods")
    assert of is not None
    for _ in range(2):
        told = strategy.read(of, {"apiVersion": "v1", "kind": "Pod", **_pod(hostnam="a")}, validation="Warn")
        assert told.warnings == ('unknown field "spec.hostnam"',)


def test_a_spec_read_before_becomes_canonical_again() -> None:
    of = builtin().find("", "v1", "pods")
    assert of is not None
    for _ in range(2):
        pod = _pod(hostname=None, overhead={"cpu": "0.5"})
        assert strategy.read(of, pod).error == ""
        assert pod["spec"]["overhead"] == {"cpu": "500m"}
        assert "hostname" not in pod["spec"]
