"""Keep `cluster-info` in kube-public: where the cluster is and whom to trust, signed by every bootstrap token.

Tokens that have expired are deleted here too.
"""

from __future__ import annotations

import base64

import orjson
import yaml

from netplane.controlplane.api import cluster, peers, tokens
from netplane.controlplane.registry import strategy
from netplane.controlplane.store import protocol
from netplane.kube.types import Object
from netplane.lib import log

_LOG = log.get("tokens")
_KEY = ("kube-public", "cluster-info")
_SIGNATURE = "jws-kubeconfig-"


async def follow(at: cluster.Cluster) -> None:
    """Bring it up to date whenever a Secret changes, until cancelled; the server's tick wakes it as well."""
    feed = at.store.feed("secrets")
    while True:
        await _clean(at)
        await _ensure(at)
        await feed.wait()


async def _clean(at: cluster.Cluster) -> None:
    now = at.clock.now()
    for secret, token in list(tokens.all_tokens(at.store)):
        if token.is_over(now):
            try:
                await at.store.delete("secrets", secret, expected=int(secret["metadata"]["resourceVersion"]))
                _LOG.info("bootstrap token expired", token=token.identity)
            except protocol.StoreError:
                continue


async def _ensure(at: cluster.Cluster) -> None:
    content = kubeconfig(at)
    now = at.clock.now()
    signatures = {
        _SIGNATURE + token.identity: tokens.sign(content, token.identity, token.secret)
        for _, token in tokens.all_tokens(at.store)
        if token.may_sign and not token.is_over(now)
    }
    wanted = {"kubeconfig": content, **signatures}
    record = at.store.latest("configmaps", _KEY)
    try:
        if record is None:
            await _create(at, wanted)
            return
        held: Object = orjson.loads(record.value)
        if held.get("data") != wanted:
            await at.store.update("configmaps", {**held, "data": wanted}, expected=record.revision)
    except protocol.StoreError:
        return  # somebody else changed it: that rings us again


async def _create(at: cluster.Cluster, data: Object) -> None:
    of = at.type_of("", "v1", "configmaps")
    obj: Object = {"metadata": {"name": _KEY[1]}, "data": data}
    if not strategy.create(of, obj, namespace=_KEY[0], now=at.now(), uid=cluster.new_uid()):
        await at.store.create("configmaps", obj)


def kubeconfig(at: cluster.Cluster) -> str:
    """Return the kubeconfig without user that tells where the cluster is."""
    ca = base64.b64encode(at.authority.pem()).decode()
    shown = {"server": f"https://{peers.host(at)}:{peers.port(at)}", "certificate-authority-data": ca}
    config: Object = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": shown}]}
    config |= {"contexts": [], "current-context": "", "preferences": {}, "users": []}
    return yaml.safe_dump(config, sort_keys=True)
