"""The scenarios' places: labs of both runtimes on this machine, and virtual machines with Debian's own kernel."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import versions, vms
from tests.support.cluster import NETPLANE, run
from tests.support.scenarios import RESULTS, Place

MACHINES = 2


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs' results are gathered; the table is made of them, by whoever named the file."""
    given = os.environ.get(RESULTS)
    return Path(given) if given else tmp_path_factory.mktemp("scenarios") / "results"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the versions that labs run: what machines install."""
    folder = tmp_path_factory.mktemp("versions")
    versions.install(folder)
    yield folder
    shutil.rmtree(folder)


def lab(runtime: str, port: int, results: Path, installed: Path) -> Iterator[Place]:
    name, netplane = f"sc-{runtime[:4]}", str(installed / "venv" / "bin" / "netplane")
    run(NETPLANE, "lab", "down", f"--name={name}", check=False)
    run(netplane, "lab", "up", f"--name={name}", "--nodes=2", f"--runtime={runtime}", f"--api-port={port}", limit=120)
    script = vms.VAGRANT / "scenarios" / "places" / "lab.sh"
    environment = {"LAB": name, "NETPLANE": netplane, "VERSIONS": str(installed), "PLACE": f"sh {script}"}
    kubeconfig = Path(f"/var/lib/netplane-lab/{name}/server/admin.kubeconfig")
    try:
        yield Place(f"lab-{runtime}", kubeconfig, results, environment)
    finally:
        run(NETPLANE, "lab", "down", f"--name={name}", limit=60)


@pytest.fixture(scope="session")
def embedded(results: Path, installed: Path) -> Iterator[Place]:
    """A lab whose nodes run pods by themselves."""
    yield from lab("embedded", 18331, results, installed)


@pytest.fixture(scope="session")
def containerd(results: Path, installed: Path) -> Iterator[Place]:
    """A lab whose nodes run containerd."""
    yield from lab("containerd", 18332, results, installed)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vms.Site]:
    """Two virtual machines, made nodes by the testbed's own scripts."""
    folder = tmp_path_factory.mktemp("vms")
    begun = time.monotonic()
    box, bundle = vms.box(), vms.bundle(sys.executable)
    made_in = time.monotonic() - begun
    with vms.site(folder, MACHINES, box=box, bundle=bundle) as made:
        made.wait_ready()
        print(f"\nbox and bundle {made_in:.0f} s, machines and nodes {time.monotonic() - begun - made_in:.0f} s")
        yield made


@pytest.fixture
def machines(site: vms.Site, results: Path) -> Place:
    """Those machines, for scenarios to judge."""
    script = vms.place(site, sys.executable)
    environment = {"PLACE": str(script), "PYTHONPATH": str(vms.VAGRANT.parent), "SCENARIO_PAUSE": "0.2"}
    return Place("machines", site.kubeconfig, results, environment, tuple(site.inside()), site.journals)


@pytest.fixture
def wireguard(site: vms.Site, machines: Place) -> Iterator[Place]:
    """The same machines, brought over to another fabric by their provisioning script and back."""
    try:
        site.provision_all(fabric="wireguard")
        yield machines
    finally:
        site.provision_all(fabric="vxlan")
