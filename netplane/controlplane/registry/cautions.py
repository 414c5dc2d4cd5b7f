"""What the real server warns of in an object that it takes: what is deprecated, ignored or hidden. Pure.

After pkg/api/{pod,service}/warnings.go, pkg/api/persistentvolume{,claim} and the Ingress' strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from netplane.kube.types import Object

_LABELS: Final = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
}
_CLASS = "volume.beta.kubernetes.io/storage-class"
_INGRESS_CLASS = "kubernetes.io/ingress.class"
_HINTS, _MODE = "service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"


def of_object(obj: Object, *, is_new: bool) -> list[str]:
    """Return the warnings about an object of a built-in type, as it will be stored."""
    found = _BY_KIND.get((obj["apiVersion"], obj["kind"]))
    if found is not None:
        return list(found(obj))
    if is_new and obj["kind"] == "Ingress" and _INGRESS_CLASS in _annotations(obj):
        return [f"annotation \"{_INGRESS_CLASS}\" is deprecated, please use 'spec.ingressClassName' instead"]
    return []


def _annotations(obj: Object) -> Object:
    found: Object = obj["metadata"].get("annotations") or {}
    return found


def _pod(obj: Object) -> Iterator[str]:
    return _pod_spec(obj.get("spec") or {}, "spec")


def _template(obj: Object) -> Iterator[str]:
    template = (obj.get("spec") or {}).get("template") or {}
    return _pod_spec(template.get("spec") or {}, "spec.template.spec")


def _job_template(obj: Object) -> Iterator[str]:
    job = ((obj.get("spec") or {}).get("jobTemplate") or {}).get("spec") or {}
    return _pod_spec((job.get("template") or {}).get("spec") or {}, "spec.jobTemplate.spec.template.spec")


def _pod_spec(spec: Object, at: str) -> Iterator[str]:
    for label in spec.get("nodeSelector") or ():
        if label in _LABELS:
            yield f"{at}.nodeSelector[{label}]: {_LABELS[label]}"
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        yield f"{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or ()):
            if len(container.get("env") or ()) > 1:
                yield from _hidden(container["env"], f"{at}.{kind}[{index}].env")


def _hidden(env: list[Object], at: str) -> Iterator[str]:
    seen: set[str] = set()
    for index, each in enumerate(env):
        name = each.get("name", "")
        if name in seen:
            told = f'hides previous definition of "{name}", which may be dropped when using apply'
            yield f"{at}[{index}]: {told}"
        seen.add(name)


def _service(obj: Object) -> Iterator[str]:
    spec = obj["spec"]
    if _HINTS in _annotations(obj):
        yield f"annotation {_HINTS} is deprecated, please use {_MODE} instead"
    if spec.get("clusterIP") == "None" and spec.get("type") == "ClusterIP":
        if spec.get("loadBalancerIP"):
            yield "spec.loadBalancerIP is ignored for headless services"
        if spec.get("externalIPs"):
            yield "spec.externalIPs is ignored for headless services"
        if spec.get("sessionAffinity", "None") != "None":
            yield "spec.SessionAffinity is ignored for headless services"
    if spec.get("type") == "ExternalName" and spec.get("externalIPs"):
        yield 'spec.externalIPs is ignored when spec.type is "ExternalName"'
    if spec.get("type") != "ExternalName" and spec.get("externalName"):
        yield 'spec.externalName is ignored when spec.type is not "ExternalName"'


def _claim(obj: Object) -> Iterator[str]:
    if _CLASS in _annotations(obj):
        yield f'metadata.annotations[{_CLASS}]: deprecated since v1.8; use "storageClassName" attribute instead'


def _volume(obj: Object) -> Iterator[str]:
    yield from _claim(obj)
    if (obj.get("spec") or {}).get("persistentVolumeReclaimPolicy") == "Recycle":
        yield (
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended"
            " approach is to use dynamic provisioning."
        )


_BY_KIND: Final[dict[tuple[str, str], Callable[[Object], Iterator[str]]]] = {
    ("v1", "Pod"): _pod,
    ("v1", "ReplicationController"): _template,
    ("apps/v1", "Deployment"): _template,
    ("apps/v1", "ReplicaSet"): _template,
    ("apps/v1", "StatefulSet"): _template,
    ("apps/v1", "DaemonSet"): _template,
    ("batch/v1", "Job"): _template,
    ("batch/v1", "CronJob"): _job_template,
    ("v1", "Service"): _service,
    ("v1", "PersistentVolumeClaim"): _claim,
    ("v1", "PersistentVolume"): _volume,
}
