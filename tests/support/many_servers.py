"""Run several API servers on one real etcd: the set-up that outlives any one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import apiserver, etcds


@dataclass(slots=True)
class Many:
    """The servers and the members beneath them."""

    directory: Path
    members: etcds.Etcds
    options: tuple[str, ...]
    servers: list[apiserver.Server]

    def restart(self, number: int) -> None:
        """Start a server that has ended, where it was."""
        server = self.servers[number]
        self.servers[number] = apiserver.start(server.data_dir, port=server.port, options=self.options)


@contextlib.contextmanager
def running(
    directory: Path, *, servers: int = 2, members: int = 1, options: Sequence[str] = ("--no-controllers",)
) -> Iterator[Many]:
    """Run them for as long as the block lasts."""
    with etcds.running(directory / "etcd", count=members) as cluster:
        addresses = ",".join(f"http://{each}" for each in cluster.addresses)
        shared = (*options, "--etcd-servers", addresses, "--pki-dir", str(directory / "pki"))
        many = Many(directory, cluster, shared, [])
        try:
            for number in range(servers):
                many.servers.append(apiserver.start(directory / f"server-{number}", options=shared))
            yield many
        finally:
            for server in many.servers:
                server.stop()
