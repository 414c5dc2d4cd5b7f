"""apiextensions.k8s.io: CustomResourceDefinition."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import defaults
from netplane.controlplane.registry.crd import definition
from netplane.controlplane.registry.groups.shared import STATUS
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."

TYPES = (
    ResourceType(
        resource=Resource(
            "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
        ),
        singular="customresourcedefinition",
        definition=_DEFINITIONS + "CustomResourceDefinition",
        short_names=("crd", "crds"),
        subresources=(STATUS,),
        categories=("api-extensions",),
        has_generation=True,
        allows_unconditional_update=False,
        default=defaults.custom_resource_definition,
        validate=definition.validate,
        prepare_create=definition.prepare,
        prepare_update=definition.prepare_update,
        validate_create=definition.validate_create,
        validate_update=definition.validate_update,
        validate_status=definition.validate_status,
    ),
)
