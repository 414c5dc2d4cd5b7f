"""Programs written for Kubernetes in Python: an operator by kopf, and kr8s."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kr8s
import pytest
from kr8s.objects import Deployment

from tests.support import apiserver, kopf_operator

Kubectl = Callable[..., str]


@pytest.fixture
def operator(server: apiserver.Server, newest_kubectl: Kubectl, namespace: str, tmp_path: Path) -> Iterator[Path]:
    """The operator at work in the namespace; the path of its log."""
    newest_kubectl("apply", "-f", "-", stdin=json.dumps(kopf_operator.DEFINITION))
    newest_kubectl("wait", "--for=condition=Established", "crd", f"shelves.{kopf_operator.GROUP}", "--timeout=20s")
    log = tmp_path / "kopf.log"
    command = [sys.executable, "-m", "kopf", "run", "--standalone", "-n", namespace, kopf_operator.__file__ or ""]
    with log.open("wb") as out:
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig)}
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        yield log
    finally:
        process.terminate()
        assert process.wait(timeout=20) in (0, -15), log.read_text()
        newest_kubectl("delete", "crd", f"shelves.{kopf_operator.GROUP}", "--timeout=30s")


def test_an_operator_keeps_status_finalizer_timer_and_events(
    newest_kubectl: Kubectl, namespace: str, operator: Path
) -> None:
    def kubectl(*arguments: str, stdin: str = "") -> str:
        try:
            return newest_kubectl("-n", namespace, *arguments, stdin=stdin)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{operator.read_text()[-3000:]}") from error

    shelf = {"apiVersion": f"{kopf_operator.GROUP}/v1", "kind": "Shelf", "metadata": {"name": "one"},
             "spec": {"books": 3}}  # fmt: skip
    kubectl("create", "-f", "-", stdin=json.dumps(shelf))
    kubectl("wait", "--for=jsonpath={.status.books}=3", "shelf/one", "--timeout=25s")
    assert "kopf" in kubectl("get", "shelf", "one", "-o", "jsonpath={.metadata.finalizers}")
    kubectl("patch", "shelf", "one", "--type=merge", "-p", '{"spec":{"books":5}}')
    kubectl("wait", "--for=jsonpath={.status.before}=3", "shelf/one", "--timeout=25s")
    kubectl("wait", "--for=jsonpath={.status.dusted}=3", "shelf/one", "--timeout=25s")
    assert kubectl("get", "shelves").split()[:2] == ["NAME", "BOOKS"]
    kubectl("delete", "shelf", "one", "--timeout=25s")
    events = kubectl("get", "events", "-o", "jsonpath={.items[*].reason}")
    assert {"Filled", "Emptied"} <= set(events.split())


def test_kr8s_applies_scales_follows_and_deletes(server: apiserver.Server, namespace: str) -> None:
    api = kr8s.api(kubeconfig=str(server.kubeconfig), namespace=namespace)
    assert api.version()["major"] == "1"
    container = {"name": "c", "image": "i"}
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}},
    }
    made = Deployment({"metadata": {"name": "d", "namespace": namespace}, "spec": spec}, api=api)
    made.create()
    made.scale(0)
    made.label({"x": "y"})
    found = [str(each) for each in api.get("deployments", namespace=namespace, label_selector="x=y")]
    assert found == ["d"]
    made.patch({"metadata": {"annotations": {"n": "1"}}})
    made.refresh()
    assert made.annotations["n"] == "1"
    for kind, seen in api.watch("deployments", namespace=namespace, since=None):
        assert (kind, seen.name) == ("ADDED", "d")
        break
    made.delete()
    deadline = time.monotonic() + 20
    while made.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not made.exists()
