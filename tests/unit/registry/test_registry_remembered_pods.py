"""What is remembered of a pod's spec is what would have been found out again."""

from __future__ import annotations

import copy

import orjson
import pytest

from netplane.controlplane.api import cluster
from netplane.controlplane.registry import builtin, strategy, types
from netplane.controlplane.registry.pods import admission, defaults, remembered
from netplane.kube import known
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
    with pytest.raises(TypeError, match="take a copy"):
        one["spec"]["containers"][0]["image"] = "else:2"
    with pytest.raises(TypeError, match="take a copy"):
        one["spec"]["containers"].append({})
    assert remembered.complete(other)
    assert other["spec"]["containers"][0]["image"] == "web:1"


@pytest.mark.parametrize(
    "body",
    [
        _pod(),
        _pod(hostname=None, overhead={"cpu": "0.5"}),
        {**_pod(), "status": {}, "metadata": {"name": "a", "creationTimestamp": None, "labels": {"a": None}}},
        {**_pod(), "metadata": None, "status": {"phase": "Running"}},
        {**_pod(), "metadata": {"name": "a", "finalizers": ["a.b/c"], "ownerReferences": [{"name": "b"}]}},
        {**_pod(), "metadata": {"generateName": "a-", "namespace": "b", "annotations": {"c": "d"}, "labels": {}}},
        {**_pod(), "metadata": {}, "status": {}},
        {**_pod(), "apiVersion": "v2", "kind": "Node"},
    ],
)
def test_a_body_whose_spec_was_read_before_says_what_it_said_then(body: Object) -> None:
    text = orjson.dumps({"apiVersion": "v1", "kind": "Pod", **body})
    of = _pods()
    plain = orjson.loads(text)
    wanted = strategy.read(of, plain)
    for _ in range(2):
        begun = strategy.begun(of, text)
        assert begun is not None
        assert isinstance(begun["spec"], known.Known)
        told = _without_nothing(begun), _without_nothing(plain)
        assert told[0] == told[1]
        assert (strategy.read(of, begun), _without_nothing(begun)) == (wanted, told[1])
        assert known.encoded(begun["spec"]) == orjson.dumps(plain["spec"])


@pytest.mark.parametrize(
    "text",
    [
        orjson.dumps({"apiVersion": "v1", "kind": "Pod", **_pod(hostnam="a")}),
        orjson.dumps({"apiVersion": "v1", "kind": "Pod", **_pod(hostname=1)}),
        orjson.dumps({"apiVersion": "v1", "kind": "Pod", **_pod(), "more": 1}),
        orjson.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}}),
        orjson.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": None}),
        orjson.dumps(_pod()),
        b'{"apiVersion":"v1","kind":"Pod","metadata":{,"spec":{"hostname":"a"}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"hostname":"\xff"}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":' + b'{"a":' * 100_000,
        b'{"apiVersion":"v1","kind":"\xff","metadata":{},"spec":{"hostname":"a"}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"\xff"},"spec":{"hostname":"a"}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"\\ud800"},"spec":{"hostname":"a"}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":1},"spec":{"hostname":"a"}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{"nam":"a"},"spec":{"hostname":"a"}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":1}},"spec":{"hostname":"a"}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"hostname":"a"},"status":{"phase":1}}',
        b'{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{"hostname":"a"}} {}',
        b"[]",
        b"",
    ],
)
def test_what_there_is_something_to_tell_of_is_decoded_as_a_whole(text: bytes) -> None:
    assert strategy.begun(_pods(), text) is None
    assert strategy.begun(_pods(), text) is None


def test_bodies_of_other_types_are_decoded_as_a_whole() -> None:
    of = builtin().find("apps", "v1", "deployments")
    assert of is not None
    text = b'{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"replicas":1}}'
    assert strategy.begun(of, text) is None


def test_a_known_spec_with_a_fault_may_be_filled_in() -> None:
    text = orjson.dumps({"apiVersion": "v1", "kind": "Pod", **_pod(restartPolicy="Never mind")})
    for _ in range(2):
        pod = strategy.begun(_pods(), text)
        assert pod is not None
        found = strategy.create(_pods(), pod, namespace="default", now="", uid="u")
        assert [each.field for each in found] == ["spec.restartPolicy"]


def test_selectors_see_of_pods_alike_what_each_of_them_says() -> None:
    """What is remembered for them is of their specs and statuses: the fields must all lie in these."""
    read = cluster.index(builtin())
    specs: list[dict[str, object]] = [{}, {"nodeName": "a"}, {"hostNetwork": True}, {}]
    for number, spec in enumerate(specs):
        pod = _pod(**spec)
        pod["metadata"]["labels"] = {"number": str(number)}
        plain = _plainly(pod)
        assert remembered.complete(pod)
        assert read("pods", pod) == read("pods", plain)
    assert {path.partition(".")[0] for path in _pods().field_labels} == {"spec", "status"}


def _without_nothing(obj: Object) -> Object:
    """Leave out what says nothing: empty labels and an empty status, which a new pod's own takes the place of."""
    metadata = {name: part for name, part in (obj.get("metadata") or {}).items() if part not in ({}, "")}
    return {name: part for name, part in {**obj, "metadata": metadata}.items() if part != {}}


def _pods() -> types.ResourceType:
    of = builtin().find("", "v1", "pods")
    assert of is not None
    return of


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
