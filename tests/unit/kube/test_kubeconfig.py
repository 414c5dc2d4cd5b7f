"""A kubeconfig is understood, or the error names the file and the entry."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from netplane.kube import kubeconfig
from netplane.lib import cli


def content() -> dict[str, Any]:
    return {
        "current-context": "lab",
        "contexts": [
            {"name": "lab", "context": {"cluster": "c", "user": "u", "namespace": "ns"}},
            {"name": "bare", "context": {"cluster": "c"}},
        ],
        "clusters": [
            {
                "name": "c",
                "cluster": {
                    "server": "https://[fd00::1]:6443/",
                    "certificate-authority-data": base64.b64encode(b"PEM").decode(),
                },
            }
        ],
        "users": [{"name": "u", "user": {"token": "secret", "tokenFile": "token", "client-key": "/abs/key"}}],
    }


def written(folder: Path, data: object) -> Path:
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_current_context_is_read(tmp_path: Path) -> None:
    config = kubeconfig.parse(written(tmp_path, content()))
    assert (config.server, config.ca_data, config.token) == ("https://[fd00::1]:6443", "PEM", "secret")
    assert (config.namespace, config.token_file) == ("ns", str(tmp_path / "token"))
    assert config.client_key_file == "/abs/key"


def test_secrets_are_not_in_the_repr(tmp_path: Path) -> None:
    assert "secret" not in repr(kubeconfig.parse(written(tmp_path, content())))


def test_another_context_may_have_no_user(tmp_path: Path) -> None:
    assert kubeconfig.parse(written(tmp_path, content()), "bare").token == ""


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{written(tmp_path, content())}:/other")
    assert kubeconfig.load().token == "secret"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"current-context": ""}, "no current-context"),
        ({"current-context": "x"}, "no context 'x' under contexts"),
        ({"clusters": None}, "no cluster 'c' under clusters"),
        ({"users": [{"name": "u", "user": {"exec": {}}}]}, "credential plugins"),
        ({"clusters": [{"name": "c", "cluster": {"server": "host"}}]}, "must start with https://"),
        ({"users": [{"name": "u", "user": {"client-key-data": "%%"}}]}, "client-key-data is not base64"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = written(tmp_path, content() | change)
    with pytest.raises(cli.UserError, match=told) as raised:
        kubeconfig.parse(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["[", "a list", "- x"])
def test_a_broken_file_is_a_user_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(cli.UserError, match="kubeconfig"):
        kubeconfig.parse(path)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(cli.UserError, match="is not there"):
        kubeconfig.parse(tmp_path / "nothing")
