"""Read from a pod which ConfigMaps, Secrets, claims and accounts its node needs for it. Pure.

The fields are those that k8s.io/kubernetes/pkg/api/v1/pod visits (VisitPodSecretNames, VisitPodConfigmapNames).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from netplane.kube.types import Object

MIRROR = "kubernetes.io/config.mirror"
"""The annotation of a pod that only shows what a node runs by itself; nothing is read for it."""

Reference = tuple[str, str]
"""(plural, name) of an object in the pod's namespace."""

_SECRET_OF_VOLUME = {
    "azureFile": "secretName",
    "cephfs": "secretRef",
    "csi": "nodePublishSecretRef",
    "flexVolume": "secretRef",
    "iscsi": "secretRef",
    "rbd": "secretRef",
    "scaleIO": "secretRef",
    "storageos": "secretRef",
}


def is_mirror(pod: Object) -> bool:
    """Whether the pod is the image of one that its node has from elsewhere."""
    return MIRROR in (pod["metadata"].get("annotations") or {})


def of(pod: Object) -> frozenset[Reference]:
    """Return what the pod refers to, its ServiceAccount included; nothing for a mirror pod."""
    return frozenset() if is_mirror(pod) else named(pod)


def named(pod: Object) -> frozenset[Reference]:
    """Return what the pod's spec names, whatever pod it is."""
    spec = pod.get("spec") or {}
    found = set(_of_volumes(pod["metadata"].get("name", ""), spec.get("volumes") or ()))
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            found.update(_of_container(container))
    found.update(("secrets", each.get("name", "")) for each in spec.get("imagePullSecrets") or ())
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    found.add(("serviceaccounts", account or ""))
    return frozenset(each for each in found if each[1])


def audiences(pod: Object) -> frozenset[str]:
    """Return for whom the pod's projected tokens are; "" is the API itself."""
    found = set()
    for volume in (pod.get("spec") or {}).get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            if source.get("serviceAccountToken") is not None:
                found.add(str(source["serviceAccountToken"].get("audience") or ""))
    return frozenset(found)


def _of_container(container: Any) -> Iterator[Reference]:
    for source in container.get("envFrom") or ():
        yield "configmaps", (source.get("configMapRef") or {}).get("name", "")
        yield "secrets", (source.get("secretRef") or {}).get("name", "")
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        yield "configmaps", (source.get("configMapKeyRef") or {}).get("name", "")
        yield "secrets", (source.get("secretKeyRef") or {}).get("name", "")


def _of_volumes(pod_name: str, volumes: Any) -> Iterator[Reference]:
    for volume in volumes:
        yield from _of_source(volume)
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield "configmaps", (source.get("configMap") or {}).get("name", "")
            yield "secrets", (source.get("secret") or {}).get("name", "")
        if volume.get("ephemeral") is not None:
            yield "persistentvolumeclaims", f"{pod_name}-{volume['name']}"


def _of_source(volume: Any) -> Iterator[Reference]:
    yield "configmaps", (volume.get("configMap") or {}).get("name", "")
    yield "secrets", (volume.get("secret") or {}).get("secretName", "")
    yield "persistentvolumeclaims", (volume.get("persistentVolumeClaim") or {}).get("claimName", "")
    for kind, field in _SECRET_OF_VOLUME.items():
        named_by = (volume.get(kind) or {}).get(field)
        yield "secrets", named_by if isinstance(named_by, str) else (named_by or {}).get("name", "")
