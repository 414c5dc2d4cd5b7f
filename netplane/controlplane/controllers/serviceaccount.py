"""Give every namespace its default ServiceAccount and the cluster's CA certificate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import writes
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import CONFIGMAPS, NAMESPACES, SERVICEACCOUNTS, Key, Object

ROOT_CA = "kube-root-ca.crt"
DESCRIPTION = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints."


def decide(view: View, key: Key, now: datetime, *, config: ControllerConfig) -> Sequence[writes.Write]:
    """Return the creations (or repair) of what a namespace must have."""
    namespace = view.get(NAMESPACES, key)
    if namespace is None or meta.is_deleting(namespace):
        return ()
    todo: list[writes.Write] = []
    name = key[1]
    if view.get(SERVICEACCOUNTS, (name, "default")) is None:
        account: Object = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": name},
        }
        todo.append(writes.Create(SERVICEACCOUNTS, account))
    held = view.get(CONFIGMAPS, (name, ROOT_CA))
    if not config.ca_pem:
        return todo
    wanted: Object = {"ca.crt": config.ca_pem}
    if held is None:
        metadata = {"name": ROOT_CA, "namespace": name, "annotations": {"kubernetes.io/description": DESCRIPTION}}
        body: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": wanted}
        todo.append(writes.Create(CONFIGMAPS, body))
    elif held.get("data") != wanted:
        todo.append(writes.Update(CONFIGMAPS, {**held, "data": wanted}))
    return todo
