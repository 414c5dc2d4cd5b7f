"""Drive a lab from the outside: the commands a user types, and what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from netplane.lab import host, protocol, state
from netplane.lab.spec import Folders, LabSpec, folders

T = TypeVar("T")
NETPLANE = str(Path(sys.executable).with_name("netplane"))
GUESTBOOK = Path(host.__file__).with_name("guestbook.yaml")


def run(
    *argv: str, stdin: str | None = None, limit: float = 90.0, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command; a failure shows what it printed."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=limit, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def eventually(claim: Callable[[], T], *, limit: float = 30.0, every: float = 0.05) -> T:
    """Return the claim's first true value; the last failure or value when it does not come true in time."""
    deadline = time.monotonic() + limit
    while True:
        try:
            value = claim()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        else:
            if value:
                return value
            assert time.monotonic() <= deadline, f"not within {limit} s: {claim.__doc__ or claim}, last {value!r}"
        time.sleep(every)


@dataclass(frozen=True)
class Lab:
    """One lab that is up."""

    name: str

    @property
    def spec(self) -> LabSpec:
        return state.required(self.name)[0]

    @property
    def folders(self) -> Folders:
        return folders(self.name)

    def netplane(self, verb: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`netplane lab VERB` on this lab."""
        return run(NETPLANE, "lab", verb, f"--name={self.name}", *arguments, **options)

    def kubectl(self, *arguments: str, **options: Any) -> str:
        """`kubectl` with the lab's kubeconfig; its standard output."""
        environment = f"KUBECONFIG={self.folders.admin_kubeconfig}"
        return run("env", environment, "kubectl", *arguments, **options).stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get -o json`."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def apply(self, *documents: dict[str, Any] | str) -> str:
        """`kubectl apply -f -`."""
        text = "\n---\n".join(d if isinstance(d, str) else yaml.safe_dump(d) for d in documents)
        return self.kubectl("apply", "-f", "-", stdin=text)

    def enter(self, place: str, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in a place of the lab."""
        return run(*host.entered(self.spec, self.folders, place, argv), **options)

    def curl(self, place: str, url: str, *arguments: str) -> dict[str, Any]:
        """One HTTP request from a place; the echo server's answer."""
        said = self.enter(place, "curl", "-sS", "--noproxy", "*", "--max-time", "5", *arguments, url).stdout
        answer: dict[str, Any] = json.loads(said)
        return answer

    def units(self) -> dict[str, protocol.UnitStatus]:
        """The daemons by name."""
        return {unit.name: unit for unit in protocol.ask(self.folders.run / "keeper.sock", "status")}

    def pods(self, selector: str, *, namespace: str = "default") -> list[dict[str, Any]]:
        """The pods that are not on their way out."""
        found = self.get("pods", "-n", namespace, "-l", selector)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, selector: str, count: int, *, namespace: str = "default") -> list[dict[str, Any]]:
        """Wait for `count` Ready pods."""

        def ready() -> list[dict[str, Any]]:
            found = [pod for pod in self.pods(selector, namespace=namespace) if is_ready(pod)]
            return found if len(found) == count else []

        return eventually(ready, limit=60)


def is_ready(obj: dict[str, Any]) -> bool:
    """Tell whether the object's Ready condition is True."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in obj.get("status", {}).get("conditions", []))


def echo(name: str, replicas: int, *, namespace: str = "default", spread: bool = True) -> dict[str, Any]:
    """A Deployment of the echo server, one pod a node as far as it goes."""
    spec: dict[str, Any] = {
        "containers": [
            {
                "name": "echo",
                "image": "netplane.local/echo:1",
                "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 1},
            }
        ],
    }
    if spread:
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": name}},
            }
        ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    }


def service(name: str, app: str, *, family: str = "", **spec: Any) -> dict[str, Any]:
    """A Service with the echo server's three ports."""
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "tcp", "port": 81, "targetPort": 8081},
        {"name": "udp", "port": 82, "targetPort": 8082, "protocol": "UDP"},
    ]
    families = {"ipFamilies": [family], "ipFamilyPolicy": "SingleStack"} if family else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": ports, **families, **spec},
    }


def interpreter() -> str:
    """This test run's Python, for small programs inside a node."""
    return os.path.realpath(sys.executable)
