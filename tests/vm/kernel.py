"""Fetch Debian's own kernel with its modules, and make the first file system it boots from. machine runs it."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
META_PACKAGE = "linux-image-amd64"
BUSYBOX = Path("/bin/busybox")
NEEDED = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What it takes to mount the host's root; the rest is loaded from there."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: the image, its modules (where depmod has been), and the initial file system."""

    image: Path
    modules: Path
    initrd: Path


def ensure(cache: Path) -> Kernel:
    """Return the kernel that Debian has now; download and unpack it unless the cache folder holds it."""
    package = _package()
    folder = cache / package
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = _unpack(package, Path(scratch))
            made.rename(folder)
    version = package.removeprefix("linux-image-")
    modules = folder / "lib/modules" / version
    initrd = folder / "initrd.gz"
    initrd.write_bytes(gzip.compress(_initrd(modules), compresslevel=1))
    return Kernel(folder / "boot" / f"vmlinuz-{version}", modules, initrd)


def _package() -> str:
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", META_PACKAGE], capture_output=True, text=True,
                           check=True)  # fmt: skip
    found = re.search(r"^Depends: (linux-image-[\w.+-]+)", shown.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{META_PACKAGE} names no kernel; run apt-get update")
    return found[1]


def _unpack(package: str, scratch: Path) -> Path:
    subprocess.run(["apt-get", "download", "-qq", package], cwd=scratch, check=True)
    (archive,) = scratch.glob("*.deb")
    root = scratch / "root"
    subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
    version = package.removeprefix("linux-image-")
    subprocess.run(["depmod", "-b", root, version], check=True)
    return root


def _initrd(modules: Path) -> bytes:
    """Return a cpio archive (newc) of busybox, the modules in the order to load them, and the first script."""
    order = _order(modules)
    files = {
        "init": ((HERE / "initrd.sh").read_bytes(), 0o100755),
        "bin/busybox": (BUSYBOX.read_bytes(), 0o100755),
        "modules": (" ".join(_name(path) for path in order).encode(), 0o100644),
    }
    files |= {f"mods/{_name(path)}.ko": ((modules / path).read_bytes(), 0o100644) for path in order}
    whole = b"".join(_entry(folder, b"", 0o040755) for folder in ("bin", "mods"))
    whole += b"".join(_entry(name, *file) for name, file in files.items())
    return whole + _entry("TRAILER!!!", b"", 0)


def _order(modules: Path) -> list[str]:
    """Return the files of the modules needed, each after those it depends on."""
    depends = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        depends[path] = rest.split()
    by_name = {_name(path): path for path in depends}

    def follow(path: str) -> Iterator[str]:
        for other in depends[path]:
            yield from follow(other)
        yield path

    return list(dict.fromkeys(path for name in NEEDED if name in by_name for path in follow(by_name[name])))


def _name(path: str) -> str:
    return Path(path).name.removesuffix(".ko")


def _entry(name: str, content: bytes, mode: int) -> bytes:
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)


def missing_programs() -> list[str]:
    """Name the programs that are not there, of those it takes to make and run a machine."""
    wanted = ("qemu-system-x86_64", "dpkg-deb", "apt-get", "depmod", str(BUSYBOX))
    return [program for program in wanted if shutil.which(program) is None]
