"""Measure a lab of three nodes: from a Deployment to its first answer, and from the API to every node's kernel.

Brings a lab of its own up and takes it down again. Times are wall clock on one machine that runs the whole cluster.
"""

from __future__ import annotations

import select
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.table import Table

from netplane.kernel import netns
from netplane.lab.host import NETNS
from netplane.lab.units import bracketed
from tests.support.cluster import NETPLANE, Lab, eventually, run, service

NAME = "bench"
NETLINK_NETFILTER = 12  # linux/netlink.h
NFNLGRP_NFTABLES = 7  # linux/netfilter/nfnetlink.h
NFT_MSG_NEWGEN = 0x0A0F
CHANGES, DEPLOYMENTS = 200, 10
OUT = Console()


def main() -> None:
    started = time.monotonic()
    run(NETPLANE, "lab", "up", f"--name={NAME}", "--api-port=18443", limit=120)
    lab = Lab(NAME)
    try:
        up = time.monotonic() - started
        first = [first_answer(lab, number) for number in range(DEPLOYMENTS)]
        programming = endpoint_changes(lab)
    finally:
        run(NETPLANE, "lab", "down", f"--name={NAME}", limit=60)
    table = Table("MEASURE", "N", "p50", "p99 or max", "GOAL", box=None, header_style="bold")
    table.add_row("lab up, three nodes Ready", "1", f"{up:.2f} s", "", "< 15 s")
    table.add_row(
        "kubectl create deployment to an answer through its Service",
        str(len(first)),
        f"{statistics.median(first):.2f} s",
        f"{max(first):.2f} s",
        "< 1.5 s",
    )
    table.add_row(
        "endpoint removed in the API to the kernel of all three nodes",
        str(len(programming)),
        f"{statistics.median(programming) * 1e3:.1f} ms",
        f"{quantile(programming, 0.99) * 1e3:.1f} ms",
        "p99 < 50 ms",
    )
    OUT.print(table)


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def first_answer(lab: Lab, number: int) -> float:
    """Seconds from the start of `kubectl create deployment` to the first answer through the Service."""
    name = f"first-{number}"
    lab.apply(service(name, name))
    url = f"http://{bracketed(lab.get('service', name)['spec']['clusterIP'])}/"
    started = time.monotonic()
    lab.kubectl("create", "deployment", name, "--image=netplane.local/echo:1")

    def answered() -> bool:
        return lab.enter("node-2", "curl", "-sS", "--max-time", "1", url, check=False).returncode == 0

    eventually(answered, every=0.02)
    took = time.monotonic() - started
    lab.kubectl("delete", f"deployment/{name}", f"service/{name}", "--grace-period=1")
    return took


def endpoint_changes(lab: Lab) -> list[float]:
    """Seconds from sending a slice's change to the last of the nodes' kernels having it, for many changes."""
    import asyncio

    return asyncio.run(_changes(lab))


async def _changes(lab: Lab) -> list[float]:
    from netplane.kube import client as kube
    from netplane.kube import types

    manual = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "manual"},
        "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
    }
    lab.apply(manual)
    listeners = [listener(lab, node.name) for node in lab.spec.node_specs()]
    took = []
    async with kube.Client(kube.load(str(lab.folders.admin_kubeconfig))) as client:
        await client.create(types.ENDPOINTSLICES, slice_of(2), namespace="default")
        time.sleep(1)
        for number in range(CHANGES):
            for sock in listeners:
                drain(sock)
            started = time.monotonic()
            patch = {"endpoints": slice_of(1 + number % 2)["endpoints"]}
            await client.patch(types.ENDPOINTSLICES, "manual-1", patch, namespace="default", kind="merge")
            took.append(max(committed(sock) for sock in listeners) - started)
            time.sleep(0.02)
    for sock in listeners:
        sock.close()
    return took


def slice_of(count: int) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "manual-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "manual"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [f"10.244.9.{n + 1}"], "conditions": {"ready": True}} for n in range(count)],
    }


def listener(lab: Lab, node: str) -> socket.socket:
    """A socket that hears every change of the node's nftables."""

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        sock.bind((0, 1 << (NFNLGRP_NFTABLES - 1)))
        sock.setblocking(False)
        return sock

    return netns.run_in(str(NETNS / lab.spec.netns(node)), opened)


def committed(sock: socket.socket) -> float:
    """Wait for the end of a transaction; return when it was heard."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not select.select([sock], [], [], deadline - time.monotonic())[0]:
            break
        if message_types(sock.recv(1 << 16)) & {NFT_MSG_NEWGEN}:
            return time.monotonic()
    raise AssertionError("a node's kernel did not hear of the change within 5 s")


def message_types(data: bytes) -> set[int]:
    found, offset = set(), 0
    while offset + 16 <= len(data):
        length = int.from_bytes(data[offset : offset + 4], sys.byteorder)
        found.add(int.from_bytes(data[offset + 4 : offset + 6], sys.byteorder))
        offset += (max(length, 16) + 3) & ~3
    return found


def drain(sock: socket.socket) -> None:
    while True:
        try:
            sock.recv(1 << 16)
        except BlockingIOError:
            return


if __name__ == "__main__":
    main()
