"""Apply LimitRanges: fill in a container's requests and limits, and say what is out of range. Pure.

Source: k8s.io/kubernetes/plugin/pkg/admission/limitranger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

from netplane.controlplane.registry.quota import usage
from netplane.kube import quantity
from netplane.kube.types import Object

_NOTE = "kubernetes.io/limit-ranger"


def fill(pod: Object, ranges: Iterable[Object]) -> None:
    """Give a new pod's containers the defaults of its namespace, and note which in an annotation."""
    notes: list[str] = []
    for item in _items(ranges, "Container"):
        for kind, field in (("requests", "defaultRequest"), ("limits", "default")):
            defaults = item.get(field) or {}
            for name, is_init in (("containers", False), ("initContainers", True)):
                for container in (pod.get("spec") or {}).get(name) or ():
                    notes += _fill(container, kind, defaults, is_init=is_init)
    if notes:
        text = "LimitRanger plugin set: " + "; ".join(notes)
        pod["metadata"].setdefault("annotations", {})[_NOTE] = text


def _fill(container: Object, kind: str, defaults: Mapping[str, str], *, is_init: bool) -> Iterator[str]:
    resources = container.get("resources") or {}
    held = resources.get(kind) or {}
    # A request follows its own limit before any default: that is the API's own defaulting.
    own = resources.get("limits") or {} if kind == "requests" else {}
    added = [name for name in sorted(defaults) if name not in held and name not in own]
    if not added:
        return
    container["resources"] = {**resources, kind: {**held, **{name: defaults[name] for name in added}}}
    what = "init container" if is_init else "container"
    yield f"{', '.join(added)} {kind[:-1]} for {what} {container.get('name', '')}"


def problems(plural: str, obj: Object, ranges: Iterable[Object]) -> list[str]:
    """Return everything about a new object that its namespace's ranges do not allow."""
    ranges = list(ranges)
    if plural == "persistentvolumeclaims":
        asked = ((obj.get("spec") or {}).get("resources") or {}).get("requests") or {}
        amounts = {name: quantity.parse(text) for name, text in asked.items()}
        return [
            problem
            for item in _items(ranges, "PersistentVolumeClaim")
            for problem in _judge(item, "PersistentVolumeClaim", amounts, {})
        ]
    spec = obj.get("spec") or {}
    found: list[str] = []
    for item in _items(ranges, "Container"):
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
            found += _judge(item, "Container", *_of_container(container))
    for item in _items(ranges, "Pod"):
        found += _judge(item, "Pod", usage.pod_total(spec, "requests"), usage.pod_total(spec, "limits"))
    return list(dict.fromkeys(found))


def _items(ranges: Iterable[Object], kind: str) -> Iterator[Object]:
    for each in ranges:
        for item in (each.get("spec") or {}).get("limits") or ():
            if item.get("type") == kind:
                yield item


def _of_container(container: Object) -> tuple[usage.Usage, usage.Usage]:
    resources = container.get("resources") or {}
    limits = {name: quantity.parse(text) for name, text in (resources.get("limits") or {}).items()}
    given = {name: quantity.parse(text) for name, text in (resources.get("requests") or {}).items()}
    return {**limits, **given}, limits


def _judge(item: Object, kind: str, requests: usage.Usage, limits: usage.Usage) -> Iterator[str]:
    for name, text in sorted((item.get("min") or {}).items()):
        yield from _least(name, text, kind, requests.get(name), limits.get(name))
    for name, text in sorted((item.get("max") or {}).items()):
        yield from _most(name, text, kind, requests.get(name), limits.get(name))
    for name, text in sorted((item.get("maxLimitRequestRatio") or {}).items()):
        yield from _ratio(name, text, kind, requests.get(name), limits.get(name))


def _least(name: str, text: str, kind: str, request: Decimal | None, limit: Decimal | None) -> Iterator[str]:
    bound = quantity.parse(text)
    if request is None:
        yield f"minimum {name} usage per {kind} is {text}. No request is specified"
    elif request < bound:
        yield f"minimum {name} usage per {kind} is {text}, but request is {_shown(request)}"
    if limit is not None and limit < bound:
        yield f"minimum {name} usage per {kind} is {text}, but limit is {_shown(limit)}"


def _most(name: str, text: str, kind: str, request: Decimal | None, limit: Decimal | None) -> Iterator[str]:
    bound = quantity.parse(text)
    if limit is None and kind != "PersistentVolumeClaim":
        yield f"maximum {name} usage per {kind} is {text}. No limit is specified"
    elif limit is not None and limit > bound:
        yield f"maximum {name} usage per {kind} is {text}, but limit is {_shown(limit)}"
    if request is not None and request > bound:
        yield f"maximum {name} usage per {kind} is {text}, but request is {_shown(request)}"


def _ratio(name: str, text: str, kind: str, request: Decimal | None, limit: Decimal | None) -> Iterator[str]:
    if not request or not limit:
        missing = "request" if not request else "limit"
        yield f"{name} max limit to request ratio per {kind} is {text}, but no {missing} is specified or it is 0"
    elif limit / request > quantity.parse(text):
        yield f"{name} max limit to request ratio per {kind} is {text}, but provided ratio is {limit / request:f}"


def _shown(amount: Decimal) -> str:
    return quantity.canonical(format(amount, "f"))
