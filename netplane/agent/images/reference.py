"""Understand image references as container tools do: `nginx` is `docker.io/library/nginx:latest`.

Grammar: github.com/distribution/reference, with Docker's familiar defaults.
"""

from __future__ import annotations

import re

_DEFAULT_DOMAIN = "docker.io"
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?)+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class BadReference(ValueError):
    """The text names no image."""


def normalize(text: str) -> str:
    """Return the full name: domain, path, and tag or digest. With both a tag and a digest the digest counts."""
    name, at, digest = text.strip().partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise BadReference(f"image reference {text!r}: {digest!r} is not sha256: and 64 hex digits")
    domain, path = _split(name)
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise BadReference(f"image reference {text!r}: {tag!r} is no tag")
    if not _DOMAIN.fullmatch(domain) or not _PATH.fullmatch(path):
        raise BadReference(f"image reference {text!r} is not name, name:tag or name@digest with lower-case names")
    if domain == _DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return f"{domain}/{path}@{digest}" if at else f"{domain}/{path}:{tag or 'latest'}"


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        return _DEFAULT_DOMAIN if first == "index.docker.io" else first, rest
    return _DEFAULT_DOMAIN, name
