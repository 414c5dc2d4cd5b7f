"""Protobuf bodies: what is read, and what is refused loudly."""

from __future__ import annotations

import pytest

from netplane.kube import protobuf


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def body(api_version: str, kind: str, *parts: bytes) -> bytes:
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return protobuf.MAGIC + field(1, meta) + field(2, b"".join(parts)) + field(3, b"") + field(4, b"")


def test_metadata_and_maps_are_read() -> None:
    metadata = field(1, b"c") + field(2, b"") + field(11, field(1, b"a") + field(2, b"b"))
    decoded = protobuf.decode(body("v1", "ConfigMap", field(1, metadata), field(3, field(1, b"k") + field(2, b"\x00"))))
    assert decoded == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "labels": {"a": "b"}},
        "binaryData": {"k": "AA=="},
    }


def test_zero_is_kept_where_it_says_something() -> None:
    spec = field(1, 0) + field(5, 0)
    assert protobuf.decode(body("apps/v1", "Deployment", field(2, spec)))["spec"] == {"replicas": 0}


def test_numbers_may_be_negative() -> None:
    decoded = protobuf.decode(body("scheduling.k8s.io/v1", "PriorityClass", field(2, -5)))
    assert decoded["value"] == -5


def test_times_amounts_and_ports_have_their_json_form() -> None:
    created = field(8, field(1, 1767225600) + field(2, 0))
    port = field(1, field(3, 80) + field(4, field(1, 1) + field(2, 0) + field(3, b"http")))
    decoded = protobuf.decode(body("v1", "Service", field(1, created), field(2, port)))
    assert decoded["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert decoded["spec"]["ports"] == [{"port": 80, "targetPort": "http"}]
    lease = protobuf.decode(body("coordination.k8s.io/v1", "Lease", field(2, field(4, field(1, 1) + field(2, 5000)))))
    assert lease["spec"]["renewTime"] == "1970-01-01T00:00:01.000005Z"


def test_what_json_has_in_the_parent_is_there() -> None:
    volume = field(1, field(1, b"v") + field(2, field(2, b"")))
    decoded = protobuf.decode(body("v1", "Pod", field(2, volume)))
    assert decoded["spec"]["volumes"] == [{"name": "v", "emptyDir": {}}]


def test_extra_values_are_lists() -> None:
    spec = field(5, field(1, b"scopes") + field(2, field(1, b"a") + field(1, b"b")))
    decoded = protobuf.decode(body("authorization.k8s.io/v1", "SubjectAccessReview", field(2, spec)))
    assert decoded["spec"]["extra"] == {"scopes": ["a", "b"]}


def test_delete_options_come_in_any_group() -> None:
    assert protobuf.decode(body("apps/v1", "DeleteOptions", field(1, 0), field(4, b"Foreground"))) == {
        "apiVersion": "apps/v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Foreground",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "envelope"),
        (body("v1", "ConfigMap", field(99, 1)), "core.v1.ConfigMap: unknown field 99"),
        (body("example.com/v1", "Widget"), "no protobuf fields are known of Widget in example.com/v1"),
        (body("v1", "ConfigMap")[:-6] + b"\x12\x7f", "ends after the body does"),
        (body("v1", "ConfigMap", field(1, 5)), "a number stands where a meta.v1.ObjectMeta belongs"),
        (body("v1", "ConfigMap", field(1, field(1, b"\xff"))), "can't decode"),
        (body("v1", "ConfigMap", b"\x80" * 12), "a number is longer than ten bytes"),
        (body("v1", "ConfigMap", b"\x80"), "the body ends within a number"),
        (body("v1", "ConfigMap", b"\x0b"), "wire type 3"),
    ],
)
def test_what_cannot_be_read_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(protobuf.ProtobufError, match=reason):
        protobuf.decode(content)
