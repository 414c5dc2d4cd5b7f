"""One list of scenarios judges the lab, on both runtimes, and virtual machines with Debian's own kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import scenarios
from tests.support.scenarios import NAMES, Place

SHORT = ("pod-network", "services", "ingress", "rolling-update", "control-plane-restart", "node-loss")
"""What a lab of embedded runtimes is asked each time; tests/cluster asks it more. `EVERY=1` asks all."""
LAB_HAS_NOT = {"wireguard", "ipvs"}
"""What takes a kernel with WireGuard and IPVS, or a lab of that fabric."""
ON_MACHINES = ("pod-network", "services", "ingress", "rolling-update", "control-plane-restart", "ipvs", "node-loss")
"""The core set. Emulated machines take long for the whole list: `make test-vagrant` runs it."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session", autouse=True)
def printed(results: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the table at the end, past pytest's capture."""
    yield
    if results.exists():
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n\n{scenarios.table(results)}")


@pytest.mark.parametrize("scenario", NAMES if os.environ.get("EVERY") else SHORT)
def test_a_lab_of_embedded_runtimes_passes(embedded: Place, scenario: str) -> None:
    assert embedded.judge(scenario, limit=600) == ("absent" if scenario in LAB_HAS_NOT else "passed")


@pytest.mark.parametrize("scenario", NAMES)
def test_a_lab_of_containerds_passes(containerd: Place, scenario: str) -> None:
    assert containerd.judge(scenario, limit=600) == ("absent" if scenario in LAB_HAS_NOT else "passed")


@pytest.mark.parametrize("scenario", ON_MACHINES)
def test_machines_with_debians_kernel_pass(machines: Place, scenario: str) -> None:
    assert machines.judge(scenario, limit=900) == "passed"
