"""Hand images of the node's own store to containerd: CRI itself can only fetch from registries."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from netplane.agent.images import Store
from netplane.agent.images.export import export
from netplane.agent.runtime.protocol import RuntimeFailure
from netplane.kernel import process
from netplane.kernel.errors import KernelError

LIMIT = 120.0
NAMESPACE = "k8s.io"
"""Where containerd's CRI plugin keeps its images."""


class Imports:
    """Brings images from a store to the containerd at `endpoint`, one at a time."""

    def __init__(self, store: Store, endpoint: str) -> None:
        self._store = store
        self._socket = endpoint.removeprefix("unix://")
        self._lock = asyncio.Lock()

    async def bring(self, reference: str) -> bool:
        """Import an image; False when the store does not have it. Raises RuntimeFailure."""
        image = self._store.find(reference)
        if image is None:
            return False
        if (program := shutil.which("ctr")) is None:
            raise RuntimeFailure(
                f"image {reference} is in the node's store, but ctr, which imports it, is not installed"
            )
        async with self._lock:
            with tempfile.TemporaryDirectory(prefix="netplane-image-") as folder:
                archive = Path(folder) / "image.tar"
                await asyncio.to_thread(export, image, archive)
                words = ["--address", self._socket, "--namespace", NAMESPACE, "images", "import", str(archive)]
                try:
                    await process.run([program, *words], timeout=LIMIT)
                except KernelError as error:
                    raise RuntimeFailure(f"import image {reference} into containerd: {error}") from error
        return True
