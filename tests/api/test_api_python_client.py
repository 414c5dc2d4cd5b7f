"""The official Python client, as programs use it."""

from __future__ import annotations

import threading
from typing import Any

import kubernetes
import pytest
from kubernetes import dynamic

from tests.support import apiserver


@pytest.fixture(scope="module")
def api(server: apiserver.Server) -> Any:
    return kubernetes.config.new_client_from_config(str(server.kubeconfig))


def test_a_watch_follows_what_another_thread_does(api: Any, namespace: str) -> None:
    core = kubernetes.client.CoreV1Api(api)
    seen: list[tuple[str, str]] = []
    listed = core.list_namespaced_config_map(namespace)

    def follow() -> None:
        watch = kubernetes.watch.Watch()
        revision = listed.metadata.resource_version
        for event in watch.stream(
            core.list_namespaced_config_map, namespace, resource_version=revision, timeout_seconds=5
        ):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                return

    thread = threading.Thread(target=follow)
    thread.start()
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "one"}})
    core.patch_namespaced_config_map("one", namespace, {"data": {"a": "b"}})
    core.delete_namespaced_config_map("one", namespace)
    thread.join()
    assert [each for each in seen if each[1] == "one"] == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


def test_the_dynamic_client_finds_applies_and_deletes(api: Any, namespace: str) -> None:
    client = dynamic.DynamicClient(api)
    deployments = client.resources.get(api_version="apps/v1", kind="Deployment")
    container = {"name": "c", "image": "i"}
    spec = {
        "replicas": 0,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}},
    }
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
    made = deployments.server_side_apply(body=body, namespace=namespace, field_manager="test")
    assert made.metadata.managedFields[0].manager == "test"
    assert [each.metadata.name for each in deployments.get(namespace=namespace).items] == ["d"]
    deployments.delete(name="d", namespace=namespace)


def test_scale_and_eviction_are_typed_calls(api: Any, namespace: str) -> None:
    apps, core = kubernetes.client.AppsV1Api(api), kubernetes.client.CoreV1Api(api)
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }
    apps.create_namespaced_replica_set(namespace, {"metadata": {"name": "r"}, "spec": spec})
    scale = apps.patch_namespaced_replica_set_scale("r", namespace, {"spec": {"replicas": 0}})
    assert scale.spec.replicas in (0, None)
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    core.create_namespaced_pod(namespace, pod)
    core.create_namespaced_pod_eviction("p", namespace, {"metadata": {"name": "p"}})
    with pytest.raises(kubernetes.client.ApiException) as gone:
        core.read_namespaced_pod("p", namespace)
    assert gone.value.status == 404
