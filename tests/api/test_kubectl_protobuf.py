"""What kubectl sends as protobuf is decoded into what it meant."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from netplane.kube import protobuf
from tests.support import capture_server, kubectls

_CASES: dict[str, dict[str, Any]] = {
    "create configmap c --from-literal=a=b": {"metadata": {"name": "c"}, "data": {"a": "b"}},
    "create secret generic s --from-literal=a=b": {"metadata": {"name": "s"}, "data": {"a": "Yg=="}},
    "create namespace n": {"metadata": {"name": "n"}, "spec": {}, "status": {}},
    "create serviceaccount x": {"metadata": {"name": "x"}},
    "create clusterrole r --verb=get --non-resource-url=/x": {
        "metadata": {"name": "r"},
        "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}],
    },
    "create deployment d --image=nginx --replicas=0 --port=80": {
        "metadata": {"name": "d", "labels": {"app": "d"}},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {
                "metadata": {"labels": {"app": "d"}},
                "spec": {
                    "containers": [
                        {"name": "nginx", "image": "nginx", "ports": [{"containerPort": 80}], "resources": {}}
                    ]
                },
            },
            "strategy": {},
        },
        "status": {},
    },
    "create service nodeport x --tcp=80:8080 --node-port=30000": {
        "metadata": {"name": "x", "labels": {"app": "x"}},
        "spec": {
            "ports": [{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30000}],
            "selector": {"app": "x"},
            "type": "NodePort",
        },
        "status": {"loadBalancer": {}},
    },
    "create poddisruptionbudget p --selector=a=b --max-unavailable=0": {
        "metadata": {"name": "p"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "maxUnavailable": 0},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0},
    },
    "create token default --duration=1h": {"metadata": {}, "spec": {"expirationSeconds": 3600}, "status": {}},
    "auth can-i get pods": {
        "metadata": {},
        "spec": {"resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}},
        "status": {"allowed": False},
    },
}


@pytest.mark.parametrize("program", kubectls.since(32), ids=lambda program: Path(program).name)
def test_what_kubectl_creates_is_understood(program: str, tmp_path: Path) -> None:
    with capture_server.running() as server:
        for command, expected in _CASES.items():
            argv = [program, "--server", server.url, "--cache-dir", str(tmp_path), *command.split()]
            environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
            subprocess.run(argv, env=environment, capture_output=True, timeout=30, check=False)
            assert server.bodies, command
            body = server.bodies.pop()
            assert server.content_types.pop() == protobuf.CONTENT_TYPE
            assert {key: value for key, value in body.items() if key not in ("apiVersion", "kind")} == expected
