"""What pods and pod templates must fulfil, and what of a pod may change (pkg/apis/core/validation)."""

from __future__ import annotations

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.containers import container_list, one_of
from netplane.controlplane.registry.pods.contexts import context_faults
from netplane.controlplane.registry.pods.placement import placement_faults
from netplane.controlplane.registry.pods.volumes import volume_list
from netplane.controlplane.registry.rules import metadata, names
from netplane.kube.types import Object

_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_UPDATE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def pod(obj: Object) -> list[Fault]:
    """Return every fault of a Pod."""
    return spec_faults(obj.get("spec") or {}, "spec")


def pod_create(obj: Object) -> list[Fault]:
    """Return what a new Pod may not have that one which runs may."""
    spec = obj.get("spec") or {}
    found: list[Fault] = []
    if spec.get("ephemeralContainers"):
        found.append(faults.forbidden("spec.ephemeralContainers", "cannot be set on create"))
    if spec.get("schedulingGates") and spec.get("nodeName"):
        found.append(faults.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"))
    return found


def template_faults(template: Object, path: str) -> list[Fault]:
    """Return every fault of a PodTemplateSpec."""
    meta = template.get("metadata") or {}
    found = metadata.label_faults(meta.get("labels") or {}, f"{path}.labels")
    found += metadata.annotation_faults(meta.get("annotations") or {}, f"{path}.annotations")
    spec = template.get("spec") or {}
    found += spec_faults(spec, f"{path}.spec")
    if spec.get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        found.append(faults.forbidden(f"{path}.spec.ephemeralContainers", detail))
    return found


def spec_faults(spec: Object, path: str) -> list[Fault]:
    """Return every fault of a PodSpec."""
    found = volume_list(spec["volumes"], f"{path}.volumes") if spec.get("volumes") else []
    found += container_list(spec, path)
    found += one_of(spec, "restartPolicy", _RESTART_POLICIES, path)
    found += one_of(spec, "dnsPolicy", _DNS_POLICIES, path)
    found += placement_faults(spec, path) + context_faults(spec, path)
    for name in ("serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"):
        if spec.get(name):
            found += [faults.invalid(f"{path}.{name}", spec[name], each) for each in names.subdomain(spec[name])]
    for name in ("hostname", "subdomain"):
        if spec.get(name):
            found += [faults.invalid(f"{path}.{name}", spec[name], each) for each in names.label(spec[name])]
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        seconds = spec["terminationGracePeriodSeconds"]
        found.append(faults.invalid(f"{path}.terminationGracePeriodSeconds", seconds, names.NOT_NEGATIVE))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline < 2**31:
        detail = "must be between 1 and 2147483647, inclusive"
        found.append(faults.invalid(f"{path}.activeDeadlineSeconds", deadline, detail))
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        found += _alias(alias, f"{path}.hostAliases[{index}]")
    return found + _dns(spec, path) + _namespaces(spec, path)


def _alias(alias: Object, path: str) -> list[Fault]:
    address = alias.get("ip", "")
    found = [faults.invalid(f"{path}.ip", address, each) for each in names.ip(address)]
    for each in alias.get("hostnames") or ():
        found += [faults.invalid(f"{path}.hostnames", each, text) for text in names.subdomain(each)]
    return found


def _dns(spec: Object, path: str) -> list[Fault]:
    config = spec.get("dnsConfig")
    at = f"{path}.dnsConfig"
    if config is None:
        if spec.get("dnsPolicy") != "None":
            return []
        return [faults.required(at, f"must provide `dnsConfig` when `dnsPolicy` is {spec['dnsPolicy']}")]
    servers, found = config.get("nameservers") or [], []
    if spec.get("dnsPolicy") == "None" and not servers:
        detail = f"must provide at least one DNS nameserver when `dnsPolicy` is {spec['dnsPolicy']}"
        found.append(faults.required(f"{at}.nameservers", detail))
    if len(servers) > 3:
        found.append(faults.invalid(f"{at}.nameservers", servers, "must not have more than 3 nameservers"))
    for index, each in enumerate(servers):
        found += [faults.invalid(f"{at}.nameservers[{index}]", each, text) for text in names.ip(each)]
    if len(config.get("searches") or ()) > 32:
        found.append(faults.invalid(f"{at}.searches", config["searches"], "must not have more than 32 search paths"))
    for index, each in enumerate(config.get("searches") or ()):
        bare = each.removesuffix(".")
        found += [faults.invalid(f"{at}.searches[{index}]", each, text) for text in names.subdomain(bare) if bare]
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            found.append(faults.required(f"{at}.options[{index}]", "must not be empty"))
    return found


def _namespaces(spec: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    if spec.get("hostPID") and spec.get("shareProcessNamespace"):
        detail = "ShareProcessNamespace and HostPID cannot both be enabled"
        found.append(faults.invalid(f"{path}.shareProcessNamespace", True, detail))
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        kind = gate.get("conditionType", "")
        at = f"{path}.readinessGates[{index}].conditionType"
        found += [faults.invalid(at, kind, each) for each in names.qualified(kind)]
    return found


def pod_update(new: Object, old: Object) -> list[Fault]:
    """Return every fault of a change to a Pod: little of its spec may change."""
    spec, before = new["spec"], old["spec"]
    if spec == before:
        return []
    found: list[Fault] = []
    for kind in ("containers", "initContainers"):
        if len(spec.get(kind) or ()) != len(before.get(kind) or ()):
            return [faults.forbidden(f"spec.{kind}", "pod updates may not add or remove containers")]
    found += _deadline_update(spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"))
    found += _toleration_update(spec.get("tolerations") or [], before.get("tolerations") or [])
    if _fixed(spec) != _fixed(before) or not _may_change_grace(spec, before):
        found += _gate_update(spec, before) or [faults.forbidden("spec", _UPDATE)]
    return found


def _fixed(spec: Object) -> Object:
    """The part of a spec that an update may not touch."""
    free = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")
    kept = {key: value for key, value in spec.items() if key not in free}
    for kind in ("containers", "initContainers"):
        if kind in kept:
            kept[kind] = [{k: v for k, v in each.items() if k != "image"} for each in kept[kind]]
    return kept


def _may_change_grace(spec: Object, before: Object) -> bool:
    new, old = spec.get("terminationGracePeriodSeconds"), before.get("terminationGracePeriodSeconds")
    return new == old or (new == 1 and (old or 0) < 0)


def _gate_update(spec: Object, before: Object) -> list[Fault]:
    """Gated pods may narrow their node selector; nobody may add a gate."""
    if not before.get("schedulingGates"):
        return []
    kept = {k: v for k, v in _fixed(spec).items() if k not in ("nodeSelector", "affinity")}
    was = {k: v for k, v in _fixed(before).items() if k not in ("nodeSelector", "affinity")}
    return [] if kept == was else [faults.forbidden("spec", _UPDATE)]


def _deadline_update(new: int | None, old: int | None) -> list[Fault]:
    if new == old or old is None:
        return []
    if new is None:
        return [
            faults.invalid("spec.activeDeadlineSeconds", None, "must not update from a positive integer to nil value")
        ]
    if new > old:
        return [
            faults.invalid("spec.activeDeadlineSeconds", new, f"must be less than or equal to previous value {old}")
        ]
    return []


def _toleration_update(new: list[Object], old: list[Object]) -> list[Fault]:
    def fixed(each: Object) -> Object:
        return {key: value for key, value in each.items() if key != "tolerationSeconds"}

    remaining = [fixed(each) for each in new]
    if all(fixed(each) in remaining for each in old):
        return []
    detail = "existing toleration can not be modified except its tolerationSeconds"
    return [faults.forbidden("spec.tolerations", detail)]
