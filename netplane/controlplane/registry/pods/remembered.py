"""Remember what became of a pod's spec: the pods of one template have the same, and the same is true of all of them.

What a spec is filled in with, and whether it may be stored, depends on nothing but itself. The one part that differs
from pod to pod is the name of the token's volume, which is set aside meanwhile.
"""

from __future__ import annotations

from functools import lru_cache

import orjson

from netplane.controlplane.registry.pods import admission, defaults, validate
from netplane.kube import known
from netplane.kube.types import Object

_PREFIX = "kube-api-access-"
_STAND_IN = b"kube-api-access-00000"
"""No generated name has a 0."""
_LONGEST = 16384
_LONGEST_SHARED = 8192
"""The bytes of a spec whose objects are kept as well: they take several times as much."""


def complete(pod: Object) -> bool:
    """Fill in a new pod's spec and give it its first status, if the spec has no fault; else leave the pod alone."""
    spec = pod.get("spec")
    if not spec:
        known.thaw(pod, "spec")
        return False
    text = spec.text if spec.__class__ is known.Known else orjson.dumps(spec)
    name = _token_volume(spec)
    if not name and len(text) <= _LONGEST_SHARED:
        alike = _shared(text)
        if alike is None:
            known.thaw(pod, "spec")
            return False
        pod["spec"], pod["status"] = alike
        return True
    known.thaw(pod, "spec")
    if len(text) > _LONGEST:
        return False
    if name:
        if _STAND_IN in text or len(name) != len(_STAND_IN):
            return False
        text = text.replace(name, _STAND_IN)
    made = _completed(text)
    if made is None:
        return False
    filled, status = made
    pod["spec"] = known.read(filled.replace(_STAND_IN, name) if name else filled)
    pod["status"] = orjson.loads(status)
    return True


def _token_volume(spec: Object) -> bytes:
    volumes = spec.get("volumes")
    name = volumes[-1].get("name", "") if volumes else ""
    return name.encode() if name.startswith(_PREFIX) else b""


@lru_cache(128)
def _shared(text: bytes) -> tuple[known.Known, known.Known] | None:
    """Return the spec and the status of all pods with this spec: the very same ones, as nobody changes them."""
    made = _completed(text)
    return (known.shared(made[0]), known.shared(made[1])) if made is not None else None


@lru_cache(512)
def _completed(text: bytes) -> tuple[bytes, bytes] | None:
    pod: Object = {"spec": orjson.loads(text)}
    defaults.pod(pod)
    admission.prepare(pod)
    if validate.pod(pod) or validate.pod_create(pod):
        return None
    return orjson.dumps(pod["spec"]), orjson.dumps(pod["status"])
