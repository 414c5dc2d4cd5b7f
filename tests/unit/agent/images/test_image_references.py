"""References mean what container tools take them for."""

import pytest

from netplane.agent.images import reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("netplane.local/echo:1", "netplane.local/echo:1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v1.0-rc_2", "localhost:5000/app:v1.0-rc_2"),
        ("[fd00::1]:5000/a/b", "[fd00::1]:5000/a/b:latest"),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
    ],
)
def test_a_reference_gets_its_full_name(text: str, full: str) -> None:
    assert reference.normalize(text) == full
    assert reference.normalize(full) == full


@pytest.mark.parametrize(
    "text", ["", ":1", "App", "a b", "a/../b", "/a", "a/", "a:", "a:tag/x", "a@sha256:12", "a--", "x" * 3 + "::1"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(reference.BadReference):
        reference.normalize(text)
