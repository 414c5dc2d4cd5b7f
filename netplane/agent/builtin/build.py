"""Say what is in the built-in images, and build those that are missing or whose inputs changed.

netplane.local/busybox:1 is Debian's static busybox. netplane.local/echo:1 stands on it and adds Debian's Python, with
the part of its library that small programs need, and the echo server. netplane.local/pause:1 holds the namespaces of a
pod where the runtime wants an image for that. Nothing is fetched from anywhere.
"""

from __future__ import annotations

import importlib.util
import marshal
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from netplane.agent.images import recipe
from netplane.agent.images.recipe import Entry, Recipe
from netplane.agent.images.store import Image, ImageError, Store
from netplane.agent.runtime.embedded import pause
from netplane.kernel import process
from netplane.kernel.errors import KernelError

BUSYBOX = "netplane.local/busybox:1"
ECHO = "netplane.local/echo:1"
PAUSE = "netplane.local/pause:1"

LIMIT = 120.0
"""Seconds for a program: `ldd` starts one for each file, which on an emulated machine takes long."""

_BUSYBOX_PROGRAM = Path("/bin/busybox")
_PYTHON = Path("/usr/bin/python3")
_ECHO_SOURCE = Path(__file__).parent / "echo"
_LABELS = {"org.opencontainers.image.vendor": "netplane"}

_LEFT_OUT = frozenset(
    [
        "test",
        "idlelib",
        "lib2to3",
        "ensurepip",
        "distutils",
        "tkinter",
        "turtledemo",
        "venv",
        "pydoc_data",
        "unittest",
        "curses",
        "sqlite3",
        "dbm",
        "wsgiref",
        "xmlrpc",
        "msilib",
        "turtle.py",
        "__phello__",
        "lib-dynload",
        "site-packages",
        "dist-packages",
    ]
)
"""Parts of the library that no small program needs, or that need libraries we do not carry."""

_EXTENSIONS = frozenset(
    [
        "_asyncio",
        "_contextvars",
        "_decimal",
        "_json",
        "_multiprocessing",
        "_opcode",
        "_posixshmem",
        "_queue",
        "_typing",
        "_uuid",
        "_zoneinfo",
        "mmap",
        "resource",
        "termios",
    ]
)
"""Compiled modules that need no library besides Python's own."""

_FILES = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "/etc/nsswitch.conf": b"hosts: files dns\n",
    "/etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
}
_FOLDERS = {
    "/dev": 0o755,
    "/proc": 0o555,
    "/sys": 0o555,
    "/run": 0o755,
    "/root": 0o700,
    "/tmp": 0o1777,
    "/var/tmp": 0o1777,
}


def build(root: Path | str) -> tuple[Image, ...]:
    """Make sure that the store in `root` has the built-in images, up to date. Raises ImageError."""
    store = Store(root)
    return tuple(recipe.build(store, make())[0] for make in (busybox, echo, sandbox))


def busybox() -> Recipe:
    """Return the recipe of the busybox image: the program, a link for each applet, users and folders."""
    _needed(_BUSYBOX_PROGRAM, "busybox-static")
    applets = _output(str(_BUSYBOX_PROGRAM), "--list-full").split()
    entries = (
        Entry("/bin/busybox", mode=0o755, source=_BUSYBOX_PROGRAM),
        *(Entry(f"/{path}", "link", 0o777, target="/bin/busybox") for path in applets if path != "bin/busybox"),
        *(Entry(path, content=content) for path, content in _FILES.items()),
        *(Entry(path, "folder", mode) for path, mode in _FOLDERS.items()),
    )
    return Recipe(BUSYBOX, entries, {"Cmd": ["sh"], "Env": [recipe.PATH], "Labels": _LABELS})


def sandbox() -> Recipe:
    """Return the recipe of the image of a pod's first process, which only waits and reaps."""
    entries = (
        Entry(f"/{pause.NAME}", mode=0o755, content=pause.elf(platform.machine())),
        *(Entry(path, "folder", 0o755) for path in ("/dev", "/proc", "/sys")),
    )
    config = {"Entrypoint": [f"/{pause.NAME}"], "User": "65535:65535", "Labels": _LABELS}
    return Recipe(PAUSE, entries, config)


def echo() -> Recipe:
    """Return the recipe of the echo image: Python with its libraries, and the server as a package beside them."""
    _needed(_PYTHON, "python3")
    program = _PYTHON.resolve()
    library = Path("/usr/lib") / program.name
    tag = f"cpython-{program.name.removeprefix('python').replace('.', '')}"
    extensions = [path for path in sorted((library / "lib-dynload").glob("*.so")) if _stem(path) in _EXTENSIONS]
    entries = (
        Entry(str(program), mode=0o755, source=program),
        Entry("/usr/bin/python3", "link", 0o777, target=program.name),
        *(Entry(str(path), mode=0o755, source=path.resolve()) for path in _shared(program, *extensions)),
        *(Entry(str(path), source=path) for path in extensions),
        *_library(library, tag),
        *_server(library / "echo", tag),
    )
    config = {
        "Entrypoint": [str(program), "-I", "-S", "-m", "echo"],
        "Env": [recipe.PATH],
        "ExposedPorts": {"8080/tcp": {}, "8081/tcp": {}, "8082/udp": {}},
        "Labels": _LABELS,
        "StopSignal": "SIGTERM",
    }
    return Recipe(ECHO, entries, config, base=BUSYBOX)


def _library(folder: Path, tag: str) -> Iterator[Entry]:
    """Yield Python's own modules with what Debian compiled of them, which saves every container the compiling."""
    for path in sorted(folder.iterdir()):
        if path.name in _LEFT_OUT or path.name.startswith("config-") or path.is_symlink():
            continue
        if path.name == "__pycache__":
            yield from (Entry(str(made), source=made) for made in sorted(path.glob(f"*.{tag}.pyc")))
        elif path.is_dir():
            yield from _library(path, tag)
        elif path.suffix == ".py":
            yield Entry(str(path), source=path)


def _server(folder: Path, tag: str) -> Iterator[Entry]:
    can_compile = tag == sys.implementation.cache_tag
    for path in sorted(_ECHO_SOURCE.glob("*.py")):
        yield Entry(str(folder / path.name), content=path.read_bytes())
        if can_compile:
            yield Entry(
                str(folder / "__pycache__" / f"{path.stem}.{tag}.pyc"), content=_bytecode(path, folder / path.name)
            )


def _bytecode(path: Path, name: Path) -> bytes:
    """Compile a module as it will be named in the image, never to be checked against its source (PEP 552)."""
    source = path.read_bytes()
    header = importlib.util.MAGIC_NUMBER + (0b01).to_bytes(4, "little") + importlib.util.source_hash(source)
    return header + marshal.dumps(compile(source, str(name), "exec", dont_inherit=True))


def _shared(*programs: Path) -> list[Path]:
    """Return the shared libraries that the programs load, under the paths they are looked for."""
    lines = _output("ldd", *map(str, programs)).splitlines()
    words = (word for line in lines for word in line.split() if not line.endswith(":"))
    return sorted({Path(word) for word in words if word.startswith("/")})


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _needed(program: Path, package: str) -> None:
    if not program.exists():
        raise ImageError(f"cannot build the built-in images: {program} is missing; apt-get install {package}")


def _output(*argv: str) -> str:
    try:
        return process.run_sync(argv, timeout=LIMIT).text
    except KernelError as error:
        raise ImageError(f"cannot build the built-in images: {error}") from error
