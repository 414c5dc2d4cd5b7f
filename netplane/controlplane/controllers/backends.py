"""Say which Pods stand behind a Service, by which address, on which ports, and in which condition."""

from __future__ import annotations

from ipaddress import ip_address

from netplane.controlplane.controllers import pods
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import Key, Object, key_of

ZONE = "topology.kubernetes.io/zone"
SERVICE_NAME = "kubernetes.io/service-name"
HEADLESS = "service.kubernetes.io/headless"
TRIGGERED = "endpoints.kubernetes.io/last-change-trigger-time"

Ports = tuple[tuple[str, int | None, str, str], ...]
"""(name, number, protocol, application protocol) of each port, in the Service's order."""


def has_selector(service: Object) -> bool:
    """Say whether the Service chooses its Pods itself, rather than being given endpoints by hand."""
    return bool(service["spec"].get("selector")) and service["spec"].get("type") != "ExternalName"


def is_headless(service: Object) -> bool:
    """Say whether the Service has no address of its own."""
    return service["spec"].get("clusterIP") in (None, "", "None")


def families(service: Object) -> list[str]:
    """Return the address types of its endpoints: IPv4, IPv6."""
    found = service["spec"].get("ipFamilies")
    if found:
        return list(found)
    address = service["spec"].get("clusterIP")
    if address and address != "None":
        return [family_of(address)]
    return ["IPv4", "IPv6"]


def family_of(address: str) -> str:
    """Return IPv4 or IPv6."""
    return f"IPv{ip_address(address).version}"


def chosen(view: View, service: Object) -> list[Object]:
    """Return the Pods the Service selects that have an address and run, terminating ones included, sorted by name."""
    found = view.labelled(service["metadata"]["namespace"], service["spec"]["selector"])
    return [pod for pod in found if addresses(pod) and not pods.is_terminal(pod)]


def selecting(view: View, pod: Object) -> list[Key]:
    """Return the keys of the Services that select a Pod."""
    return [key_of(service) for service in view.selecting(pod) if has_selector(service)]


def addresses(pod: Object) -> list[str]:
    """Return the Pod's addresses, in its own order."""
    status = pod.get("status") or {}
    found = [entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip")]
    return found or ([status["podIP"]] if status.get("podIP") else [])


def ports(service: Object, pod: Object) -> Ports:
    """Return the Service's ports as this Pod serves them; a named one that it does not have is left out."""
    found = []
    for port in service["spec"].get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        number = _number(port.get("targetPort") or port["port"], protocol, pod)
        if number is not None:
            found.append((port.get("name") or "", number, protocol, port.get("appProtocol") or ""))
    return tuple(found)


def is_ready(service: Object, pod: Object) -> bool:
    """Say whether new connections may go to the Pod."""
    if service["spec"].get("publishNotReadyAddresses"):
        return True
    return pods.is_ready(pod) and not meta.is_deleting(pod)


def hostname(service: Object, pod: Object) -> str:
    """Return the name DNS gives the Pod under this Service, or ""."""
    spec = pod["spec"]
    return (
        str(spec["hostname"]) if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"] else ""
    )


def target(pod: Object) -> Object:
    """Return the reference from an endpoint to its Pod."""
    metadata = pod["metadata"]
    return {"kind": "Pod", "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]}


def labels(service: Object, **reserved: str) -> dict[str, str]:
    """Return the labels of what is derived from the Service: its own, the headless mark, and the reserved ones."""
    own = {name: value for name, value in meta.labels(service).items() if name not in (SERVICE_NAME, HEADLESS)}
    return {**own, **({HEADLESS: ""} if is_headless(service) else {}), **reserved}


def triggered(service: Object, chosen_pods: list[Object]) -> str:
    """Return when the newest fact the endpoints follow from came true."""
    times = [service["metadata"].get("creationTimestamp") or ""]
    for pod in chosen_pods:
        times.append((meta.condition(pod, "Ready") or {}).get("lastTransitionTime") or "")
    return max(times)


def _number(wanted: int | str, protocol: str, pod: Object) -> int | None:
    if isinstance(wanted, int):
        return wanted
    if wanted.isdigit():
        return int(wanted)
    sidecars = [found for found in pod["spec"].get("initContainers") or () if found.get("restartPolicy") == "Always"]
    for container in (*(pod["spec"].get("containers") or ()), *sidecars):
        for port in container.get("ports") or ():
            if port.get("name") == wanted and (port.get("protocol") or "TCP") == protocol:
                return int(port["containerPort"])
    return None
