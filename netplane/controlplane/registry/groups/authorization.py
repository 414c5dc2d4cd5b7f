"""authorization.k8s.io: questions about what somebody may do, answered and not kept."""

from __future__ import annotations

from netplane.controlplane.registry.types import CREATE_ONLY, ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.authorization.v1."

TYPES = (
    ResourceType(
        resource=Resource("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview"),
        singular="localsubjectaccessreview",
        definition=_DEFINITIONS + "LocalSubjectAccessReview",
        verbs=CREATE_ONLY,
    ),
    ResourceType(
        resource=Resource(
            "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
        ),
        singular="selfsubjectaccessreview",
        definition=_DEFINITIONS + "SelfSubjectAccessReview",
        verbs=CREATE_ONLY,
    ),
    ResourceType(
        resource=Resource(
            "authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", namespaced=False
        ),
        singular="selfsubjectrulesreview",
        definition=_DEFINITIONS + "SelfSubjectRulesReview",
        verbs=CREATE_ONLY,
    ),
    ResourceType(
        resource=Resource(
            "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
        ),
        singular="subjectaccessreview",
        definition=_DEFINITIONS + "SubjectAccessReview",
        verbs=CREATE_ONLY,
    ),
)
