"""Usage out of two summaries."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.api import usage


def summary(*containers: tuple[str, int, int], uid: str = "u") -> dict[str, Any]:
    entries = [
        {"name": name, "cpu": {"usageCoreNanoSeconds": cpu}, "memory": {"workingSetBytes": memory}}
        for name, cpu, memory in containers
    ]
    return {"pods": [{"podRef": {"namespace": "n", "name": "p", "uid": uid}, "containers": entries}]}


def measured(older: dict[str, Any], newer: dict[str, Any], *, seconds: float = 2.0) -> usage.Measured:
    return usage.between(usage.sample(older, taken=10.0), usage.sample(newer, taken=10.0 + seconds))


def test_processor_time_is_averaged_over_the_window_and_memory_is_the_last() -> None:
    found = measured(summary(("c", 10**9, 1 << 20)), summary(("c", 2 * 10**9, 2 << 20)))
    assert found.pods[("n", "p")]["c"] == usage.Usage(5 * 10**8, 2 << 20)
    assert found.total.resources() == {"cpu": "500000000n", "memory": "2048Ki"}


def test_a_container_started_anew_counts_from_its_start() -> None:
    for older in (summary(("c", 9 * 10**9, 0)), summary(("c", 0, 0), uid="other"), summary()):
        assert measured(older, summary(("c", 10**9, 0))).total.cpu == 5 * 10**8


def test_a_pod_without_running_containers_has_no_usage() -> None:
    assert measured(summary(("c", 1, 1)), summary()).pods == {}
    assert usage.sample({"pods": [{"podRef": {"namespace": "n", "name": "p"}, "containers": [{"name": "c"}]}]},
                        taken=0.0).pods == {}  # fmt: skip
