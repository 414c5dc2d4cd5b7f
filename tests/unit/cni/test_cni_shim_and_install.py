"""Both shims speak one protocol, and the plugin's files are put and taken away with care."""

from __future__ import annotations

import array
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from netplane.lib.cli import UserError
from netplane_cni import shim
from netplane_cni.run import install

SHIM_C = Path(shim.__file__).with_name("shim.c")


@dataclass
class FakeDaemon:
    """Answers one call and keeps what was asked."""

    path: str
    answer: bytes
    request: bytes = b""
    files: list[str] = field(default_factory=list)

    def __enter__(self) -> FakeDaemon:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            while True:
                data, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
                for _, _, payload in control:
                    for fd in array.array("i", payload):
                        self.files.append(os.readlink(f"/proc/self/fd/{fd}"))
                        os.close(fd)
                if not data:
                    break
                self.request += data
            connection.sendall(self.answer)


@pytest.fixture(scope="module", params=["bare", "c", "python"])
def plugin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    if request.param == "python":
        yield ["/usr/bin/python3", "-I", "-S", shim.__file__]
        return
    compiler = shutil.which("cc")
    assert compiler is not None, "no C compiler: make setup installs one"
    out = tmp_path_factory.mktemp("shim") / "shim"
    strict = ["-Wall", "-Wextra", "-Werror", *(install.BUILDS[0] if request.param == "bare" else ())]
    subprocess.run([compiler, "-Os", *strict, "-D_GNU_SOURCE", "-o", str(out), str(SHIM_C)], check=True)
    yield [str(out)]


def run(plugin: list[str], path: str, stdin: bytes = b"{}", **environment: str) -> subprocess.CompletedProcess[bytes]:
    given = {"NETPLANE_CNI_SOCKET": path, "SECRET": "no", **environment}
    return subprocess.run(plugin, input=stdin, env=given, capture_output=True, timeout=20, check=False)


def test_the_call_goes_through_whole_with_the_namespace_open(plugin: list[str], tmp_path: Path) -> None:
    namespace = tmp_path / "ns"
    namespace.touch()
    large = json.dumps({"cniVersion": "1.0.0", "pad": "x" * 600_000}).encode()
    with FakeDaemon(str(tmp_path / "s"), b"\0" + b"answer") as daemon:
        done = run(plugin, daemon.path, large, CNI_COMMAND="ADD", CNI_NETNS=str(namespace))
    assert (done.returncode, done.stdout) == (0, b"answer")
    head, _, stdin = daemon.request.partition(b"\0\0")
    assert sorted(head.split(b"\0")) == [b"CNI_COMMAND=ADD", b"CNI_NETNS=" + bytes(namespace)]
    assert stdin == large
    assert daemon.files == [str(namespace)]


def test_the_exit_code_is_the_daemons(plugin: list[str], tmp_path: Path) -> None:
    with FakeDaemon(str(tmp_path / "s"), b"\1" + b"{}") as daemon:
        assert run(plugin, daemon.path, CNI_COMMAND="DEL").returncode == 1
    assert daemon.files == []


@pytest.mark.parametrize("stdin, version", [(b'{ "cniVersion" : "0.4.0" }', "0.4.0"), (b"{}", "1.0.0"), (b"", "1.0.0")])
def test_without_a_daemon_the_error_is_clear_and_in_the_version_asked_for(
    plugin: list[str], tmp_path: Path, stdin: bytes, version: str
) -> None:
    done = run(plugin, str(tmp_path / "none"), stdin, CNI_COMMAND="ADD")
    body = json.loads(done.stdout)
    assert (done.returncode, body["code"], body["cniVersion"]) == (1, 11, version)
    assert body["msg"] == "netplane's CNI daemon cannot be reached"
    assert "No such file or directory; is `netplane cni daemon` running" in body["details"]


def test_without_a_daemon_status_and_version_still_answer(plugin: list[str], tmp_path: Path) -> None:
    nobody = str(tmp_path / "none")
    assert json.loads(run(plugin, nobody, CNI_COMMAND="STATUS").stdout)["code"] == 50
    version = run(plugin, nobody, CNI_COMMAND="VERSION")
    assert (version.returncode, json.loads(version.stdout)["cniVersion"]) == (0, "1.1.0")


def test_a_daemon_that_dies_while_asked_is_told(plugin: list[str], tmp_path: Path) -> None:
    with FakeDaemon(str(tmp_path / "s"), b"") as daemon:
        done = run(plugin, daemon.path, CNI_COMMAND="ADD")
    assert json.loads(done.stdout)["msg"] == "netplane's CNI daemon went away"
    assert done.returncode == 1


def test_the_python_shim_imports_nothing_of_ours_and_nothing_slow() -> None:
    code = (
        "import sys; before = set(sys.modules); "
        f"exec(compile(open({shim.__file__!r}).read(), 'shim', 'exec'), {{'__name__': 'shim'}}); "
        "print(*sorted(set(sys.modules) - before))"
    )
    argv = [sys.executable, "-I", "-S", "-c", code]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split() == ["_socket"]


async def test_the_plugin_is_installed_once_and_runs(tmp_path: Path) -> None:
    socket_path = str(tmp_path / "cni.sock")
    assert await install.install_binary(tmp_path / "bin", socket_path)
    assert not await install.install_binary(tmp_path / "bin", socket_path)
    binary = tmp_path / "bin" / "netplane-cni"
    with FakeDaemon(socket_path, b"\0fine"):
        done = subprocess.run(
            [str(binary)], env={"CNI_COMMAND": "ADD"}, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    assert done.stdout == b"fine"
    assert binary.stat().st_size < 20_000, "it was not built without the C library"
    assert {path.name for path in (tmp_path / "bin").iterdir()} == {"netplane-cni", "loopback"}
    assert len(install.uninstall(tmp_path / "bin", tmp_path)) == 2


async def test_another_loopback_plugin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "loopback").write_text("something else")
    await install.install_binary(tmp_path, "/s")
    install.uninstall(tmp_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["loopback"]


async def test_without_a_compiler_the_plugin_is_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    await install.install_binary(tmp_path, str(tmp_path / "other.sock"))
    with FakeDaemon(str(tmp_path / "other.sock"), b"\0fine"):
        done = subprocess.run(
            [str(tmp_path / "netplane-cni")],
            env={"CNI_COMMAND": "ADD"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
    assert done.stdout == b"fine"


async def test_a_foreign_plugin_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "netplane-cni").write_text("something else")
    with pytest.raises(UserError, match="is not netplane's"):
        await install.install_binary(tmp_path, "/s")


def test_the_configuration_is_written_whole_once_and_only_ours_is_removed(tmp_path: Path) -> None:
    (tmp_path / "05-other.conflist").write_text("{}")
    (tmp_path / "99-other.conf").write_text("{}")
    assert install.write_conflist(tmp_path)
    assert not install.write_conflist(tmp_path)
    written = json.loads((tmp_path / install.CONFLIST).read_text())
    assert written == install.conflist()
    assert (written["cniVersion"], written["cniVersions"]) == ("1.0.0", ["1.0.0", "1.1.0"])
    assert install.earlier(tmp_path) == ["05-other.conflist"]
    assert install.uninstall(tmp_path / "nowhere", tmp_path) == [tmp_path / install.CONFLIST]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["05-other.conflist", "99-other.conf"]


def test_the_configuration_shown_in_the_folder_is_the_one_that_is_written() -> None:
    shown = Path(__file__).resolve().parents[3] / "cni" / "netplane.conflist"
    assert json.loads(shown.read_text()) == install.conflist()


@pytest.mark.parametrize("has_compiler", [True, False])
async def test_the_plugin_that_was_put_there_is_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_compiler: bool
) -> None:
    if not has_compiler:
        monkeypatch.setenv("PATH", str(tmp_path))
    for socket_path, is_new in (("/run/a.sock", True), ("/run/a.sock", False), ("/run/b.sock", True)):
        assert await install.install_binary(tmp_path / "bin", socket_path) is is_new
    assert {path.name for path in install.uninstall(tmp_path / "bin", tmp_path)} == {install.BINARY, install.LOOPBACK}
