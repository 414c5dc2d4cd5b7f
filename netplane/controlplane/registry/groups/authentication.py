"""authentication.k8s.io: questions about who somebody is, answered and not kept."""

from __future__ import annotations

from netplane.controlplane.registry.types import CREATE_ONLY, ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.authentication.v1."

TYPES = (
    ResourceType(
        resource=Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False),
        singular="selfsubjectreview",
        definition=_DEFINITIONS + "SelfSubjectReview",
        verbs=CREATE_ONLY,
    ),
    ResourceType(
        resource=Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False),
        singular="tokenreview",
        definition=_DEFINITIONS + "TokenReview",
        verbs=CREATE_ONLY,
    ),
    # kubectl 1.27 asks `auth whoami` in this version alone; the review is the same.
    ResourceType(
        resource=Resource(
            "authentication.k8s.io", "v1beta1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False
        ),
        singular="selfsubjectreview",
        definition=_DEFINITIONS + "SelfSubjectReview",
        verbs=CREATE_ONLY,
    ),
)
