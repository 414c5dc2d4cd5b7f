"""Believe the API server, and nobody else: short-lived tokens signed by the cluster's key."""

from __future__ import annotations

from collections.abc import Mapping

import jwt
import orjson

from netplane.kube import client, errors
from netplane.lib.clock import Clock

AUDIENCE = "netplane-agent"
ALGORITHMS = ["ES256"]
FETCH_EVERY = 10.0
"""Unknown keys make us ask for the key set again, but not more often than this, in seconds."""


class Refused(Exception):
    """The caller is not who it must be."""


class Gate:
    """Knows the cluster's public keys; fetches them when a token is signed by one it does not know."""

    def __init__(self, api: client.Client, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = -FETCH_EVERY

    async def check(self, headers: Mapping[str, str]) -> str:
        """Return the caller's name. Raises Refused."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused("no bearer token")
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            claims = jwt.decode(
                token, key, algorithms=ALGORITHMS, audience=AUDIENCE, options={"require": ["exp", "sub", "aud"]}
            )
        except jwt.PyJWTError as error:
            raise Refused(str(error)) from error
        return str(claims["sub"])

    async def _key(self, name: str) -> jwt.PyJWK:
        if name not in self._keys and self._clock.monotonic() - self._fetched_at >= FETCH_EVERY:
            self._fetched_at = self._clock.monotonic()
            await self._fetch()
        if name not in self._keys:
            raise Refused(f"the token is signed by the unknown key {name!r}")
        return self._keys[name]

    async def _fetch(self) -> None:
        try:
            answer = await self._api.request("GET", "/netplane.io/v1/jwks")
            document = orjson.loads(answer.body)
        except (errors.ApiError, ValueError) as error:
            raise Refused(f"the cluster's keys cannot be read: {error}") from error
        self._keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(document).keys if key.key_id}
