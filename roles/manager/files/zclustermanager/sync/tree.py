# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on disk: the manifest of the synchronized paths and its digest."""

from __future__ import annotations

import errno
import fnmatch
import grp
import hashlib
import json
import os
import pwd
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

# Filled in by the kernel or by security modules of one machine, not by the configuration's owner.
LOCAL_XATTRS = ("security.selinux", "trusted.", "security.evm", "security.ima")
TEMPORARY_PREFIX = ".zcluster-"


class UnstableError(OSError):
    """A file changed while it was read, three times in a row."""


@dataclass(frozen=True)
class Entry:
    """One file, directory or symbolic link, by everything that is synchronized about it.

    Owners are names, because ids differ between two installations.
    """

    path: str
    kind: str
    mode: int
    owner: str
    group: str
    sha256: str = ""
    size: int = 0
    target: str = ""
    link: str = ""
    mtime_ns: int = 0
    xattrs: dict[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What makes two entries equal: times are carried, but never decide (clocks lie)."""
        fields = asdict(self)
        del fields["mtime_ns"]
        return fields


Manifest = dict[str, Entry]


@lru_cache(maxsize=512)
def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@lru_cache(maxsize=512)
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def uid(name: str) -> int | None:
    """The number of a user on this node; None when there is no such user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name) if name.isdigit() else None


def gid(name: str) -> int | None:
    """The number of a group on this node; None when there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return int(name) if name.isdigit() else None


# Access lists hold numbers of users and groups (acl(5), linux/posix_acl_xattr.h), which differ
# between two installations as owners do: they travel by name.
ACLS = ("system.posix_acl_access", "system.posix_acl_default")
ACL_USER, ACL_GROUP, NOBODY = 0x02, 0x08, 0xFFFFFFFF
_ACL_HEAD, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
XATTR = re.compile(r"(?:[0-9a-f]{2})*")
ACL = re.compile(r"(?:[0-9a-f]+:[0-7]:[^:,\0]*(?:,|$))+")


def _acl_text(value: bytes) -> str:
    """An access list with names, in an order that numbers do not decide."""
    names = {ACL_USER: _owner, ACL_GROUP: _group}
    entries = sorted(
        (tag, permissions, names[tag](number) if tag in names else "")
        for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[_ACL_HEAD.size :])
    )
    return ",".join(f"{tag:x}:{permissions:x}:{name}" for tag, permissions, name in entries)


def _acl_bytes(text: str) -> bytes:
    """The inverse; who is not known on this node gets nothing."""
    numbers = {ACL_USER: uid, ACL_GROUP: gid}
    entries = []
    for word in text.split(","):
        tag, permissions, name = word.split(":")
        kind = int(tag, 16)
        number = numbers[kind](name) if kind in numbers else NOBODY
        if number is not None:
            entries.append((kind, number, int(permissions, 16)))
    packed = (_ACL_ENTRY.pack(kind, allowed, number) for kind, number, allowed in sorted(entries))
    return _ACL_HEAD.pack(2) + b"".join(packed)


def acl_names(entry: Entry) -> tuple[set[str], set[str]]:
    """Users and groups that the access lists of an entry name."""
    words = [w.split(":") for n in ACLS for w in entry.xattrs.get(n, "").split(",") if w]
    users, groups = (
        {name for tag, _, name in words if int(tag, 16) == kind} for kind in (ACL_USER, ACL_GROUP)
    )
    return users, groups


def sound_xattr(name: str, value: object) -> bool:
    """True for an attribute that a scan could have read."""
    form = ACL if name in ACLS else XATTR
    return isinstance(value, str) and form.fullmatch(value) is not None


def dress(path: str, entry: Entry) -> None:
    """Give a path the owner, mode, extended attributes and times of an entry."""
    owner, group = uid(entry.owner), gid(entry.group)
    os.chown(
        path, -1 if owner is None else owner, -1 if group is None else group, follow_symlinks=False
    )
    present = set(os.listxattr(path, follow_symlinks=False))
    for name, value in entry.xattrs.items():
        raw = _acl_bytes(value) if name in ACLS else bytes.fromhex(value)
        os.setxattr(path, name, raw, follow_symlinks=False)
    for name in present - entry.xattrs.keys():
        if not name.startswith(LOCAL_XATTRS):
            os.removexattr(path, name, follow_symlinks=False)
    if not stat.S_ISLNK(os.lstat(path).st_mode):
        os.chmod(path, entry.mode)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def excluded(path: str, excludes: Iterable[str]) -> bool:
    """True when the path or a directory above it matches an exclude (fnmatch(3) patterns)."""
    candidates = [path]
    while (parent := os.path.dirname(candidates[-1])) not in ("", "/"):
        candidates.append(parent)
    return any(fnmatch.fnmatchcase(c, pattern) for pattern in excludes for c in candidates)


def _children(path: str) -> Iterator[str]:
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        if not name.startswith(TEMPORARY_PREFIX):
            yield os.path.join(path, name)


def _xattrs(path: str) -> dict[str, str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    found = {}
    for name in sorted(names):
        if not name.startswith(LOCAL_XATTRS):
            value = os.getxattr(path, name, follow_symlinks=False)
            found[name] = _acl_text(value) if name in ACLS else value.hex()
    return found


class Scanner:
    """Reads the synchronized paths; remembers digests of files that have not been touched since.

    A remembered digest is used only while inode, size and ctime are the same: ctime cannot be set
    back by a program (utimensat(2)), unlike mtime.
    """

    def __init__(
        self, roots: Iterable[str], excludes: Iterable[str], copies: str | None = None
    ) -> None:
        """`copies`: a directory for frozen copies of what changed since the scan before."""
        self.copies = copies
        self._scanned = False
        self.roots = tuple(roots)
        self.excludes = tuple(excludes)
        self._known: dict[str, tuple[tuple[int, int, int, int], str]] = {}
        self._devices: dict[int, str] = {}

    def scan(self, *, trust: bool = True) -> Manifest:
        """The manifest of what is on disk now; `trust=False` rereads every byte."""
        if not trust:
            self._known.clear()
        manifest: Manifest = {}
        inodes: dict[tuple[int, int], str] = {}
        pending = list(reversed(self.roots))
        while pending:
            path = pending.pop()
            if excluded(path, self.excludes):
                continue
            try:
                entry = self._entry(path, inodes)
                children = list(_children(path)) if entry and entry.kind == "directory" else []
            except (FileNotFoundError, NotADirectoryError):
                continue
            if entry is not None:
                manifest[path] = entry
                pending.extend(reversed(children))
        self._known = {path: known for path, known in self._known.items() if path in manifest}
        self._scanned = True
        return manifest

    def file_systems(self) -> list[str]:
        """One directory on each file system that the last scan came across."""
        return [path for path in self._devices.values() if os.path.isdir(path)]

    def look(self, path: str) -> Entry | None:
        """What is at one path, read now; None for nothing, and for what is never synchronized."""
        self._known.pop(path, None)
        try:
            return self._entry(path, {})
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            self._known.pop(path, None)

    def _entry(self, path: str, inodes: dict[tuple[int, int], str]) -> Entry | None:
        info = os.lstat(path)
        if info.st_dev not in self._devices:
            inside = stat.S_ISDIR(info.st_mode)
            self._devices[info.st_dev] = path if inside else os.path.dirname(path)
        common: dict[str, Any] = {
            "path": path,
            "mode": stat.S_IMODE(info.st_mode),
            "owner": _owner(info.st_uid),
            "group": _group(info.st_gid),
            "mtime_ns": info.st_mtime_ns,
            "xattrs": _xattrs(path),
        }
        if stat.S_ISDIR(info.st_mode):
            return Entry(kind="directory", **common)
        if stat.S_ISLNK(info.st_mode):
            return Entry(kind="symlink", target=os.readlink(path), **common)
        if not stat.S_ISREG(info.st_mode):
            return None  # a socket or FIFO belongs to a running program, not to the configuration
        link = ""
        if info.st_nlink > 1:
            link = inodes.setdefault((info.st_dev, info.st_ino), path)
        sha256, size = self._digest(path, info)
        return Entry(
            kind="file", sha256=sha256, size=size, link="" if link == path else link, **common
        )

    def _digest(self, path: str, info: os.stat_result) -> tuple[str, int]:
        identity = (info.st_dev, info.st_ino, info.st_size, info.st_ctime_ns)
        known = self._known.get(path)
        if known and known[0] == identity:
            return known[1], info.st_size
        try:
            sha256, after = self._read(path)
        except UnstableError:
            if known is None:
                raise
            # It never holds still: what it last was is what is offered until it does.
            return known[1], known[0][2]
        self._known[path] = (
            (after.st_dev, after.st_ino, after.st_size, after.st_ctime_ns),
            sha256,
        )
        return sha256, after.st_size

    def _read(self, path: str) -> tuple[str, os.stat_result]:
        """Digest of a file; a copy of the same bytes too, once there was a scan to differ from."""
        if self.copies is None or not self._scanned:
            return digest_file(path)
        temporary = os.path.join(self.copies, f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}")
        try:
            os.makedirs(self.copies, mode=0o700, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError:
            return digest_file(path)  # a copy is a help, no more
        try:
            sha256, after = digest_file(path, descriptor)
            os.rename(temporary, os.path.join(self.copies, sha256))
        except OSError as error:
            os.unlink(temporary)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            return digest_file(path)
        finally:
            os.close(descriptor)
        return sha256, after


def digest_file(path: str, copy_to: int | None = None) -> tuple[str, os.stat_result]:
    """SHA-256 of a file that held still while it was read; optionally copied to a descriptor.

    Raises UnstableError when inode, size or ctime differ before and after, three times over.
    """
    for _ in range(3):
        digest = hashlib.sha256()
        if copy_to is not None:
            os.ftruncate(copy_to, 0)
            os.lseek(copy_to, 0, os.SEEK_SET)
        # Not through a symbolic link, nor into a FIFO, that somebody put there since the look.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "rb") as stream:
            before = os.fstat(stream.fileno())
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                if copy_to is not None:
                    left = memoryview(chunk)
                    while left:  # a disk that is nearly full takes a part
                        left = left[os.write(copy_to, left) :]
            after = os.fstat(stream.fileno())
        if (before.st_size, before.st_ctime_ns) == (after.st_size, after.st_ctime_ns):
            return digest.hexdigest(), after
    raise UnstableError(f"{path} changes while it is read")


def digest(manifest: Manifest) -> str:
    """One SHA-256 for the whole content, the same on both nodes when the content is the same."""
    total = hashlib.sha256()
    for path in sorted(manifest):
        total.update(json.dumps(manifest[path].identity(), sort_keys=True).encode())
        total.update(b"\n")
    return total.hexdigest()


def same(one: Entry | None, other: Entry | None) -> bool:
    """True for equal entries, and for two that are both not there."""
    if one is None or other is None:
        return one is other
    return one.identity() == other.identity()


def differing(ours: Manifest, theirs: Manifest) -> list[str]:
    """Paths that are not the same on both sides, sorted."""
    return sorted(
        path for path in ours.keys() | theirs.keys() if not same(ours.get(path), theirs.get(path))
    )


def dump(manifest: Manifest) -> list[dict[str, Any]]:
    """The manifest as plain data; names that are not UTF-8 survive as surrogates."""
    return [asdict(manifest[path]) for path in sorted(manifest)]


def undump(entries: Iterable[dict[str, Any]]) -> Manifest:
    """The inverse of `dump`; TypeError for anything that is not an entry."""
    return {entry["path"]: Entry(**entry) for entry in entries}
