"""Speak CRI (runtime.v1) with containerd: a table of the fields that are used, and protobuf's wire format."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]  # it has no types of its own

LIMIT = 60.0
FIELDS: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Metadata": {"name": (1, "string"), "uid": (2, "string"), "namespace": (3, "string"), "attempt": (4, "int")},
    "Port": {"protocol": (1, "int"), "container_port": (2, "int"), "host_port": (3, "int"), "host_ip": (4, "string")},
    "LinuxSandbox": {"cgroup_parent": (1, "string")},
    "SandboxConfig": {
        "metadata": (1, "Metadata"),
        "hostname": (2, "string"),
        "log_directory": (3, "string"),
        "port_mappings": (5, "*Port"),
        "annotations": (7, "map"),
        "linux": (8, "LinuxSandbox"),
    },
    "RunRequest": {"config": (1, "SandboxConfig")},
    "Sandbox": {"pod_sandbox_id": (1, "string")},
    "PodIp": {"ip": (1, "string")},
    "SandboxNetwork": {"ip": (1, "string"), "additional_ips": (2, "*PodIp")},
    "SandboxStatus": {"id": (1, "string"), "state": (3, "int"), "network": (5, "SandboxNetwork")},
    "SandboxStatusAnswer": {"status": (1, "SandboxStatus")},
    "ContainerMetadata": {"name": (1, "string"), "attempt": (2, "int")},
    "ImageSpec": {"image": (1, "string")},
    "ContainerConfig": {
        "metadata": (1, "ContainerMetadata"),
        "image": (2, "ImageSpec"),
        "command": (3, "*string"),
        "log_path": (11, "string"),
    },
    "CreateRequest": {
        "pod_sandbox_id": (1, "string"),
        "config": (2, "ContainerConfig"),
        "sandbox_config": (3, "SandboxConfig"),
    },
    "Container": {"container_id": (1, "string")},
    "ExecRequest": {"container_id": (1, "string"), "cmd": (2, "*string"), "timeout": (3, "int")},
    "ExecAnswer": {"stdout": (1, "bytes"), "stderr": (2, "bytes"), "exit_code": (3, "int")},
    "Condition": {"type": (1, "string"), "status": (2, "int"), "reason": (3, "string"), "message": (4, "string")},
    "Conditions": {"conditions": (1, "*Condition")},
    "StatusAnswer": {"status": (1, "Conditions")},
    "Nothing": {},
}
METHODS = {
    "RunPodSandbox": ("RunRequest", "Sandbox"),
    "StopPodSandbox": ("Sandbox", "Nothing"),
    "RemovePodSandbox": ("Sandbox", "Nothing"),
    "PodSandboxStatus": ("Sandbox", "SandboxStatusAnswer"),
    "CreateContainer": ("CreateRequest", "Container"),
    "StartContainer": ("Container", "Nothing"),
    "ExecSync": ("ExecRequest", "ExecAnswer"),
    "Status": ("Nothing", "StatusAnswer"),
}


class Refused(Exception):
    """What the runtime said."""


class Client:
    """A connection to the runtime's socket. `seconds` adds up how long the calls of each method took."""

    def __init__(self, path: str) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._channel = grpc.insecure_channel(f"unix://{path}")

    def close(self) -> None:
        """Let go of it."""
        self._channel.close()

    def call(self, method: str, **fields: Any) -> dict[str, Any]:
        """Call a method with the fields of its request; raises Refused."""
        request, answer = METHODS[method]
        ask: Callable[..., dict[str, Any]] = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=lambda content: encode(request, content),
            response_deserializer=lambda data: decode(answer, data),
        )
        begun = time.monotonic()
        try:
            return ask(fields, timeout=LIMIT, wait_for_ready=True)
        except grpc.RpcError as error:
            raise Refused(error.details()) from error
        finally:
            self.seconds[method] += time.monotonic() - begun


def encode(message: str, content: Mapping[str, Any]) -> bytes:
    """Pack a message."""
    out = b""
    for name, value in content.items():
        number, kind = FIELDS[message][name]
        if kind == "map":
            pairs = (_bytes(1, key.encode()) + _bytes(2, text.encode()) for key, text in value.items())
            out += b"".join(_bytes(number, pair) for pair in pairs)
            continue
        for one in value if kind.startswith("*") else [value]:
            out += _field(number, kind.removeprefix("*"), one)
    return out


def decode(message: str, data: bytes) -> dict[str, Any]:
    """Unpack a message; fields that are not in the table are left out."""
    names = {number: (name, kind) for name, (number, kind) in FIELDS[message].items()}
    found: dict[str, Any] = {}
    for number, value in _fields(data):
        if number not in names:
            continue
        name, kind = names[number]
        single = kind.removeprefix("*")
        if single == "string":
            value = value.decode()
        elif single not in ("int", "bytes"):
            value = decode(single, value)
        if kind.startswith("*"):
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def _field(number: int, kind: str, value: Any) -> bytes:
    if kind == "int":
        return _varint(number << 3) + _varint(int(value))
    if kind == "string":
        return _bytes(number, value.encode())
    return _bytes(number, value if kind == "bytes" else encode(kind, value))


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value: Any
        match tag & 7:
            case 0:
                value, at = _read_varint(data, at)
            case 2:
                size, at = _read_varint(data, at)
                value, at = data[at : at + size], at + size
            case kind:
                size = 8 if kind == 1 else 4
                value, at = data[at : at + size], at + size
        yield tag >> 3, value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    shift = value = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
