"""What is warned of in objects that are taken."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.controlplane.registry import cautions

SELECTED = {"nodeSelector": {"beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}, "containers": []}
HIDDEN = {"containers": [{"name": "c", "env": [{"name": "A"}, {"name": "B"}, {"name": "A"}]}]}
TEMPLATE = {"template": {"spec": SELECTED}}
OLD = 'nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead'


def told(version: str, kind: str, spec: Any, *notes: str, is_new: bool = True) -> list[str]:
    metadata = {"annotations": dict.fromkeys(notes, "x")}
    obj = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
    return cautions.of_object(obj, is_new=is_new)


@pytest.mark.parametrize(
    ("version", "kind", "spec", "expected"),
    [
        ("v1", "Pod", SELECTED, f"spec.{OLD}"),
        ("apps/v1", "Deployment", TEMPLATE, f"spec.template.spec.{OLD}"),
        ("batch/v1", "CronJob", {"jobTemplate": {"spec": TEMPLATE}}, f"spec.jobTemplate.spec.template.spec.{OLD}"),
        (
            "v1",
            "Pod",
            HIDDEN,
            'spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply',
        ),
        (
            "v1",
            "Service",
            {"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP"},
            "spec.SessionAffinity is ignored for headless services",
        ),
        (
            "v1",
            "Service",
            {"type": "ClusterIP", "externalName": "x"},
            'spec.externalName is ignored when spec.type is not "ExternalName"',
        ),
    ],
)
def test_what_is_deprecated_ignored_or_hidden_is_told(version: str, kind: str, spec: Any, expected: str) -> None:
    assert told(version, kind, spec) == [expected]


def test_old_annotations_are_told() -> None:
    claim = told("v1", "PersistentVolumeClaim", {}, "volume.beta.kubernetes.io/storage-class")
    assert "deprecated since v1.8" in claim[0]
    version, note = "networking.k8s.io/v1", "kubernetes.io/ingress.class"
    assert "is deprecated, please use 'spec.ingressClassName'" in told(version, "Ingress", {}, note)[0]
    assert not told(version, "Ingress", {}, note, is_new=False)


def test_of_what_is_as_it_should_be_nothing_is_told() -> None:
    plain = {"nodeSelector": {"kubernetes.io/os": "linux"}, "containers": [{"name": "c", "env": [{"name": "A"}]}]}
    assert not told("v1", "Pod", plain)
    assert not told("v1", "Service", {"type": "ClusterIP", "clusterIP": "10.96.0.9", "sessionAffinity": "ClientIP"})
    assert not told("example.org/v1", "Pod", SELECTED)
