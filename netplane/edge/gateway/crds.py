"""The definitions of the Gateway API's types, shipped with the package: printed, or installed when absent."""

from __future__ import annotations

from pathlib import Path

import yaml

from netplane.kube import errors
from netplane.kube.api import Api
from netplane.kube.types import CUSTOMRESOURCEDEFINITIONS, Object
from netplane.lib import log

_FOLDER = Path(__file__).resolve().parent.parent / "gateway-crds"
_LOG = log.get("gateway")


def definitions() -> list[Object]:
    """Return the CustomResourceDefinitions."""
    return [yaml.safe_load(path.read_text()) for path in sorted(_FOLDER.glob("*.yaml"))]


def manifest() -> str:
    """Return them as one YAML document stream, for `kubectl apply -f -`."""
    return yaml.dump_all(definitions(), Dumper=_Plain, sort_keys=False, width=120)


async def ensure(api: Api) -> None:
    """Create those that are not there. What is there stays as it is: another version may be someone else's."""
    for definition in definitions():
        try:
            await api.create(CUSTOMRESOURCEDEFINITIONS, definition)
            _LOG.info("definition installed", name=definition["metadata"]["name"])
        except errors.AlreadyExists:
            continue


class _Plain(yaml.SafeDumper):
    """Write what stands in the files once, and is used often, out in full."""

    def ignore_aliases(self, data: object) -> bool:
        return True
