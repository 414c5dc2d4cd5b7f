"""The commands `backup` and `restore`: a cluster's objects and keys in one file, while the server runs.

A backup is a tar of `state.db` and `pki/`. What a cluster keeps in etcd is saved by `etcdctl snapshot save`.
"""

from __future__ import annotations

import os
import secrets
import tarfile
from pathlib import Path

import click

from netplane.controlplane.api import server, storage
from netplane.controlplane.store import sqlite
from netplane.lib import clock, config
from netplane.lib.cli import UserError

_KEYS = ("ca.crt", "ca.key", "token.key")
_SKIP = 1_000_000
"""So many revisions are skipped by a restore: more than a cluster writes between a backup and its loss."""
_DATA_DIR = click.Path(file_okay=False, path_type=Path)
_DEFAULT = Path("/var/lib/netplane/server")


@click.command(context_settings=config.SETTINGS)
@click.option("--data-dir", type=_DATA_DIR, default=_DEFAULT, help="The server's data directory.")
@click.option("--force", is_flag=True, help="Replace FILE when it is there.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(*, data_dir: Path, force: bool, file: Path) -> None:
    """Write the cluster's objects and keys into FILE, as they stand at one moment; the server may run.

    FILE holds every Secret and the keys of the cluster: keep it as safe as those.
    """
    if file.exists() and not force:
        raise UserError(f"{file} is there already: choose another name, or --force")
    source = data_dir / storage.DATABASE
    if not source.exists():
        raise UserError(f"{data_dir} holds no {storage.DATABASE}: give the server's --data-dir")
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    copy = beside.with_name(beside.name + ".db")
    try:
        _create(copy)
        sqlite.backup(source, copy)
        revision = _checked(copy)
        _create(beside)
        with tarfile.open(beside, "w") as archive:
            archive.add(copy, storage.DATABASE)
            for name in _KEYS:
                archive.add(data_dir / "pki" / name, f"pki/{name}")
        _sync(beside)
        beside.replace(file)
    except sqlite.Broken as error:
        raise UserError(f"no backup was made: {error}") from error
    except OSError as error:
        raise UserError(f"no backup was made: {error.filename or file}: {error.strerror or error}") from error
    finally:
        _remove(copy, beside)
    click.echo(f"{file}: revision {revision}, {file.stat().st_size} bytes")


@click.command(context_settings=config.SETTINGS)
@click.option("--data-dir", type=_DATA_DIR, default=_DEFAULT, help="The server's data directory.")
@click.option("--force", is_flag=True, help="Also when DATA_DIR holds a cluster: its files are moved aside.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(*, data_dir: Path, force: bool, file: Path) -> None:
    """Bring back a cluster from FILE into a data directory whose server does not run.

    Revisions go on well after those of the backup, so that no client takes old news for new: all of them list anew.
    """
    with server.locked(data_dir):
        target = data_dir / storage.DATABASE
        if target.exists() and not force:
            raise UserError(f"{data_dir} holds a cluster: restore into another --data-dir, or --force to replace it")
        beside = data_dir / f".restore.{secrets.token_hex(4)}"
        try:
            keys = _unpacked(file, beside)
            revision = _checked(beside)
            sqlite.begin_anew(beside, skip=_SKIP)
            _move_aside(data_dir)
            (data_dir / "pki").mkdir(exist_ok=True)
            for name, content in keys.items():
                _write(data_dir / "pki" / name, content)
            beside.replace(target)
            _sync(data_dir)
        except sqlite.Broken as error:
            raise UserError(f"{file} cannot be restored: {error}") from error
        except (tarfile.TarError, KeyError) as error:
            told = str(error).strip("'\"")
            raise UserError(f"{file} is no backup of netplane: {told}") from error
        except OSError as error:
            raise UserError(f"cannot restore: {error.filename or file}: {error.strerror or error}") from error
        finally:
            _remove(beside)
    click.echo(f"{data_dir}: revision {revision} of the backup, now {revision + _SKIP}")


def _checked(path: Path) -> int:
    """Return the revision of a store that is whole; raise Broken."""
    database = sqlite.Database(path)
    try:
        return database.load().revision
    finally:
        database.close()


def _unpacked(file: Path, database: Path) -> dict[str, bytes]:
    """Write the objects of a backup to a file and return its keys."""
    with tarfile.open(file, "r:") as archive:
        keys = {name: _member(archive, f"pki/{name}") for name in _KEYS}
        content = _member(archive, storage.DATABASE)
    _create(database)
    database.write_bytes(content)
    return keys


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    if found is None:
        raise KeyError(name)
    return found.read()


def _move_aside(data_dir: Path) -> None:
    """Keep what is replaced: a restore may be a mistake."""
    suffix = clock.SYSTEM.now().strftime(".before-%Y%m%dT%H%M%SZ")
    for name in (storage.DATABASE, f"{storage.DATABASE}-wal", f"{storage.DATABASE}-shm", "pki"):
        if (data_dir / name).exists():
            (data_dir / name).rename(data_dir / (name + suffix))


def _remove(*paths: Path) -> None:
    """Leave nothing of what was only on the way, SQLite's own files included."""
    for path in paths:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _write(path: Path, content: bytes) -> None:
    _create(path)
    path.write_bytes(content)
    _sync(path)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
