"""The fake does to objects what a server does, as far as clients depend on it."""

import pytest

from netplane.kube import errors
from netplane.kube.fake import FakeApi
from netplane.kube.types import DEPLOYMENTS, NODES, PODS, Object


def pod(name: str = "p", **spec: object) -> Object:
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": spec}


async def test_objects_are_copies() -> None:
    api, mine = FakeApi(), pod(nodeName="n1")
    await api.create(PODS, mine)
    mine["spec"]["nodeName"] = "changed"
    (await api.get(PODS, "p", namespace="ns"))["spec"]["nodeName"] = "changed too"
    assert api.objects(PODS)["ns", "p"]["spec"] == {"nodeName": "n1"}


async def test_a_write_to_the_status_leaves_the_spec_and_the_other_way_round() -> None:
    api = FakeApi()
    made = await api.create(DEPLOYMENTS, {**pod(replicas=1), "status": {"ready": 0}})
    both = {**made, "spec": {"replicas": 2}, "status": {"ready": 1}}
    by_spec = await api.update(DEPLOYMENTS, both)
    assert (by_spec["spec"], by_spec["status"]) == ({"replicas": 2}, {"ready": 0})
    by_status = await api.update(DEPLOYMENTS, {**by_spec, "spec": {}, "status": {"ready": 1}}, subresource="status")
    assert (by_status["spec"], by_status["status"]) == ({"replicas": 2}, {"ready": 1})
    assert (by_spec["metadata"]["generation"], by_status["metadata"]["generation"]) == (2, 2)


async def test_an_update_that_changes_nothing_makes_no_revision() -> None:
    api = FakeApi()
    made = await api.create(PODS, pod(a=1))
    assert (await api.update(PODS, made))["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_finalizers_hold_an_object_until_the_last_is_gone() -> None:
    api = FakeApi()
    await api.create(NODES, {"metadata": {"name": "n", "finalizers": ["a"]}})
    await api.delete(NODES, "n")
    assert (await api.get(NODES, "n"))["metadata"]["deletionTimestamp"]
    await api.patch(NODES, "n", {"metadata": {"finalizers": None}})
    with pytest.raises(errors.NotFound):
        await api.get(NODES, "n")


async def test_a_bound_pod_lives_on_until_its_agent_lets_go() -> None:
    api = FakeApi()
    await api.create(PODS, pod(terminationGracePeriodSeconds=5))
    await api.create(PODS, {"target": {"name": "n1"}}, namespace="ns", name="p", subresource="binding")
    await api.delete(PODS, "p", namespace="ns")
    assert api.objects(PODS)["ns", "p"]["metadata"]["deletionGracePeriodSeconds"] == 5
    await api.delete(PODS, "p", namespace="ns", grace_seconds=0)
    assert not api.objects(PODS)


async def test_an_unbound_pod_goes_at_once() -> None:
    api = FakeApi()
    await api.create(PODS, pod())
    await api.delete(PODS, "p", namespace="ns")
    assert not api.objects(PODS)


async def test_generated_names_differ() -> None:
    api = FakeApi()
    names = {(await api.create(PODS, {"metadata": {"generateName": "p-"}}))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3


async def test_faults_come_as_often_as_asked() -> None:
    api = FakeApi()
    api.fail("get", errors.Timeout(504, "Timeout", "slow"), resource=NODES, times=2)
    for _ in range(2):
        with pytest.raises(errors.Timeout):
            await api.get(NODES, "n")
    with pytest.raises(errors.NotFound):
        await api.get(NODES, "n")


async def test_each_kind_of_patch_changes_what_it_says() -> None:
    api = FakeApi()
    made = await api.create(PODS, {**pod(a=1), "status": {"conditions": [{"type": "A", "status": "True"}]}})
    assert (await api.patch(PODS, "p", {"spec": {"a": None, "b": 2}}, namespace="ns"))["spec"] == {"b": 2}
    operations = [{"op": "replace", "path": "/spec/b", "value": 3}]
    assert (await api.patch(PODS, "p", operations, namespace="ns", kind="json"))["spec"] == {"b": 3}
    condition = {"status": {"conditions": [{"type": "B", "status": "True"}]}}
    patched = await api.patch(PODS, "p", condition, namespace="ns", kind="strategic", subresource="status")
    assert {entry["type"] for entry in patched["status"]["conditions"]} == {"A", "B"}
    assert patched["metadata"]["uid"] == made["metadata"]["uid"]


async def test_a_patch_that_does_not_fit_is_invalid() -> None:
    api = FakeApi()
    await api.create(PODS, pod())
    with pytest.raises(errors.Invalid):
        await api.patch(PODS, "p", [{"op": "remove", "path": "/spec/none"}], namespace="ns", kind="json")
