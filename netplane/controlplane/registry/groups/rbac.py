"""rbac.authorization.k8s.io: roles and who has them."""

from __future__ import annotations

from netplane.controlplane.registry.cluster import columns, defaults, validate
from netplane.controlplane.registry.rules import names
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.rbac.v1."

TYPES = (
    ResourceType(
        resource=Resource(
            "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
        ),
        singular="clusterrolebinding",
        definition=_DEFINITIONS + "ClusterRoleBinding",
        columns=columns.BINDING,
        cells=columns.binding,
        name_faults=names.path_segment,
        default=defaults.role_binding,
        validate=validate.cluster_role_binding,
        validate_update=validate.binding_update,
    ),
    ResourceType(
        resource=Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
        singular="clusterrole",
        definition=_DEFINITIONS + "ClusterRole",
        name_faults=names.path_segment,
        default=defaults.role,
        validate=validate.cluster_role,
    ),
    ResourceType(
        resource=Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
        singular="rolebinding",
        definition=_DEFINITIONS + "RoleBinding",
        columns=columns.BINDING,
        cells=columns.binding,
        name_faults=names.path_segment,
        default=defaults.role_binding,
        validate=validate.role_binding,
        validate_update=validate.binding_update,
    ),
    ResourceType(
        resource=Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
        singular="role",
        definition=_DEFINITIONS + "Role",
        name_faults=names.path_segment,
        default=defaults.role,
        validate=validate.role,
    ),
)
