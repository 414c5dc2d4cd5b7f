"""The roles and bindings that every cluster starts with, as data. Evaluating them is rbac's, storing them defaults'.

The `system:` roles of nodes and proxies follow Kubernetes' own bootstrappolicy; `system:netplane-cni` and
`system:netplane-ingress` are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from netplane.kube.types import Object

_GROUP = "rbac.authorization.k8s.io"
READ = ("get", "list", "watch")
_CSRS = "certificates.k8s.io"
_WRITE = ("create", "delete", "deletecollection", "patch", "update")
_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AUTOUPDATE = {"rbac.authorization.kubernetes.io/autoupdate": "true"}


def _rule(verbs: Sequence[str], groups: str, resources: str, names: Sequence[str] = ()) -> Object:
    out: Object = {"verbs": list(verbs), "apiGroups": groups.split(","), "resources": resources.split()}
    if names:
        out["resourceNames"] = list(names)
    return out


def _paths(*paths: str) -> Object:
    return {"verbs": ["get"], "nonResourceURLs": list(paths)}


_CORE_EDIT = "configmaps endpoints persistentvolumeclaims pods replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy pods/attach pods/exec pods/portforward pods/proxy"  # noqa: E501
_CORE_VIEW = "bindings configmaps endpoints events limitranges namespaces namespaces/status persistentvolumeclaims persistentvolumeclaims/status pods pods/log pods/status replicationcontrollers replicationcontrollers/scale replicationcontrollers/status resourcequotas resourcequotas/status serviceaccounts services services/status"  # noqa: E501
_APPS_EDIT = "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"  # noqa: E501
_APPS_VIEW = "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"  # noqa: E501
_NETWORKING = "ingresses networkpolicies"
_NETWORKING_VIEW = "ingresses ingresses/status networkpolicies"

_VIEW = [
    _rule(READ, "", _CORE_VIEW),
    _rule(READ, "discovery.k8s.io", "endpointslices"),
    _rule(READ, "apps", _APPS_VIEW),
    _rule(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    _rule(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    _rule(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    _rule(READ, "networking.k8s.io", _NETWORKING_VIEW),
    _rule(READ, "metrics.k8s.io", "nodes pods"),
]
_EDIT = [
    _rule(READ, "", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    _rule(("impersonate",), "", "serviceaccounts"),
    _rule(_WRITE, "", _CORE_EDIT),
    _rule(("create",), "", "pods/eviction serviceaccounts/token"),
    _rule(_WRITE, "", "events"),
    _rule(_WRITE, "apps", _APPS_EDIT),
    _rule(_WRITE, "autoscaling", "horizontalpodautoscalers"),
    _rule(_WRITE, "batch", "cronjobs jobs"),
    _rule(_WRITE, "policy", "poddisruptionbudgets"),
    _rule(_WRITE, "networking.k8s.io", _NETWORKING),
    _rule((*READ, *_WRITE), "coordination.k8s.io", "leases"),
]
_ADMIN = [
    _rule(("create",), "authorization.k8s.io", "localsubjectaccessreviews"),
    _rule((*READ, *_WRITE), _GROUP, "rolebindings roles"),
]
NODE = [
    _rule(("create",), "authentication.k8s.io", "tokenreviews"),
    _rule(("create",), "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    _rule(READ, "", "services"),
    _rule(("create", *READ), "", "nodes"),
    _rule(("patch", "update"), "", "nodes nodes/status"),
    _rule(("create", "patch", "update"), "", "events"),
    _rule(("create", "patch", "update"), "events.k8s.io", "events"),
    _rule(("create", "delete", *READ), "", "pods"),
    _rule(("get", "patch", "update"), "", "pods/status"),
    _rule(("create",), "", "pods/eviction"),
    _rule(READ, "", "configmaps secrets"),
    _rule(("get",), "", "persistentvolumeclaims persistentvolumes endpoints"),
    _rule(("create", "delete", "get", "patch", "update"), "coordination.k8s.io", "leases"),
    _rule(("create",), "", "serviceaccounts/token"),
    _rule(("get",), "", "serviceaccounts"),
    _rule(READ, "node.k8s.io", "runtimeclasses"),
    _rule(("create", *READ), "certificates.k8s.io", "certificatesigningrequests"),
    {"verbs": ["post"], "nonResourceURLs": ["/netplane.io/v1/node-certificate", "/netplane.io/v1/node-credentials"]},
]
"""The outer bounds of a node's agent; `node` narrows them to what its pods need."""
_PROXY = [
    _rule(READ, "", "endpoints services nodes namespaces"),
    _rule(("create", "patch", "update"), "", "events"),
    _rule(("create", "patch", "update"), "events.k8s.io", "events"),
    _rule(READ, "discovery.k8s.io", "endpointslices"),
    _rule(READ, "networking.k8s.io", "servicecidrs"),
    _rule(("patch", "update"), "", "nodes/status"),
]
_CNI = [
    _rule(READ, "", "nodes namespaces pods services endpoints"),
    _rule(("patch", "update"), "", "nodes nodes/status"),
    _rule(READ, "networking.k8s.io", "networkpolicies"),
    _rule(("create", "patch", "update"), "", "events"),
    _rule(("create", "patch", "update"), "events.k8s.io", "events"),
]
_INGRESS = [
    _rule(READ, "networking.k8s.io", "ingresses ingressclasses"),
    _rule(("patch", "update"), "networking.k8s.io", "ingresses/status"),
    _rule(READ, "", "services secrets namespaces"),
    _rule(READ, "discovery.k8s.io", "endpointslices"),
    _rule(("create", "patch", "update"), "", "events"),
    _rule(READ, "gateway.networking.k8s.io", "gatewayclasses gateways httproutes referencegrants"),
    _rule(("patch", "update"), "gateway.networking.k8s.io", "gatewayclasses/status gateways/status httproutes/status"),
]
_HEALTH = ("/healthz", "/livez", "/readyz", "/version", "/version/")
_KEYS = ("/openid/v1/jwks", "/netplane.io/v1/jwks", "/.well-known/openid-configuration")
_DISCOVERY = [_paths("/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *_HEALTH, *_KEYS)]
_PUBLIC = [_paths(*_HEALTH)]
_SELF = [
    _rule(("create",), "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
    _rule(("create",), "authentication.k8s.io", "selfsubjectreviews"),
]
_ANYTHING = [_rule(("*",), "*", "*"), {"verbs": ["*"], "nonResourceURLs": ["*"]}]


def _aggregated(name: str, own: Sequence[Object], *into: str) -> list[Object]:
    """A role made of labelled parts, so that CustomResourceDefinitions can add theirs: the part and the whole."""
    part, whole = f"system:aggregate-to-{name}", {"matchLabels": {f"{_GROUP}/aggregate-to-{name}": "true"}}
    labels = {f"{_GROUP}/aggregate-to-{each}": "true" for each in (name, *into)}
    return [
        _role(part, own, labels=labels),
        _role(name, [], aggregation={"clusterRoleSelectors": [whole]}, labels={}),
    ]


def _role(
    name: str, rules: Sequence[Object], *, labels: Object | None = None, aggregation: Object | None = None
) -> Object:
    metadata: Object = {"name": name, "labels": {**_LABELS, **(labels or {})}, "annotations": dict(_AUTOUPDATE)}
    out: Object = {"apiVersion": f"{_GROUP}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": list(rules)}
    if aggregation:
        # Its rules are clusterrole-aggregation-controller's to write.
        out["aggregationRule"] = aggregation
        del out["rules"]
    return out


def _binding(name: str, role: str, *subjects: tuple[str, str]) -> Object:
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": dict(_LABELS), "annotations": dict(_AUTOUPDATE)},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": kind, "apiGroup": _GROUP, "name": subject} for kind, subject in subjects],
    }


def cluster_roles() -> list[Object]:
    """Return the built-in ClusterRoles."""
    return [
        _role("cluster-admin", _ANYTHING),
        *_aggregated("view", _VIEW, "edit", "admin"),
        *_aggregated("edit", _EDIT, "admin"),
        *_aggregated("admin", _ADMIN),
        _role("system:discovery", _DISCOVERY),
        _role("system:public-info-viewer", _PUBLIC),
        _role("system:basic-user", _SELF),
        _role("system:node", NODE),
        _role("system:node-proxier", _PROXY),
        _role("system:netplane-cni", _CNI),
        _role("system:netplane-ingress", _INGRESS),
        _role("system:node-bootstrapper", [_rule(("create", *READ), _CSRS, "certificatesigningrequests")]),
        _role(
            f"system:{_CSRS}:certificatesigningrequests:nodeclient",
            [_rule(("create",), _CSRS, "certificatesigningrequests/nodeclient")],
        ),
        _role(
            f"system:{_CSRS}:certificatesigningrequests:selfnodeclient",
            [_rule(("create",), _CSRS, "certificatesigningrequests/selfnodeclient")],
        ),
    ]


def cluster_role_bindings() -> list[Object]:
    """Return the built-in ClusterRoleBindings."""
    bootstrappers, nodes = ("Group", "system:bootstrappers"), ("Group", "system:nodes")
    return [
        _binding("cluster-admin", "cluster-admin", ("Group", "system:masters")),
        _binding("system:discovery", "system:discovery", ("Group", "system:authenticated")),
        _binding("system:basic-user", "system:basic-user", ("Group", "system:authenticated")),
        _binding(
            "system:public-info-viewer",
            "system:public-info-viewer",
            ("Group", "system:authenticated"),
            ("Group", "system:unauthenticated"),
        ),
        _binding("system:node", "system:node"),
        _binding("system:node-proxier", "system:node-proxier", ("User", "system:kube-proxy")),
        _binding("system:netplane-cni", "system:netplane-cni", ("User", "system:netplane-cni")),
        _binding("system:netplane-ingress", "system:netplane-ingress", ("User", "system:netplane-ingress")),
        _binding("netplane:node-bootstrapper", "system:node-bootstrapper", bootstrappers, nodes),
        _binding(
            "netplane:approve-node-client", f"system:{_CSRS}:certificatesigningrequests:nodeclient", bootstrappers
        ),
        _binding("netplane:renew-node-client", f"system:{_CSRS}:certificatesigningrequests:selfnodeclient", nodes),
    ]


def namespaced_roles() -> list[Object]:
    """Return the Roles and RoleBindings of single namespaces.

    Everybody reads `cluster-info`: where the cluster is and whom to trust, before one is known. The front doors share
    Leases in kube-system, for one of them at a time writes statuses and Events.
    """
    everybody = ("User", "system:anonymous"), ("Group", "system:bootstrappers")
    lease = _rule(("get", "create", "update"), "coordination.k8s.io", "leases")
    doors = (("User", "system:netplane-ingress"),)
    return [
        *_local("netplane:cluster-info", "kube-public", _rule(("get",), "", "configmaps", ["cluster-info"]), everybody),
        *_local("system:netplane-ingress", "kube-system", lease, doors),
    ]


def priority_classes() -> list[Object]:
    """Return the PriorityClasses of what a cluster cannot do without."""
    described = (
        ("system-node-critical", 2000001000, " that must not be moved from their current node"),
        (
            "system-cluster-critical",
            2000000000,
            " that must run in the cluster, but can be moved to another node if necessary",
        ),
    )
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": f"Used for system critical pods{which}.",
        }
        for name, value, which in described
    ]


def _local(name: str, namespace: str, rule: Object, subjects: Sequence[tuple[str, str]]) -> list[Object]:
    role, binding = _role(name, [rule]), _binding(name, name, *subjects)
    for obj in (role, binding):
        obj["metadata"]["namespace"] = namespace
    return [
        role | {"kind": "Role"},
        binding | {"kind": "RoleBinding", "roleRef": binding["roleRef"] | {"kind": "Role"}},
    ]
