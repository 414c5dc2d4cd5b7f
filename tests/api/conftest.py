"""Fixtures: one real API server with controllers for the session, and the clients that ask it."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import apiserver, kubectls

Kubectl = Callable[..., str]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.Server]:
    """A server with controllers and scheduler, and no nodes."""
    with apiserver.running(tmp_path_factory.mktemp("apiserver") / "data", options=()) as running:
        yield running


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kubectl keeps its caches."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session", params=list(kubectls.programs().values()) or [""], ids=lambda path: Path(path).name)
def kubectl(request: pytest.FixtureRequest, server: apiserver.Server, home: Path) -> Kubectl:
    """A function that runs one version of kubectl and returns what it prints."""
    return runner(str(request.param), server, home)


@pytest.fixture(scope="session")
def newest_kubectl(server: apiserver.Server, home: Path) -> Kubectl:
    """The same with the newest version alone."""
    return runner(kubectls.newest(), server, home)


def runner(program: str, server: apiserver.Server, home: Path) -> Kubectl:
    """Return a function that runs a kubectl against the server."""
    assert program, "no kubectl on this machine: install one to run the API tests"

    def run(*arguments: str, stdin: str = "", is_refused: bool = False) -> str:
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "HOME": str(home)}
        done = subprocess.run(
            [program, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            env=environment,
            check=False,
        )
        if is_refused:
            assert done.returncode != 0, f"kubectl {' '.join(arguments)} went through: {done.stdout}"
            return done.stderr
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout

    return run


@pytest.fixture
def namespace(server: apiserver.Server) -> str:
    """A fresh namespace's name; it is made through the Python client's plain HTTP."""
    import json
    import urllib.request

    name = f"test-{uuid.uuid4().hex[:8]}"
    asked = urllib.request.Request(
        f"{server.url}/api/v1/namespaces",
        data=json.dumps({"metadata": {"name": name}}).encode(),
        headers={"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, context=server.context(), timeout=5) as answer:
        assert answer.status == 201
    return name
