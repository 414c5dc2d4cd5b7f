"""The core group: what `v1` serves."""

from __future__ import annotations

from dataclasses import replace

from netplane.controlplane.registry.cluster import columns, defaults, limits, statuses, storage, validate
from netplane.controlplane.registry.groups.shared import ALL, SCALE, STATUS, read
from netplane.controlplane.registry.pods import admission as pod_admission
from netplane.controlplane.registry.pods import columns as pod_columns
from netplane.controlplane.registry.pods import defaults as pod_defaults
from netplane.controlplane.registry.pods import validate as pod_rules
from netplane.controlplane.registry.rules import names
from netplane.controlplane.registry.services import allocate as service_allocation
from netplane.controlplane.registry.services import columns as service_columns
from netplane.controlplane.registry.services import defaults as service_defaults
from netplane.controlplane.registry.services import validate as service_rules
from netplane.controlplane.registry.types import CREATE_ONLY, ResourceType, ScalePaths, Subresource
from netplane.controlplane.registry.workloads import columns as workload_columns
from netplane.controlplane.registry.workloads import defaults as workload_defaults
from netplane.controlplane.registry.workloads import validate as workload_rules
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.core.v1."

_GET = ("get",)
_CONNECT = ("create", "get")
_PROXY_VERBS = ("create", "delete", "get", "patch", "update")
FINALIZE = Subresource("finalize", ("update",))
PROXY = Subresource("proxy", _PROXY_VERBS, kind="{proxy}")
TOKEN = Subresource("token", ("create",), kind="TokenRequest", group="authentication.k8s.io", version="v1")
NAMESPACE_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")
POD_SUBRESOURCES = (
    Subresource("attach", _CONNECT, kind="PodAttachOptions"),
    Subresource("binding", ("create",), kind="Binding"),
    Subresource("ephemeralcontainers", ("get", "patch", "update")),
    Subresource("eviction", ("create",), kind="Eviction", group="policy", version="v1"),
    Subresource("exec", _CONNECT, kind="PodExecOptions"),
    Subresource("log", _GET),
    Subresource("portforward", _CONNECT, kind="PodPortForwardOptions"),
    Subresource("proxy", _PROXY_VERBS, kind="PodProxyOptions"),
    Subresource("resize", ("get", "patch", "update")),
    STATUS,
)
POD_FIELDS = {
    "spec.hostNetwork": read("spec", "hostNetwork", default="false"),
    "spec.nodeName": read("spec", "nodeName"),
    "spec.restartPolicy": read("spec", "restartPolicy"),
    "spec.schedulerName": read("spec", "schedulerName"),
    "spec.serviceAccountName": read("spec", "serviceAccountName"),
    "status.nominatedNodeName": read("status", "nominatedNodeName"),
    "status.phase": read("status", "phase"),
    "status.podIP": read("status", "podIP"),
    "status.podIPs": read("status", "podIP"),
}
SERVICE_FIELDS = {"spec.clusterIP": read("spec", "clusterIP"), "spec.type": read("spec", "type")}
EVENT_FIELDS = {
    **{
        f"involvedObject.{name}": read("involvedObject", name)
        for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    },
    "reason": read("reason"),
    "reportingComponent": read("reportingComponent"),
    "source": read("source", "component"),
    "type": read("type"),
}

TYPES = (
    ResourceType(
        resource=Resource("", "v1", "bindings", "Binding"),
        singular="binding",
        definition=_DEFINITIONS + "Binding",
        verbs=CREATE_ONLY,
    ),
    ResourceType(
        resource=Resource("", "v1", "configmaps", "ConfigMap"),
        singular="configmap",
        definition=_DEFINITIONS + "ConfigMap",
        short_names=("cm",),
        columns=columns.named("Data"),
        cells=columns.with_age(lambda obj: len(obj.get("data") or ()) + len(obj.get("binaryData") or ())),
        validate=validate.config_map,
        validate_update=validate.config_map_update,
    ),
    ResourceType(
        resource=Resource("", "v1", "endpoints", "Endpoints"),
        singular="endpoints",
        definition=_DEFINITIONS + "Endpoints",
        short_names=("ep",),
        columns=service_columns.ENDPOINTS,
        cells=service_columns.endpoints,
        default=service_defaults.endpoints,
        validate=service_rules.endpoints,
        deprecation="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
    ResourceType(
        resource=Resource("", "v1", "events", "Event"),
        singular="event",
        definition=_DEFINITIONS + "Event",
        short_names=("ev",),
        field_labels=EVENT_FIELDS,
        columns=columns.EVENT,
        cells=columns.event,
        default=defaults.event,
        validate=validate.event,
    ),
    ResourceType(
        resource=Resource("", "v1", "limitranges", "LimitRange"),
        singular="limitrange",
        definition=_DEFINITIONS + "LimitRange",
        short_names=("limits",),
        default=defaults.limit_range,
        validate=limits.limit_range,
    ),
    ResourceType(
        resource=Resource("", "v1", "namespaces", "Namespace", namespaced=False),
        singular="namespace",
        definition=_DEFINITIONS + "Namespace",
        short_names=("ns",),
        subresources=(
            FINALIZE,
            STATUS,
        ),
        verbs=NAMESPACE_VERBS,
        field_labels={"status.phase": read("status", "phase")},
        columns=columns.named("Status"),
        cells=columns.with_age(read("status", "phase")),
        name_faults=names.label,
        default=defaults.namespace,
        prepare_create=defaults.prepare_namespace,
        prepare_update=defaults.update_namespace,
    ),
    ResourceType(
        resource=Resource("", "v1", "nodes", "Node", namespaced=False),
        singular="node",
        definition=_DEFINITIONS + "Node",
        short_names=("no",),
        subresources=(
            replace(PROXY, kind="NodeProxyOptions"),
            STATUS,
        ),
        field_labels={"spec.unschedulable": read("spec", "unschedulable", default="false")},
        columns=columns.NODE,
        cells=columns.node,
        default=defaults.node,
        creates_with_status=True,
        status_keeps_metadata=True,
        validate=validate.node,
        validate_create=lambda obj: statuses.node(obj, {}),
        validate_update=validate.node_update,
        validate_status=statuses.node,
    ),
    ResourceType(
        resource=Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
        singular="persistentvolumeclaim",
        definition=_DEFINITIONS + "PersistentVolumeClaim",
        short_names=("pvc",),
        subresources=(STATUS,),
        columns=columns.CLAIM,
        cells=columns.claim,
        default=defaults.persistent_volume_claim,
        prepare_create=defaults.prepare_pending,
        validate=storage.claim,
        validate_update=storage.claim_update,
    ),
    ResourceType(
        resource=Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False),
        singular="persistentvolume",
        definition=_DEFINITIONS + "PersistentVolume",
        short_names=("pv",),
        subresources=(STATUS,),
        columns=columns.VOLUME,
        cells=columns.volume,
        default=defaults.persistent_volume,
        prepare_create=defaults.prepare_pending,
        validate=storage.volume,
        validate_update=storage.volume_update,
    ),
    ResourceType(
        resource=Resource("", "v1", "pods", "Pod"),
        singular="pod",
        definition=_DEFINITIONS + "Pod",
        short_names=("po",),
        subresources=(*POD_SUBRESOURCES,),
        categories=ALL,
        field_labels=POD_FIELDS,
        columns=pod_columns.COLUMNS,
        cells=pod_columns.cells,
        row_conditions=pod_columns.conditions,
        default=pod_defaults.pod,
        prepare_create=pod_admission.prepare,
        status_keeps_metadata=True,
        validate=pod_rules.pod,
        validate_create=pod_rules.pod_create,
        validate_update=pod_rules.pod_update,
        validate_status=statuses.pod,
    ),
    ResourceType(
        resource=Resource("", "v1", "podtemplates", "PodTemplate"),
        singular="podtemplate",
        definition=_DEFINITIONS + "PodTemplate",
        columns=columns.POD_TEMPLATE,
        cells=columns.pod_template,
        default=defaults.pod_template,
        validate=validate.pod_template,
    ),
    ResourceType(
        resource=Resource("", "v1", "replicationcontrollers", "ReplicationController"),
        singular="replicationcontroller",
        definition=_DEFINITIONS + "ReplicationController",
        short_names=("rc",),
        subresources=(
            SCALE,
            STATUS,
        ),
        categories=ALL,
        field_labels={"status.replicas": read("status", "replicas", default="0")},
        columns=workload_columns.REPLICA_SET,
        cells=workload_columns.replica_set,
        default=workload_defaults.replication_controller,
        has_generation=True,
        scale=ScalePaths(),
        validate=workload_rules.replication_controller,
    ),
    ResourceType(
        resource=Resource("", "v1", "resourcequotas", "ResourceQuota"),
        singular="resourcequota",
        definition=_DEFINITIONS + "ResourceQuota",
        short_names=("quota",),
        subresources=(STATUS,),
        columns=columns.named("Request", "Limit"),
        cells=columns.quota,
        validate=limits.resource_quota,
        validate_update=limits.resource_quota_update,
    ),
    ResourceType(
        resource=Resource("", "v1", "secrets", "Secret"),
        singular="secret",
        definition=_DEFINITIONS + "Secret",
        field_labels={"type": read("type")},
        columns=columns.named("Type", "Data"),
        cells=columns.with_age(read("type"), lambda obj: len(obj.get("data") or ())),
        default=defaults.secret,
        validate=validate.secret,
        validate_update=validate.secret_update,
    ),
    ResourceType(
        resource=Resource("", "v1", "serviceaccounts", "ServiceAccount"),
        singular="serviceaccount",
        definition=_DEFINITIONS + "ServiceAccount",
        short_names=("sa",),
        subresources=(TOKEN,),
        columns=columns.named("Secrets"),
        cells=columns.with_age(lambda obj: len(obj.get("secrets") or ())),
    ),
    ResourceType(
        resource=Resource("", "v1", "services", "Service"),
        singular="service",
        definition=_DEFINITIONS + "Service",
        short_names=("svc",),
        subresources=(
            replace(PROXY, kind="ServiceProxyOptions"),
            STATUS,
        ),
        categories=ALL,
        field_labels=SERVICE_FIELDS,
        columns=service_columns.SERVICE,
        cells=service_columns.service,
        name_faults=names.dns1035_label,
        default=service_defaults.service,
        prepare_update=service_allocation.prepare_update,
        validate=service_rules.service,
        validate_update=service_rules.service_update,
        validate_status=statuses.service,
    ),
)
