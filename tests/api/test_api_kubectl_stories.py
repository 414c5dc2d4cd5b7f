"""Every kubectl from the oldest to the newest, each command that people type. The lines are `kubectl_stories`'."""

from __future__ import annotations

import concurrent.futures
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import apiserver, kubectl_stories, kubectls

_EDITOR = "sed -i s/before/after/"


def environment(server: apiserver.Server, home: Path) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(server.kubeconfig), "HOME": str(home), "EDITOR": _EDITOR}


def failures(program: str, lines: tuple[str, ...], namespace: str, directory: Path, env: dict[str, str]) -> list[str]:
    """Tell the lines of a story; return those that went otherwise than they say."""
    found = []
    for line in (f"create namespace {namespace} => created", *lines):
        told = line.format(n=namespace, d=directory)
        arguments, _, wanted = told.removeprefix("! ").partition(" => ")
        command = [program, *(() if " ns " in told else ("-n", namespace)), *shlex.split(arguments.removesuffix(" =>"))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
        printed = done.stdout + done.stderr
        if (done.returncode != 0) != told.startswith("! ") or wanted not in printed:
            found.append(f"{Path(program).name} {line}\n    exit {done.returncode}: {printed[:600]}")
    return found


@pytest.mark.parametrize("story", kubectl_stories.STORIES)
def test_every_kubectl_goes_through_the_story(
    server: apiserver.Server, home: Path, tmp_path: Path, story: str, request: pytest.FixtureRequest
) -> None:
    number = list(kubectl_stories.STORIES).index(story)

    def tell(program: str) -> list[str]:
        namespace = f"s{number}-" + re.sub(r"[^0-9a-z]", "", Path(program).name)
        folder = tmp_path / namespace
        kubectl_stories.files(folder, namespace)
        env = environment(server, home / Path(program).name)
        return failures(program, kubectl_stories.STORIES[story], namespace, folder, env)

    programs = list(kubectls.programs().values())
    assert programs, "no kubectl on this machine"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = [each for told in pool.map(tell, programs) for each in told]
    assert not found, "\n".join(found)


@pytest.fixture
def started(server: apiserver.Server, home: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended after the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for each in processes:
        each.kill()
        each.communicate()


@pytest.mark.parametrize("program", kubectls.programs().values(), ids=lambda path: Path(path).name)
def test_every_kubectl_watches_and_stands_between_as_a_proxy(
    server: apiserver.Server, home: Path, namespace: str, started: list[subprocess.Popen[str]], program: str
) -> None:
    env = environment(server, home)

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([program, "-n", namespace, *arguments], stdout=subprocess.PIPE, text=True, env=env)
        started.append(process)
        return process

    def line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    watch = start("get", "serviceaccounts", "-w", "-o", "name")
    assert line(watch) == "serviceaccount/default\n"
    subprocess.run([program, "-n", namespace, "create", "sa", "made"], env=env, check=True, stdout=subprocess.DEVNULL)
    assert line(watch) == "serviceaccount/made\n"
    port = line(start("proxy", "--port=0")).strip().rpartition(":")[2]
    through = [program, f"--server=http://127.0.0.1:{port}", "-n", namespace, "get", "sa", "made", "-o", "name"]
    plain = {**env, "KUBECONFIG": os.devnull}
    done = subprocess.run(through, env=plain, check=True, capture_output=True, text=True)
    assert done.stdout == "serviceaccount/made\n"
