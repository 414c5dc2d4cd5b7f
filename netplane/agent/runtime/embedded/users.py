"""Find out which user and groups an image's or pod's user is, from the image's own /etc/passwd and /etc/group."""

from __future__ import annotations

from dataclasses import dataclass


class NoSuchUser(ValueError):
    """The image's passwd or group file does not have the name."""


@dataclass(frozen=True, slots=True)
class User:
    """Who a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve(user: str, passwd: str, group: str) -> User:
    """Return the user of `name`, `uid`, `name:group` or `uid:gid` (OCI image config, `User`).

    A number needs no entry. Without a group, the entry's own and those that list the user count; else root's.
    Raises NoSuchUser.
    """
    name, _, group_name = user.partition(":")
    entry = _passwd(name or "0", passwd)
    if entry is None and not (name or "0").isdigit():
        raise NoSuchUser(f"unable to find user {name}: no matching entries in passwd file")
    uid = int(entry[2]) if entry else int(name or "0")
    home = entry[5] if entry and len(entry) > 5 else "/"
    if group_name:
        return User(uid, _gid(group_name, group), home=home)
    gid = int(entry[3]) if entry else 0
    groups = _member_of(entry[0], group) if entry else ()
    return User(uid, gid, tuple(sorted(set(groups) - {gid})), home)


def _passwd(name: str, passwd: str) -> list[str] | None:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit() and name in (fields[0], fields[2]):
            return fields
    return None


def _gid(name: str, group: str) -> int:
    if name.isdigit():
        return int(name)
    for line in group.splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) >= 3 and fields[2].isdigit():
            return int(fields[2])
    raise NoSuchUser(f"unable to find group {name}: no matching entries in group file")


def _member_of(user: str, group: str) -> tuple[int, ...]:
    lines = (line.split(":") for line in group.splitlines())
    return tuple(int(f[2]) for f in lines if len(f) >= 4 and f[2].isdigit() and user in f[3].split(","))
