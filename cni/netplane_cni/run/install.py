"""Put the plugin where the runtime looks for it, and take it away again. Other plugins' files are left alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from netplane.kernel import process
from netplane.kernel.errors import CommandFailed
from netplane.lib.cli import UserError
from netplane_cni import spec

BINARY = "netplane-cni"
LOOPBACK = "loopback"
"""containerd asks a plugin of this name for the loopback interface; where none is, ours answers for it."""

CONFLIST = "10-netplane.conflist"
CAPABILITIES = ("portMappings", "ips", "mac", "dns", "bandwidth", spec.POD_ANNOTATIONS)

MARK = b"netplane-cni build "
"""Words that every shim of ours holds, compiled or not, and no other plugin does."""

SOURCES = Path(__file__).parent.parent
SHIM = ("shim.c", "bare.h", "shim.py")
COMPILE_LIMIT = 60.0

_BARE = ("-DBARE", "-static", "-nostdlib", "-ffreestanding", "-fno-pie", "-no-pie", "-fno-stack-protector")
BUILDS = ((*_BARE, "-fno-asynchronous-unwind-tables", "-U_FORTIFY_SOURCE"), ("-static",), ())
"""From the quickest start to the surest: without the C library, with all of it inside, with the host's."""


def conflist() -> dict[str, object]:
    """Return the network configuration: no field of it is about this node, for the daemon knows the node.

    `cniVersion` is 1.0.0 because containerd 1.6 refuses newer; those that can choose take 1.1.0 from `cniVersions`.
    """
    plugin = {
        "type": BINARY,
        "capabilities": dict.fromkeys(CAPABILITIES, True),
    }
    return {"cniVersion": "1.0.0", "cniVersions": ["1.0.0", spec.NEWEST], "name": "netplane", "plugins": [plugin]}


def write_conflist(folder: Path) -> bool:
    """Write the configuration, if it is not there as it should be; runtimes see the old file or the new, whole."""
    return _put(folder / CONFLIST, (json.dumps(conflist(), indent=2) + "\n").encode(), 0o644)


async def install_binary(folder: Path, socket_path: str) -> bool:
    """Put the plugin in `folder`: compiled where a C compiler is, else for Python. Tell whether it was changed."""
    target = folder / BINARY
    if target.exists() and not is_ours(target):
        raise UserError(f"{target} is there and is not netplane's: move it away or choose another --bin-dir")
    stamp = _stamp(socket_path)
    loopback = folder / LOOPBACK
    targets = [target, *([loopback] if not loopback.exists() or is_ours(loopback) else [])]
    if all(path.exists() and stamp in path.read_bytes() for path in targets):
        return False
    compiled = await _compiled(socket_path, stamp)
    content = compiled if compiled is not None else _scripted(socket_path, stamp)
    written = [_put(path, content, 0o755) for path in targets]
    return any(written)


def uninstall(bin_dir: Path, conf_dir: Path) -> list[Path]:
    """Take the plugin and its configuration away; return what was removed."""
    removed = []
    for path in (conf_dir / CONFLIST, bin_dir / BINARY, bin_dir / LOOPBACK):
        if path.exists() and is_ours(path):
            path.unlink()
            removed.append(path)
    return removed


def is_ours(path: Path) -> bool:
    """Tell whether a file is a plugin or a configuration of ours."""
    content = path.read_bytes()
    return MARK in content or (path.suffix == ".conflist" and BINARY.encode() in content)


def earlier(folder: Path) -> list[str]:
    """Return configurations that runtimes prefer to ours: they take the first by name."""
    names = (p.name for p in folder.iterdir() if p.suffix in (".conf", ".conflist", ".json"))
    return sorted(name for name in names if name < CONFLIST)


def _stamp(socket_path: str) -> bytes:
    """Return the mark of a plugin made from these sources for this socket: one that has it need not be made again."""
    digest = hashlib.sha256(socket_path.encode())
    for name in SHIM:
        digest.update((SOURCES / name).read_bytes())
    return MARK + digest.hexdigest()[:16].encode()


async def _compiled(socket_path: str, stamp: bytes) -> bytes | None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    define = [f'-DSOCKET_PATH="{socket_path}"', f'-DBUILD="{stamp.decode()}"', "-D_GNU_SOURCE"]
    with tempfile.TemporaryDirectory(prefix="netplane-cni-") as folder:
        out = Path(folder) / BINARY
        for build in BUILDS:  # Not every machine with a compiler has the static C library.
            argv = [compiler, "-Os", "-s", *build, *define, "-o", str(out), str(SOURCES / "shim.c")]
            with contextlib.suppress(CommandFailed):
                await process.run(argv, timeout=COMPILE_LIMIT)
                await _try(out)
                return out.read_bytes()
    return None


async def _try(plugin: Path) -> None:
    """Raise CommandFailed unless the plugin tells its versions, which it does without a daemon."""
    await process.run([str(plugin)], env={"CNI_COMMAND": "VERSION", "NETPLANE_CNI_SOCKET": f"{plugin}.none"})


def _scripted(socket_path: str, stamp: bytes) -> bytes:
    # -I and -S: no site-packages, no user's environment, a third of the start-up time. The path is absolute for
    # runtimes have no PATH worth the name, and pyenv's python3 costs 100 ms.
    interpreter = next((p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if os.access(p, os.X_OK)), "python3")
    source = (SOURCES / "shim.py").read_text()
    line = 'SOCKET_PATH = b"/run/netplane/cni.sock"'
    if line not in source:
        raise UserError(f"{SOURCES / 'shim.py'} is damaged: reinstall netplane")
    source = source.replace(line, f"SOCKET_PATH = {socket_path.encode()!r}")
    return f"#!{interpreter} -IS\n# {stamp.decode()}\n{source}".encode()


def _put(path: Path, content: bytes, mode: int) -> bool:
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # A dot in front: runtimes that list the folder at this moment do not read half a file.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return True
