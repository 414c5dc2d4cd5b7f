"""Say where the embedded runtime keeps what: records in `state`, what dies with the machine in `run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders: `state` outlives a reboot, `run` does not, `netns` is where CNI finds the pods' networks."""

    state: Path
    run: Path
    netns: Path

    @property
    def sandboxes(self) -> Path:
        """One folder a sandbox."""
        return self.state / "sandboxes"

    @property
    def containers(self) -> Path:
        """One folder a container."""
        return self.state / "containers"

    @property
    def networks(self) -> Path:
        """The cached results of the CNI plugins, which DEL needs."""
        return self.state / "networks"

    @property
    def exits(self) -> Path:
        """Where conmon writes exit codes, one file a container."""
        return self.run / "exits"

    @property
    def crun(self) -> Path:
        """The state folder of crun (`--root`)."""
        return self.run / "crun"

    @property
    def pause(self) -> Path:
        """The root file system of every sandbox: one program."""
        return self.run / "pause"

    def sandbox(self, sandbox_id: str) -> Path:
        """Return the folder of a sandbox: its record, resolv.conf and hostname."""
        return self.sandboxes / sandbox_id

    def shm(self, sandbox_id: str) -> Path:
        """Return where the pod's /dev/shm is mounted."""
        return self.bundle(sandbox_id) / "shm"

    def container(self, container_id: str) -> Path:
        """Return the folder of a container: its record and what it wrote."""
        return self.containers / container_id

    def bundle(self, any_id: str) -> Path:
        """Return the OCI bundle of a container or of a sandbox's pause process."""
        return self.run / "bundles" / any_id

    def network(self, uid: str) -> Path:
        """Return where the pod's network namespace is pinned."""
        return self.netns / uid
