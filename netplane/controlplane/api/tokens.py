"""Bootstrap tokens: Secrets with which a machine that is no node yet may ask for a certificate.

Source: k8s.io/cluster-bootstrap/token and plugin/pkg/auth/authenticator/token/bootstrap. The same tokens sign
`cluster-info` in kube-public, so that whoever knows one can tell the cluster's CA from an impostor's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import orjson

from netplane.controlplane.api import access
from netplane.controlplane.store import protocol
from netplane.kube.types import Object
from netplane.lib import timestamp

NAMESPACE, PREFIX, TYPE = "kube-system", "bootstrap-token-", "bootstrap.kubernetes.io/token"
GROUP = "system:bootstrappers"
TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_LENGTH = 23
_USER = "system:bootstrap:"
_GROUPS = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class Token:
    """A bootstrap token as its Secret holds it; the secret half is left out of repr."""

    identity: str
    secret: str
    groups: tuple[str, ...]
    expires: datetime | None
    may_authenticate: bool
    may_sign: bool

    def __repr__(self) -> str:
        return f"Token({self.identity!r})"

    def is_over(self, now: datetime) -> bool:
        """Whether it has expired."""
        return self.expires is not None and now >= self.expires


def read(secret: Object) -> Token | None:
    """Return the token in a Secret, None when it holds none that can be used."""
    try:
        data = {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
        expires = timestamp.parse(data["expiration"]) if data.get("expiration") else None
    except (binascii.Error, ValueError):
        return None
    identity, half = data.get("token-id", ""), data.get("token-secret", "")
    if secret.get("type") != TYPE or secret["metadata"]["name"] != PREFIX + identity:
        return None
    if not TOKEN.fullmatch(f"{identity}.{half}"):
        return None
    extra = tuple(each.strip() for each in data.get("auth-extra-groups", "").split(",") if each.strip())
    if not all(_GROUPS.fullmatch(each) for each in extra):
        return None
    uses = (data.get("usage-bootstrap-authentication") == "true", data.get("usage-bootstrap-signing") == "true")
    return Token(identity, half, (*extra, GROUP), expires, *uses)


def authenticate(store: protocol.Store, text: str, *, now: datetime) -> access.User | None:
    """Return the user of a bootstrap token; None for what is no bootstrap token; raise BadToken."""
    match = TOKEN.fullmatch(text) if len(text) == _LENGTH else None
    if match is None:
        return None
    record = store.cache("secrets").records.get((NAMESPACE, PREFIX + match.group(1)))
    found = read(orjson.loads(record.value)) if record is not None else None
    if found is None or not hmac.compare_digest(found.secret, match.group(2)):
        raise access.BadToken("no such bootstrap token")
    if not found.may_authenticate or found.is_over(now):
        raise access.BadToken(f"bootstrap token {found.identity} has expired or is not for authentication")
    return access.User(_USER + found.identity, (*found.groups, access.AUTHENTICATED))


def all_tokens(store: protocol.Store) -> Iterator[tuple[Object, Token]]:
    """Yield the bootstrap tokens there are, with their Secrets."""
    for record in list(store.cache("secrets").range(namespace=NAMESPACE)):
        if record.key[1].startswith(PREFIX):
            secret: Object = orjson.loads(record.value)
            found = read(secret)
            if found is not None:
                yield secret, found


def sign(content: str, token_id: str, secret: str) -> str:
    """Return the detached JWS (RFC 7515, appendix F) with which a token's secret vouches for a text."""
    header = _base64(orjson.dumps({"alg": "HS256", "kid": token_id}))
    mac = hmac.new(secret.encode(), f"{header}.{_base64(content.encode())}".encode(), hashlib.sha256)
    return f"{header}..{_base64(mac.digest())}"


def is_signed(content: str, signature: str, token_id: str, secret: str) -> bool:
    """Whether a detached JWS over a text is this token's."""
    head, _, rest = signature.partition("..")
    try:
        header = orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError):
        return False
    if not isinstance(header, dict) or header.get("alg") != "HS256" or header.get("kid") != token_id:
        return False
    mac = hmac.new(secret.encode(), f"{head}.{_base64(content.encode())}".encode(), hashlib.sha256)
    return hmac.compare_digest(_base64(mac.digest()), rest)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
