"""Fill in what a pod leaves unsaid (pkg/apis/core/v1/defaults.go). Every function is idempotent."""

from __future__ import annotations

from collections.abc import Mapping

from netplane.kube.types import Object

_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HOOKS = ("postStart", "preStop")
_FILE_MODE = 0o644
_SOURCES: dict[str, dict[str, str | bool]] = {
    "azureDisk": {"cachingMode": "ReadWrite", "kind": "Shared", "fsType": "ext4", "readOnly": False},
    "iscsi": {"iscsiInterface": "default"},
    "rbd": {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"},
    "scaleIO": {"storageMode": "ThinProvisioned", "fsType": "xfs"},
}


def pod(obj: Object) -> None:
    """Fill in a Pod: what its template would, and what only pods get."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("enableServiceLinks", True)
    template_spec(spec)
    for container in _containers(spec):
        _requests_from_limits(container["resources"])
        if spec.get("hostNetwork"):
            for port in container.get("ports", ()):
                port["hostPort"] = port.get("hostPort") or port.get("containerPort")


def template(obj: Object) -> None:
    """Fill in a PodTemplateSpec."""
    obj.setdefault("metadata", {})
    template_spec(obj.setdefault("spec", {}))


def template_spec(spec: Object) -> None:
    """Fill in a PodSpec."""
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name
    for each in spec.get("volumes", ()):
        _volume(each)
    for each in _containers(spec):
        _container(each)


def _containers(spec: Object) -> list[Object]:
    return [
        *spec.get("initContainers", ()),
        *spec.get("containers", ()),
        *spec.get("ephemeralContainers", ()),
    ]


def _container(container: Object) -> None:
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    if "imagePullPolicy" not in container:
        container["imagePullPolicy"] = _pull_policy(container.get("image", ""))
    for port in container.get("ports", ()):
        port.setdefault("protocol", "TCP")
    for variable in container.get("env", ()):
        source = variable.get("valueFrom") or {}
        _field_reference(source.get("fieldRef"))
        _resource_reference(source.get("resourceFieldRef"))
    for name in _PROBES:
        if name in container:
            _probe(container[name])
    for name in _HOOKS:
        _http_get((container.get("lifecycle") or {}).get(name, {}).get("httpGet"))


def _pull_policy(image: str) -> str:
    """`Always` for an image that may change under its name: tag `latest`, or no tag and no digest."""
    name, at, _digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if tag:
        return "Always" if tag == "latest" else "IfNotPresent"
    return "IfNotPresent" if at else "Always"


def _probe(probe: Object) -> None:
    probe.setdefault("timeoutSeconds", 1)
    probe.setdefault("periodSeconds", 10)
    probe.setdefault("successThreshold", 1)
    probe.setdefault("failureThreshold", 3)
    _http_get(probe.get("httpGet"))
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _http_get(action: Object | None) -> None:
    if action is not None:
        action["path"] = action.get("path") or "/"
        action["scheme"] = action.get("scheme") or "HTTP"


def _field_reference(reference: Object | None) -> None:
    if reference is not None:
        reference["apiVersion"] = reference.get("apiVersion") or "v1"


def _resource_reference(reference: Object | None) -> None:
    if reference is not None:
        reference.setdefault("divisor", "0")


def _requests_from_limits(resources: Object) -> None:
    limits: Mapping[str, str] = resources.get("limits") or {}
    if limits:
        requests = resources.setdefault("requests", {})
        for name, amount in limits.items():
            requests.setdefault(name, amount)


def _volume(volume: Object) -> None:
    if len(volume) == 1:
        volume["emptyDir"] = {}
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        if name in volume:
            volume[name].setdefault("defaultMode", _FILE_MODE)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")
    source(volume)
    if "image" in volume and "pullPolicy" not in volume["image"]:
        volume["image"]["pullPolicy"] = _pull_policy(volume["image"].get("reference", ""))
    if "ephemeral" in volume:
        claim = volume["ephemeral"].get("volumeClaimTemplate") or {}
        claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    _downward(volume.get("downwardAPI") or {})
    for each in (volume.get("projected") or {}).get("sources", ()):
        _downward(each.get("downwardAPI") or {})
        if "serviceAccountToken" in each:
            each["serviceAccountToken"].setdefault("expirationSeconds", 3600)


def source(volume: Object) -> None:
    """Fill in where a volume of a pod, or a PersistentVolume, has its data."""
    for name, fields in _SOURCES.items():
        if name in volume:
            for field, value in fields.items():
                volume[name].setdefault(field, value)


def _downward(files: Object) -> None:
    for item in files.get("items", ()):
        _field_reference(item.get("fieldRef"))
        _resource_reference(item.get("resourceFieldRef"))
