"""Say who a request is from: bearer tokens signed by the cluster's key. What that user may do is rbac's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER = "https://kubernetes.default.svc.cluster.local"
AGENT_AUDIENCE = "netplane-agent"
ALGORITHM = "ES256"
_REMEMBERED = 4096

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
_SERVICE_ACCOUNT = "system:serviceaccount:"


class BadToken(Exception):
    """A bearer token that does not hold; the message is for our log, never for the client."""


@dataclass(frozen=True, slots=True)
class User:
    """Who asks, as `kubectl auth whoami` shows it."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def node(self) -> str:
        """The node's name when a node agent asks, else ""."""
        prefix = "system:node:"
        return self.name[len(prefix) :] if self.name.startswith(prefix) and "system:nodes" in self.groups else ""


def info(user: User) -> dict[str, Any]:
    """Return a user as authentication.k8s.io's UserInfo."""
    out: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        out["uid"] = user.uid
    if user.extra:
        out["extra"] = {key: list(values) for key, values in user.extra.items()}
    return out


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


@dataclass(frozen=True, slots=True)
class Bound:
    """The objects a ServiceAccount token dies with: (kind, namespace, name, uid)."""

    objects: tuple[tuple[str, str, str, str], ...] = ()


IsAlive = Callable[[str, str, str, str], bool]
"""(kind, namespace, name, uid) to whether that very object still exists."""


class Keys:
    """The cluster's signing key: makes tokens and believes its own."""

    def __init__(self, private_key: ec.EllipticCurvePrivateKey, key_id: str) -> None:
        self._private = private_key
        self._public = private_key.public_key()
        self.key_id = key_id
        self._remembered: dict[str, tuple[User, Bound, float, tuple[str, ...]]] = {}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return the claims as a signed token."""
        return jwt.encode(dict(claims), self._private, algorithm=ALGORITHM, headers={"kid": self.key_id})

    def user_token(self, user: str, groups: Sequence[str], *, now: datetime, lifetime: timedelta) -> str:
        """Return a token that makes its bearer this user in these groups."""
        return self.sign(
            {
                "iss": ISSUER,
                "aud": [ISSUER],
                "sub": user,
                "groups": list(groups),
                "iat": int(now.timestamp()),
                "exp": int((now + lifetime).timestamp()),
            }
        )

    def agent_token(self, *, now: datetime) -> str:
        """Return the short-lived token with which the API server calls a node agent."""
        issued = int(now.timestamp())
        claims = {"iss": ISSUER, "aud": [AGENT_AUDIENCE], "sub": "system:apiserver", "groups": [MASTERS]}
        return self.sign(claims | {"iat": issued, "nbf": issued - 60, "exp": issued + 300})

    def authenticate(self, token: str, *, now: datetime, is_alive: IsAlive) -> User:
        """Return who bears the token; raise BadToken."""
        seconds = now.timestamp()
        known = self._remembered.get(token)
        if known is None:
            known = self._remember(token)
        user, bound, expires, audiences = known
        if seconds >= expires:
            raise BadToken("the token has expired")
        if ISSUER not in audiences:
            raise BadToken(f"the token is for {audiences}")
        for each in bound.objects:
            if not is_alive(*each):
                raise BadToken(f"{each[0]} {each[1]}/{each[2]} is gone")
        return user

    def review(
        self, token: str, audiences: Sequence[str], *, now: datetime, is_alive: IsAlive
    ) -> tuple[User, list[str]]:
        """Return who bears a token and which of the audiences asked for it is good for; raise BadToken."""
        user, bound, expires, given = self._remembered.get(token) or self._remember(token)
        matching = [audience for audience in (audiences or [ISSUER]) if audience in given]
        if now.timestamp() >= expires or not matching or not all(is_alive(*each) for each in bound.objects):
            raise BadToken("the token has expired, is for another audience, or its object is gone")
        return user, matching

    def _remember(self, token: str) -> tuple[User, Bound, float, tuple[str, ...]]:
        try:
            claims = jwt.decode(
                token,
                self._public,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                # The time is checked against our own clock at every use, not once here.
                options={
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "require": ["sub", "exp", "aud"],
                },
            )
        except jwt.PyJWTError as error:
            raise BadToken(str(error)) from error
        audience = claims["aud"]
        audiences = tuple(audience) if isinstance(audience, list) else (str(audience),)
        known = (*_identity(claims), float(claims["exp"]), audiences)
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[token] = known
        return known

    def jwks(self) -> dict[str, Any]:
        """Return the public key as a JSON Web Key Set (RFC 7517)."""
        key = jwt.algorithms.ECAlgorithm.to_jwk(self._public, as_dict=True)
        return {"keys": [{**key, "use": "sig", "alg": ALGORITHM, "kid": self.key_id}]}

    def public_pem(self) -> bytes:
        """Return the public key in PEM."""
        return self._public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def service_account_claims(
    account: Mapping[str, Any],
    *,
    audiences: Sequence[str],
    now: datetime,
    seconds: int,
    bound: Mapping[str, Any] | None,
    token_id: str,
) -> dict[str, Any]:
    """Return the claims of a ServiceAccount token, as KEP-1205 lays them out; `bound` is `{"pod": {name, uid}}`."""
    metadata = account["metadata"]
    issued = int(now.timestamp())
    private: dict[str, Any] = {
        "namespace": metadata["namespace"],
        "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
    }
    return {
        "iss": ISSUER,
        "sub": f"{_SERVICE_ACCOUNT}{metadata['namespace']}:{metadata['name']}",
        "aud": list(audiences) or [ISSUER],
        "iat": issued,
        "nbf": issued,
        "exp": issued + seconds,
        "jti": token_id,
        "kubernetes.io": private | dict(bound or {}),
    }


def _identity(claims: Mapping[str, Any]) -> tuple[User, Bound]:
    subject = str(claims["sub"])
    private = claims.get("kubernetes.io")
    if private is None:
        groups = tuple(str(group) for group in claims.get("groups", ()))
        return User(subject, (*groups, AUTHENTICATED)), Bound()
    namespace, account = str(private["namespace"]), private["serviceaccount"]
    if subject != f"{_SERVICE_ACCOUNT}{namespace}:{account['name']}":
        raise BadToken("subject and ServiceAccount differ")
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    bound = [("ServiceAccount", namespace, str(account["name"]), str(account["uid"]))]
    extra: dict[str, tuple[str, ...]] = {}
    if "jti" in claims:
        extra["authentication.kubernetes.io/credential-id"] = (f"JTI={claims['jti']}",)
    for name, kind in (("pod", "Pod"), ("secret", "Secret"), ("node", "Node")):
        if name in private:
            of = private[name]
            bound.append((kind, "" if kind == "Node" else namespace, str(of["name"]), str(of.get("uid", ""))))
            extra[f"authentication.kubernetes.io/{name}-name"] = (str(of["name"]),)
            extra[f"authentication.kubernetes.io/{name}-uid"] = (str(of.get("uid", "")),)
    return User(subject, groups, str(account["uid"]), extra), Bound(tuple(bound))
