"""The guided tour's first stop: an application, and packets to it from everywhere."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from netplane.edge.ingress.run import selfsigned
from netplane.kube import client as kube
from netplane.kube import informer, types
from netplane.lab import change, host
from netplane.lab.progress import Steps
from netplane.lab.spec import Folders, LabSpec
from netplane.lab.summary import OUT
from netplane.lab.units import bracketed
from netplane.lib.cli import UserError

GUESTBOOK = Path(__file__).with_name("guestbook.yaml")
REQUESTS = 9
LIMIT = 60.0  # seconds until the application is available
_TYPES = (
    types.CONFIGMAPS,
    types.DEPLOYMENTS,
    types.SERVICES,
    types.SECRETS,
    types.INGRESSCLASSES,
    types.INGRESSES,
)
RESOURCES = {resource.kind: resource for resource in _TYPES}
HOST = "guestbook.example"
DOOR_LIMIT = 15.0  # seconds until the front door answers for the application


def run(spec: LabSpec, folders: Folders) -> None:
    """Apply the guestbook, wait for it, and ask its front end from a pod's node, another node and the outside."""
    change.require_up(spec, folders)
    documents = [_secret(certificate(folders)), *yaml.safe_load_all(GUESTBOOK.read_text())]
    with Steps() as steps:
        with steps.step("apply the guestbook", total=len(documents)) as advance:
            asyncio.run(_apply(folders, documents, advance))
        deployments = {d["metadata"]["name"] for d in documents if d["kind"] == "Deployment"}
        with steps.step("wait until it is available", total=len(deployments)) as advance:
            service = asyncio.run(_available(folders, deployments, advance))
    _show(spec, folders, service)


def certificate(folders: Folders) -> Path:
    """Return the file with the certificate and key of the guestbook's host, made at the first call."""
    path = folders.state / "guestbook.pem"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(selfsigned.make(HOST))
    return path


def _secret(path: Path) -> types.Object:
    chain, begin, key = path.read_text().partition("-----BEGIN PRIVATE KEY-----")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "guestbook-tls", "labels": {"app": "guestbook"}},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": chain, "tls.key": begin + key},
    }


async def _apply(folders: Folders, documents: list[types.Object], advance: Any) -> None:
    async with kube.Client(kube.load(str(folders.admin_kubeconfig)), user_agent="netplane-lab") as client:
        for document in documents:
            resource, name = RESOURCES[document["kind"]], document["metadata"]["name"]
            await client.patch(
                resource, name, document, namespace="default", kind="apply", field_manager="netplane-demo", force=True
            )
            advance()


async def _available(folders: Folders, names: set[str], advance: Any) -> types.Object:
    async with kube.Client(kube.load(str(folders.admin_kubeconfig)), user_agent="netplane-lab") as client:
        view = informer.Informers(client, [informer.Query(types.DEPLOYMENTS, namespace="default")])
        waiting = set(names)
        try:
            async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
                running = group.create_task(view.run())
                async for _ in view.batches():
                    for name in sorted(waiting):
                        deployment = view.store(types.DEPLOYMENTS).get(("default", name))
                        if deployment and _is_complete(deployment):
                            waiting.discard(name)
                            advance()
                    if not waiting:
                        running.cancel()
                        break
        except TimeoutError as error:
            raise UserError(
                f"{', '.join(sorted(waiting))}: not available after {LIMIT:.0f} s; kubectl get events"
            ) from error
        return await client.get(types.SERVICES, "frontend", namespace="default")


def _is_complete(deployment: types.Object) -> bool:
    wanted, status = deployment["spec"]["replicas"], deployment.get("status", {})
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
    )


def _show(spec: LabSpec, folders: Folders, service: types.Object) -> None:
    cluster_ip, port = service["spec"]["clusterIP"], service["spec"]["ports"][0]
    node = spec.node_specs()[-1]
    doors = (
        ("node-1", "Service (cluster IP)", f"http://{bracketed(cluster_ip)}/"),
        ("client", f"NodePort of {node.name}", f"http://{bracketed(node.addresses[0])}:{port['nodePort']}/"),
    )
    table = Table("FROM", "THROUGH", "URL", "ANSWERED BY", "THEY SAW THE CLIENT AS", box=None, header_style="bold")
    resolve = (
        "--cacert",
        str(certificate(folders)),
        "--resolve",
        f"{HOST}:443:{bracketed(spec.node_specs()[0].addresses[0])}",
    )
    _wait_for_door(spec, folders, resolve)
    for place, door, url, *more in (*doors, ("client", "Ingress (TLS)", f"https://{HOST}/", *resolve)):
        said = [_ask(spec, folders, place, url, *more) for _ in range(REQUESTS)]
        pods = Counter(f"{answer['pod']} on {answer['node']}" for answer in said)
        seen = sorted({answer["client"]["address"] for answer in said})
        table.add_row(
            place, door, escape(url), "\n".join(f"{n}x {pod}" for pod, n in sorted(pods.items())), "\n".join(seen)
        )
    OUT.print(table)
    OUT.print(
        "\nlook further:  kubectl get pods -o wide\n"
        "               netplane lab exec node-1 -- nft list table ip netplane\n"
        "               kubectl scale deployment/frontend --replicas=6\n"
        f"               netplane lab exec client -- curl {escape(' '.join(resolve))} https://{HOST}/"
    )


def _wait_for_door(spec: LabSpec, folders: Folders, resolve: Sequence[str]) -> None:
    """Wait until the Ingress answers: it is read, its certificate is there, and so are its pods."""
    deadline = time.monotonic() + DOOR_LIMIT
    while True:
        try:
            _ask(spec, folders, "client", f"https://{HOST}/", *resolve)
            return
        except (UserError, ValueError) as error:
            if time.monotonic() > deadline:
                raise UserError(f"https://{HOST}/ does not answer; kubectl describe ingress guestbook") from error
        time.sleep(0.1)  # noqa: TID251 - a command, not an event loop


def _ask(spec: LabSpec, folders: Folders, place: str, url: str, *more: str) -> dict[str, Any]:
    argv = host.entered(spec, folders, place, ["curl", "-sS", "--noproxy", "*", "--max-time", "5", *more, url])
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{url} from {place}: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
