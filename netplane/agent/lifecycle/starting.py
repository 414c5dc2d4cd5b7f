"""Start one container: its image, its configuration, its process, its postStart hook."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from netplane.agent.images import reference as references
from netplane.agent.lifecycle.services import Services
from netplane.agent.pods import config, environment
from netplane.agent.pods.environment import ConfigError
from netplane.agent.pods.fields import Surroundings
from netplane.agent.pods.observed import Waiting
from netplane.agent.pods.spec import Container, Pod
from netplane.agent.probes.checks import CheckFailed, Target
from netplane.agent.runtime.protocol import ContainerConfig, ImageStatus, Mount, RuntimeFailure, SandboxStatus
from netplane.agent.volumes import content
from netplane.agent.volumes import run as volumes
from netplane.agent.volumes.content import VolumeError
from netplane.kube import errors
from netplane.kube.events import EventKind

CONFIG_RETRY = timedelta(seconds=10)


class StartFailed(Exception):
    """A container did not start: what its waiting state says, and whether its image was the cause."""

    def __init__(self, waiting: Waiting, *, is_image: bool = False) -> None:
        super().__init__(waiting.message)
        self.waiting = waiting
        self.is_image = is_image


@dataclass(frozen=True, slots=True)
class Starting:
    """One start of one container."""

    services: Services
    pod: Pod
    container: Container
    sandbox: SandboxStatus
    attempt: int

    async def start(self) -> str:
        """Return the id of the container, which runs. Raises StartFailed; Events tell the user."""
        image = await self._image()
        try:
            wanted = await self._config(image)
        except (ConfigError, VolumeError, errors.ApiError) as error:
            self._event("Warning", "Failed", f"Error: {error}")
            raise StartFailed(Waiting("CreateContainerConfigError", str(error))) from error
        runtime = self.services.runtime
        async with self.services.slots:
            try:
                container_id = await runtime.create_container(self.sandbox.id, wanted)
            except RuntimeFailure as error:
                self._event("Warning", "Failed", f"Error: {error}")
                raise StartFailed(Waiting("CreateContainerError", str(error))) from error
            self._event("Normal", "Created", f"Created container: {self.container.name}")
            try:
                await runtime.start_container(container_id)
            except RuntimeFailure as error:
                self._event("Warning", "Failed", f"Error: {error}")
                raise StartFailed(Waiting("RunContainerError", str(error))) from error
        self._event("Normal", "Started", f"Started container {self.container.name}")
        return container_id

    async def post_start(self, container_id: str) -> None:
        """Run the postStart hook; the container is killed when it fails. Raises StartFailed."""
        if self.container.post_start is None:
            return
        target = Target(self.pod, self.container, container_id, self.sandbox.ips or self.services.node.ips)
        try:
            await self.services.checks.hook(self.container.post_start, target)
        except CheckFailed as error:
            self._event("Warning", "FailedPostStartHook", "PostStartHook failed")
            self._event("Normal", "Killing", "FailedPostStartHook")
            await self.services.runtime.stop_container(container_id, min(self.pod.grace, 2))
            raise StartFailed(Waiting("PostStartHookError", str(error))) from error

    async def _image(self) -> ImageStatus:
        reference, runtime = self.container.image, self.services.runtime
        self._check_name(reference)
        found = runtime.image(reference)
        if self.container.pull_policy == "Never" and found is None:
            text = f'Container image "{reference}" is not present with pull policy of Never'
            self._event("Warning", "ErrImageNeverPull", text)
            self._event("Warning", "Failed", "Error: ErrImageNeverPull")
            raise StartFailed(Waiting("ErrImageNeverPull", text), is_image=True)
        if found is not None:
            self._event("Normal", "Pulled", f'Container image "{reference}" already present on machine')
            return found
        self._event("Normal", "Pulling", f'Pulling image "{reference}"')
        try:
            found = await runtime.pull(reference)
        except RuntimeFailure as error:
            self._event("Warning", "Failed", f'Failed to pull image "{reference}": {error}')
            self._event("Warning", "Failed", "Error: ErrImagePull")
            raise StartFailed(Waiting("ErrImagePull", str(error)), is_image=True) from error
        self._event("Normal", "Pulled", f'Successfully pulled image "{reference}"')
        return found

    def _check_name(self, reference: str) -> None:
        try:
            references.normalize(reference)
        except references.BadReference as error:
            text = f'Failed to apply default image tag "{reference}": couldn\'t parse image name: {error}'
            self._event("Warning", "InspectFailed", text)
            self._event("Warning", "Failed", "Error: InvalidImageName")
            raise StartFailed(Waiting("InvalidImageName", text), is_image=True) from error

    async def _config(self, image: ImageStatus) -> ContainerConfig:
        node, pod = self.services.node, self.pod
        ips = self.sandbox.ips or (node.ips if pod.host_network else ())
        around = Surroundings(node.name, node.ips, ips, node.allocatable)
        wanted = environment.references(self.container)
        objects = {reference: await self.services.references.get(pod, reference) for reference in wanted}
        env = environment.build(pod, self.container, objects, around, self.services.service_objects())
        termination = (
            node.folder(pod.uid) / "containers" / self.container.name / f"{self.attempt}-{uuid.uuid4().hex[:8]}"
        )
        mounts = await asyncio.to_thread(self._mounts, dict(env), ips, termination)
        return config.container(
            pod,
            self.container,
            node,
            attempt=self.attempt,
            env=env,
            mounts=mounts,
            image=image,
            termination_file=termination,
            target=self._target(),
        )

    def _target(self) -> str:
        """Return the id of the container whose processes this one is to see. Raises ConfigError."""
        name = self.container.target
        if not name:
            return ""
        for status in self.services.runtime.containers(self.pod.uid):
            if status.name == name and status.state == "running" and status.sandbox_id == self.sandbox.id:
                return status.id
        raise ConfigError(f'unable to find target container "{name}"')

    def _mounts(self, env: dict[str, str], ips: tuple[str, ...], termination: Path) -> tuple[Mount, ...]:
        termination.parent.mkdir(parents=True, exist_ok=True)
        termination.touch()
        termination.chmod(0o666)
        hosts = self.services.node.folder(self.pod.uid) / "etc-hosts"
        hosts.write_text(config.hosts(self.pod, self.services.node, ips))
        paths = self.services.volumes.paths(self.pod.uid)
        # What shows objects is never written through a mount: it would be lost at the next update.
        shown = {volume["name"] for volume in self.pod.spec.get("volumes") or () if content.is_shown(volume)}
        result = [Mount(str(hosts), "/etc/hosts")]
        for entry in self.container.mounts:
            path = paths.get(entry["name"])
            if path is None:
                raise ConfigError(
                    f'cannot find volume "{entry["name"]}" to mount into container "{self.container.name}"'
                )
            sub_path = entry.get("subPath") or environment.expand(entry.get("subPathExpr") or "", env)
            place = volumes.within(path, sub_path) if sub_path else path
            readonly = bool(entry.get("readOnly")) or entry["name"] in shown
            result.append(Mount(str(place), entry["mountPath"], readonly, config.propagation(entry)))
        # The pod may mount a hosts file of its own.
        targets = [mount.target for mount in result]
        return tuple(mount for index, mount in enumerate(result) if mount.target not in targets[index + 1 :])

    def _event(self, kind: EventKind, reason: str, message: str) -> None:
        self.services.recorder.record(self.pod.obj, kind, reason, message)
