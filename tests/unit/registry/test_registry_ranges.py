"""ServiceCIDRs: when they give addresses, what of them may change. How they are written is in golden/registry."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.controlplane.registry.services import ranges

READY = {"type": "Ready", "status": "True"}


def cidr(*cidrs: str, conditions: Any = (), **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "mine", **metadata}, "spec": {"cidrs": [*cidrs]}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("obj", "is_open"),
    [
        (cidr("10.1.0.0/16"), True),
        (cidr("10.1.0.0/16", conditions=[READY]), True),
        (cidr("10.1.0.0/16", conditions=[{}, {"type": "Other", "status": "False"}]), True),
        (cidr("10.1.0.0/16", conditions=[{**READY, "status": "False"}]), False),
        (cidr("10.1.0.0/16", conditions=[{**READY, "status": "Unknown"}]), False),
        (cidr("10.1.0.0/16", conditions=[READY], deletionTimestamp="2026-01-01T00:00:00Z"), False),
    ],
)
def test_a_range_is_open_until_it_is_deleted_or_said_not_to_be_ready(obj: dict[str, Any], is_open: bool) -> None:
    assert ranges.is_open(obj) is is_open


def test_a_new_range_is_guarded_beside_what_its_maker_asks_for() -> None:
    made = cidr("10.1.0.0/16", finalizers=["example.org/mine"])
    for _ in range(2):
        ranges.guarded(made)
        assert made["metadata"]["finalizers"] == ["example.org/mine", ranges.FINALIZER]


@pytest.mark.parametrize(
    ("before", "after", "faults"),
    [
        (["10.1.0.0/16"], ["10.1.0.0/16"], []),
        (["10.1.0.0/16"], ["10.1.0.0/16", "fd00::/112"], []),
        (["10.1.0.0/16"], ["10.2.0.0/16"], ["spec.cidrs[0]"]),
        (["10.1.0.0/16"], ["fd00::/112", "10.1.0.0/16"], ["spec.cidrs[0]"]),
        (["10.1.0.0/16", "fd00::/112"], ["10.1.0.0/16"], ["spec.cidrs"]),
        (["10.1.0.0/16", "fd00::/112"], ["fd00::/112", "10.1.0.0/16"], ["spec.cidrs[0]", "spec.cidrs[1]"]),
    ],
)
def test_ranges_never_change_but_a_second_family_may_come(
    before: list[str], after: list[str], faults: list[str]
) -> None:
    found = ranges.service_cidr_update(cidr(*after), cidr(*before))
    assert [each.field for each in found] == faults
    assert all("field is immutable" in str(each) for each in found)
