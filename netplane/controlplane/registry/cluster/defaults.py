"""Fill in what the smaller types leave unsaid, and what a create adds to them."""

from __future__ import annotations

import base64

from netplane.controlplane.registry.pods import defaults as pods
from netplane.kube.types import Object


def namespace(obj: Object) -> None:
    """Fill in a Namespace: its name as a label, so that policies can select it."""
    metadata = obj["metadata"]
    if metadata.get("name"):
        metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]


def prepare_namespace(obj: Object) -> None:
    """A new namespace is active, and holds the finalizer that empties it before it goes."""
    obj["status"] = {"phase": "Active"}
    finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")


def update_namespace(new: Object, old: Object) -> None:
    """A namespace's finalizers change through `finalize` only."""
    new["spec"] = old.get("spec") or {}


def node(obj: Object) -> None:
    """Fill in a Node: what it can give is what it has, unless it says otherwise."""
    obj.setdefault("spec", {})
    spec, status = obj["spec"], obj.setdefault("status", {})
    if "capacity" in status:
        allocatable = status.setdefault("allocatable", {})
        for name, amount in status["capacity"].items():
            allocatable.setdefault(name, amount)
    if spec.get("podCIDR") and (spec.get("podCIDRs") or [""])[0] != spec["podCIDR"]:
        spec["podCIDRs"] = [spec["podCIDR"]]
    elif spec.get("podCIDRs") and not spec.get("podCIDR"):
        spec["podCIDR"] = spec["podCIDRs"][0]


def secret(obj: Object) -> None:
    """Fill in a Secret: `stringData` becomes `data`."""
    texts = obj.pop("stringData", None)
    if texts:
        data = obj.setdefault("data", {})
        for key, value in texts.items():
            data[key] = base64.b64encode(value.encode()).decode()
    obj["type"] = obj.get("type") or "Opaque"


def event(obj: Object) -> None:
    """Fill in an Event."""
    obj.setdefault("source", {})
    obj.setdefault("involvedObject", {})
    for name in ("reportingComponent", "reportingInstance"):
        obj.setdefault(name, "")


def persistent_volume(obj: Object) -> None:
    """Fill in a PersistentVolume."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")
    if "hostPath" in spec:
        spec["hostPath"].setdefault("type", "")
    pods.source(spec)


def persistent_volume_claim(obj: Object) -> None:
    """Fill in a PersistentVolumeClaim."""
    obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")


def prepare_pending(obj: Object) -> None:
    """A new volume or claim is pending."""
    obj["status"] = {"phase": "Pending"}


def limit_range(obj: Object) -> None:
    """Fill in a LimitRange: defaults follow from maxima, requests from defaults."""
    for item in (obj.get("spec") or {}).get("limits", ()):
        if item.get("type") != "Container":
            continue
        for target, source in (("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")):
            for name, amount in (item.get(source) or {}).items():
                item.setdefault(target, {}).setdefault(name, amount)


def pod_template(obj: Object) -> None:
    """Fill in a PodTemplate."""
    pods.template(obj.setdefault("template", {}))


def role_binding(obj: Object) -> None:
    """Fill in a RoleBinding or ClusterRoleBinding: the API groups of role and subjects."""
    role = obj.setdefault("roleRef", {})
    role["apiGroup"] = role.get("apiGroup") or "rbac.authorization.k8s.io"
    for subject in obj.get("subjects") or ():
        if not subject.get("apiGroup") and subject.get("kind") in ("User", "Group"):
            subject["apiGroup"] = "rbac.authorization.k8s.io"


def role(obj: Object) -> None:
    """Fill in a Role or ClusterRole."""
    obj.setdefault("rules", [])


def priority_class(obj: Object) -> None:
    """Fill in a PriorityClass."""
    obj.setdefault("preemptionPolicy", "PreemptLowerPriority")


def storage_class(obj: Object) -> None:
    """Fill in a StorageClass."""
    obj.setdefault("reclaimPolicy", "Delete")
    obj.setdefault("volumeBindingMode", "Immediate")


def network_policy(obj: Object) -> None:
    """Fill in a NetworkPolicy: egress is governed only when it is spoken of."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in [*(spec.get("ingress") or ()), *(spec.get("egress") or ())]:
        for port in rule.get("ports") or ():
            port["protocol"] = port.get("protocol") or "TCP"


def ingress_class(obj: Object) -> None:
    """Fill in an IngressClass."""
    parameters = (obj.get("spec") or {}).get("parameters")
    if parameters:
        parameters.setdefault("scope", "Cluster")


def horizontal_pod_autoscaler(obj: Object) -> None:
    """Fill in a HorizontalPodAutoscaler (autoscaling/v2)."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("minReplicas", 1)
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if behavior is None:
        return
    up = [{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]
    down = [{"type": "Percent", "value": 100, "periodSeconds": 15}]
    for name, seconds, policies in (("scaleUp", 0, up), ("scaleDown", None, down)):
        rules = behavior.setdefault(name, {})
        if seconds is not None:
            rules.setdefault("stabilizationWindowSeconds", seconds)
        rules.setdefault("selectPolicy", "Max")
        rules.setdefault("policies", policies)


def mutating_webhooks(obj: Object) -> None:
    """Fill in a MutatingWebhookConfiguration."""
    validating_webhooks(obj)
    for hook in obj.get("webhooks") or ():
        hook.setdefault("reinvocationPolicy", "Never")


def validating_webhooks(obj: Object) -> None:
    """Fill in a ValidatingWebhookConfiguration."""
    for hook in obj.get("webhooks") or ():
        hook.setdefault("failurePolicy", "Fail")
        hook.setdefault("matchPolicy", "Equivalent")
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        hook.setdefault("timeoutSeconds", 10)
        service = (hook.get("clientConfig") or {}).get("service")
        if service:
            service.setdefault("port", 443)
        for rule in hook.get("rules") or ():
            rule.setdefault("scope", "*")


def custom_resource_definition(obj: Object) -> None:
    """Fill in a CustomResourceDefinition."""
    spec = obj.setdefault("spec", {})
    names = spec.setdefault("names", {})
    kind = names.get("kind", "")
    names["singular"] = names.get("singular") or kind.lower()
    names["listKind"] = names.get("listKind") or f"{kind}List"
    spec.setdefault("conversion", {"strategy": "None"})
    spec["conversion"].setdefault("strategy", "None")
    service = ((spec["conversion"].get("webhook") or {}).get("clientConfig") or {}).get("service")
    if service:
        service.setdefault("port", 443)
