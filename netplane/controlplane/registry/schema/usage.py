"""The definitions of metrics.k8s.io, which Kubernetes' own documents do not hold (staging/src/k8s.io/metrics)."""

from __future__ import annotations

from typing import Any

PREFIX = "io.k8s.metrics.pkg.apis.metrics.v1beta1."
_META = "#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1."
_TEXT = {"type": "string"}
_USAGE = {"type": "object", "additionalProperties": {"$ref": "#/$defs/io.k8s.apimachinery.pkg.api.resource.Quantity"}}


def definitions() -> dict[str, Any]:
    """Return name to schema, in the form of `kubernetes_validate`'s."""
    container = {"type": "object", "properties": {"name": _TEXT, "usage": _USAGE}, "required": ["name", "usage"]}
    containers = {"type": "array", "items": {"$ref": f"#/$defs/{PREFIX}ContainerMetrics"}}
    return {
        f"{PREFIX}ContainerMetrics": {"description": "Resource usage of one container.", **container},
        **_kind("NodeMetrics", "Resource usage of a node.", {"usage": _USAGE}),
        **_kind("PodMetrics", "Resource usage of a pod.", {"containers": containers}),
    }


def _kind(kind: str, description: str, own: dict[str, Any]) -> dict[str, Any]:
    top = {"apiVersion": _TEXT, "kind": _TEXT}
    fields = {"metadata": {"$ref": f"{_META}ObjectMeta"}, "timestamp": {"$ref": f"{_META}Time"}, "window": _TEXT}
    items = {"type": "array", "items": {"$ref": f"#/$defs/{PREFIX}{kind}"}}
    return {
        PREFIX + kind: {
            "description": description,
            "type": "object",
            "properties": {**top, **fields, **own},
            "x-kubernetes-group-version-kind": [_named(kind)],
        },
        f"{PREFIX}{kind}List": {
            "description": f"A list of {kind}.",
            "type": "object",
            "required": ["items"],
            "properties": {**top, "metadata": {"$ref": f"{_META}ListMeta"}, "items": items},
            "x-kubernetes-group-version-kind": [_named(f"{kind}List")],
        },
    }


def _named(kind: str) -> dict[str, str]:
    return {"group": "metrics.k8s.io", "version": "v1beta1", "kind": kind}
