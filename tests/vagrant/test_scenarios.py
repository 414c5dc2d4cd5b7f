"""One list of scenarios judges the lab, on both runtimes, and virtual machines with Debian's own kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import scenarios
from tests.support.scenarios import NAMES, RESULTS, Place

LAB_HAS_NOT = {"wireguard", "ipvs", "control-plane-loss"}
"""What takes a kernel with WireGuard and IPVS, or a machine on which the control plane stands."""
CORE = ("pod-network", "services", "node-loss")
"""What emulated machines are asked each time, for each scenario takes them a minute or two."""
REST = tuple(name for name in NAMES if name not in (*CORE, "wireguard"))

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="session", autouse=True)
def printed(results: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the table at the end, past pytest's capture, unless whoever gathers results of several runs does."""
    yield
    if results.exists() and RESULTS not in os.environ:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n\n{scenarios.table(results)}")


@pytest.mark.parametrize("scenario", NAMES)
def test_a_lab_of_embedded_runtimes_passes(embedded: Place, scenario: str) -> None:
    assert embedded.judge(scenario, limit=600) == ("absent" if scenario in LAB_HAS_NOT else "passed")


@pytest.mark.parametrize("scenario", NAMES)
def test_a_lab_of_containerds_passes(containerd: Place, scenario: str) -> None:
    assert containerd.judge(scenario, limit=600) == ("absent" if scenario in LAB_HAS_NOT else "passed")


@pytest.mark.parametrize("scenario", CORE)
def test_machines_with_debians_kernel_pass_the_core(machines: Place, scenario: str) -> None:
    assert machines.judge(scenario, limit=900) == "passed"


@pytest.mark.parametrize("scenario", REST)
def test_machines_with_debians_kernel_pass_the_rest(machines: Place, scenario: str) -> None:
    assert machines.judge(scenario, limit=900) == "passed"


def test_machines_joined_by_wireguard_pass(wireguard: Place) -> None:
    assert wireguard.judge("wireguard", limit=900) == "passed"
