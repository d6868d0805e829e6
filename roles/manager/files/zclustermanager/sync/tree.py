# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on disk: the manifest of the synchronized paths and its digest."""

from __future__ import annotations

import contextlib
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
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, Protocol

# Filled in by the kernel or by security modules of one machine, not by the configuration's owner.
LOCAL_XATTRS = ("security.selinux", "trusted.", "security.evm", "security.ima")
TEMPORARY_PREFIX = ".zcluster-"
# A change costs the digest of one bucket and of their sums, however many paths there are.
BUCKETS = 1024
# The kernel's file times move in steps of up to 10 ms: what is younger may change unseen once more.
RACY_NS = 50_000_000
# The disk takes no more; that does not pass by itself.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_AT_ONCE = 1 << 20
DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Directories that a pass keeps open.
OPEN_AT_ONCE = 8


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
        return {name: getattr(self, name) for name in NAMES if name != "mtime_ns"}

    @cached_property
    def seal(self) -> bytes:
        """SHA-256 of the identity."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).digest()


NAMES = tuple(f.name for f in fields(Entry))
Manifest = Mapping[str, Entry]
Entries = dict[str, Entry]


class Listing(Manifest):
    """A manifest that is never changed, only replaced: digest and replacing cost what changes."""

    def __init__(
        self,
        entries: Mapping[str, Entry],
        _buckets: dict[int, Entries] | None = None,
        _sums: dict[int, bytes] | None = None,
        _links: int | None = None,
    ) -> None:
        """`links`: how many entries are one more name of another."""
        if _buckets is None:
            _buckets = {}
            for path, entry in entries.items():
                _buckets.setdefault(_bucket(path), {})[path] = entry
        self._buckets = _buckets
        self._sums = _sums or {number: _sum(bucket) for number, bucket in _buckets.items()}
        self.links = sum(bool(entry.link) for entry in self.values()) if _links is None else _links

    def __getitem__(self, path: str) -> Entry:
        return self._buckets.get(_bucket(path), {})[path]

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and path in self._buckets.get(_bucket(path), {})

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._buckets.values())

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    @cached_property
    def digest(self) -> str:
        """One SHA-256 for the whole content."""
        total = hashlib.sha256()
        for number in sorted(self._sums):
            total.update(number.to_bytes(2, "big") + self._sums[number])
        return total.hexdigest()

    def replaced(self, news: Mapping[str, Entry | None]) -> Listing:
        """The same but for these paths; None for one that is gone."""
        news = {path: entry for path, entry in news.items() if self.get(path) is not entry}
        if not news:
            return self
        buckets, sums, links = dict(self._buckets), dict(self._sums), self.links
        dirty = {_bucket(path) for path in news}
        for number in dirty:
            buckets[number] = dict(buckets.get(number, {}))
        for path, entry in news.items():
            before = self.get(path)
            links += bool(entry and entry.link) - bool(before and before.link)
            if entry is None:
                buckets[_bucket(path)].pop(path, None)
            else:
                buckets[_bucket(path)][path] = entry
        for number in dirty:
            sums[number] = _sum(buckets[number])
            if not buckets[number]:
                del buckets[number], sums[number]
        return Listing({}, buckets, sums, links)

    def differing(self, other: Listing) -> list[str]:
        """Paths that are not the same in another one, sorted; costs what differs."""
        numbers = {
            number
            for number in self._sums.keys() | other._sums.keys()
            if self._sums.get(number) != other._sums.get(number)
        }
        ours, theirs = (
            {p: e for n in numbers for p, e in listing._buckets.get(n, {}).items()}
            for listing in (self, other)
        )
        return _differing(ours, theirs)


def _bucket(path: str) -> int:
    return zlib.crc32(path.encode("utf-8", "surrogateescape")) % BUCKETS


def _sum(bucket: Manifest) -> bytes:
    return hashlib.sha256(b"".join(bucket[path].seal for path in sorted(bucket))).digest()


# More paths than that are found faster by looking at all.
MANY_HINTS = 5000


@dataclass(frozen=True)
class Hints:
    """Paths where something may have changed; `everything` when nobody knows where."""

    paths: frozenset[str] = frozenset()
    everything: bool = False

    def __or__(self, more: Hints) -> Hints:
        paths = self.paths | more.paths
        if self.everything or more.everything or len(paths) > MANY_HINTS:
            return Hints(everything=True)
        return Hints(paths)


class Watch(Protocol):
    """What tells a scanner where to look (see inotify.py)."""

    def add(self, directory: str) -> None:
        """Hear of every change in a directory from now on."""

    def forget(self, directory: str) -> None:
        """It is gone, or no business of ours any more."""

    def watched(self) -> AbstractSet[str]:
        """The directories that are watched."""

    def drain(self) -> Hints:
        """What was heard since the last time."""


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


@lru_cache(maxsize=512)
def uid(name: str) -> int | None:
    """The number of a user on this node; None when there is no such user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name) if name.isdigit() else None


@lru_cache(maxsize=512)
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


class Ways:
    """Ways to paths, on which no symbolic link below the root is followed.

    Each directory is opened from the one above (openat(2), O_NOFOLLOW): who may write in one could
    make the next a link to anywhere at any moment. What is above a root is the administrator's.
    The last few that were opened are used again, for as long as they are what their path leads to.
    """

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, tuple[int, int]]] = {}

    def close(self) -> None:
        """Close them."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    __del__ = close

    @contextlib.contextmanager
    def to(self, path: str, root: str) -> Iterator[str]:
        """Another name of a path: use it at once, inside of no more than one other."""
        directory, name = os.path.split(path)
        try:
            opened = f"/proc/self/fd/{self._directory(directory, root)}"
        except OSError as error:
            error.filename = path
            raise
        try:
            yield f"{opened}/{name}"
        except OSError as error:
            # People know it by its path.
            for said in ("filename", "filename2"):
                if str(getattr(error, said)).startswith(f"{opened}/"):
                    setattr(error, said, f"{directory}{getattr(error, said)[len(opened) :]}")
            raise

    def _directory(self, directory: str, root: str) -> int:
        known = self._open.pop(directory, None)
        if known is not None:
            try:
                info = os.lstat(directory)
                still = known[1] == (info.st_dev, info.st_ino)
            except OSError:
                still = False
            if not still:
                os.close(known[0])
                known = None
        if known is None:
            descriptor = _open_directory(directory, os.path.dirname(root))
            info = os.fstat(descriptor)
            known = descriptor, (info.st_dev, info.st_ino)
        # The last used is the last of all, and the first is nobody's any more.
        self._open[directory] = known
        if len(self._open) > OPEN_AT_ONCE:
            os.close(self._open.pop(next(iter(self._open)))[0])
        return known[0]


def _open_directory(directory: str, above: str) -> int:
    descriptor = os.open(above, DIRECTORY)
    try:
        for part in filter(None, directory[len(above) :].split("/")):
            below = os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def dress(path: str, entry: Entry) -> None:
    """Give a path the owner, mode, extended attributes and times of an entry.

    A symbolic link gets its own, whoever puts it there at whatever moment: not what it leads to.
    """
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        dress_open(descriptor, entry)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def dress_open(descriptor: int, entry: Entry) -> None:
    """The same for what is open."""
    path = f"/proc/self/fd/{descriptor}"
    owner, group = uid(entry.owner), gid(entry.group)
    os.chown(path, -1 if owner is None else owner, -1 if group is None else group)
    present = set(os.listxattr(path))
    for name, value in entry.xattrs.items():
        raw = _acl_bytes(value) if name in ACLS else bytes.fromhex(value)
        os.setxattr(path, name, raw)
    for name in present - entry.xattrs.keys():
        if not name.startswith(LOCAL_XATTRS):
            os.removexattr(path, name)
    if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
        os.chmod(path, entry.mode)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def excluded(path: str, excludes: Sequence[str]) -> bool:
    """True when the path or a directory above it matches an exclude (fnmatch(3) patterns)."""
    if not excludes:
        return False
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


def _manner(path: str, info: os.stat_result) -> dict[str, Any]:
    """Whose it is, and who may do what with it."""
    return {
        "mode": stat.S_IMODE(info.st_mode),
        "owner": _owner(info.st_uid),
        "group": _group(info.st_gid),
        "mtime_ns": info.st_mtime_ns,
        "xattrs": _xattrs(path),
    }


def _untouched(info: os.stat_result) -> tuple[int, int, int, int]:
    """The same as long as nobody touches a file."""
    return (info.st_dev, info.st_ino, info.st_size, info.st_ctime_ns)


@dataclass(frozen=True)
class Known:
    """What was read at a path. racy: so soon after a change that the next could leave no trace."""

    untouched: tuple[int, int, int, int]
    entry: Entry
    racy: bool

    def still(self, info: os.stat_result) -> bool:
        """True when it need not be read again."""
        return not self.racy and self.untouched == _untouched(info)


class Scanner:
    """Reads the synchronized paths; remembers those that have not been touched since.

    What is remembered is used only while inode, size and ctime are the same: ctime cannot be set
    back by a program (utimensat(2)), unlike mtime. With a watch, only paths are looked at of which
    it told something, until somebody doubts.
    """

    def __init__(
        self,
        roots: Iterable[str],
        excludes: Iterable[str],
        copies: str | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`copies`: a directory for frozen copies of what changed since the scan before."""
        self.copies = copies
        self.roots = tuple(roots)
        self.excludes = tuple(excludes)
        self.watch = watch
        self._listing: Listing | None = None
        self._hints = Hints(everything=True)
        self._alone = threading.RLock()
        self._known: dict[str, Known] = {}
        self._linked: set[str] = set()
        self._inodes: dict[tuple[int, int], str] = {}
        self._devices: dict[int, str] = {}
        # Files that somebody was writing at the last look, and since when.
        self._writing: dict[str, float] = {}

    def doubt(self) -> None:
        """Whatever the watch says: look at every path the next time."""
        with self._alone:
            self._hints = Hints(everything=True)

    def listen(self) -> None:
        """Note what the watch has to tell, for the next scan."""
        with self._alone:
            self._hints |= self.watch.drain() if self.watch else Hints(everything=True)

    def scan(self, *, trust: bool = True) -> Listing:
        """The manifest of what is on disk now; `trust=False` rereads every byte."""
        with self._alone:
            self.listen()
            # Should this scan fail half-way: what it heard the watch will not say again.
            hints, self._hints = self._hints, Hints(everything=True)
            if not trust:
                # A user may have another number by now.
                _owner.cache_clear()
                _group.cache_clear()
                self._known = {p: replace(known, racy=True) for p, known in self._known.items()}
            listing, refreshed = self._listing, None
            if listing is not None and trust and not hints.everything:
                refreshed = self._refresh(listing, hints.paths)
            self._listing = found = self._everything() if refreshed is None else refreshed
            self._hints = Hints()
            return found

    def _everything(self) -> Listing:
        self._inodes.clear()
        self._linked.clear()
        found: Entries = {}
        watched = set(self.watch.watched()) if self.watch else set()
        above = {os.path.dirname(root) for root in self.roots}
        for directory in above:
            self._listen(directory)
        for root in self.roots:
            self._walk(root, found)
        for directory in watched - found.keys() - above:
            self._forget(directory)
        self._known = {path: known for path, known in self._known.items() if path in found}
        self._writing = {p: since for p, since in self._writing.items() if os.path.lexists(p)}
        before = self._listing
        if before is None:
            return Listing(found)
        return before.replaced({**dict.fromkeys(before.keys() - found.keys()), **found})

    def _refresh(self, before: Listing, hints: Iterable[str]) -> Listing | None:
        """Look only where the watch says; None when that is not enough."""
        asked = sorted(filter(self._ours, hints))
        news: dict[str, Entry | None] = dict.fromkeys(
            self._below(before, {path for path in asked if not self._same_directory(path)})
        )
        for path in news:
            self._known.pop(path, None)
            self._forget(path)
        found: Entries = {}
        for path in asked:
            if path not in found and self._inside(path, found, news, before):
                self._walk(path, found, deep=path in news or path not in before)
        # Other names of a file change with it, and which one is the first depends on all.
        if not self._linked.isdisjoint(news.keys() | found.keys()):
            return None
        return before.replaced({**news, **found})

    def _inside(self, path: str, *manifests: Mapping[str, Entry | None]) -> bool:
        """Whether a path is a root, or in a directory that the first of these to know it has."""
        parent = os.path.dirname(path)
        there = next((manifest[parent] for manifest in manifests if parent in manifest), None)
        return path in self.roots or (there is not None and there.kind == "directory")

    @staticmethod
    def _below(listing: Listing, tops: set[str]) -> list[str]:
        """These paths and everything in them, that a listing has."""
        directories = {p for p in tops if p in listing and listing[p].kind == "directory"}
        if not directories:
            return [path for path in tops if path in listing]

        def inside(path: str) -> bool:
            while len(path) > 1:
                if path in tops:
                    return True
                path = os.path.dirname(path)
            return False

        return [path for path in listing if inside(path)]

    def _ours(self, path: str) -> bool:
        return (
            any(path == r or path.startswith(f"{r}/") for r in self.roots)
            and f"/{TEMPORARY_PREFIX}" not in path
            and not excluded(path, self.excludes)
        )

    def _same_directory(self, path: str) -> bool:
        """Still the directory that it was: what is in it has told of itself."""
        known = self._known.get(path)
        # Not listened to: it was moved away and back, or removed and made anew.
        if known is None or self.watch is None or path not in self.watch.watched():
            return False
        try:
            info = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISDIR(info.st_mode) and known.untouched[:2] == (info.st_dev, info.st_ino)

    def _walk(self, top: str, found: Entries, *, deep: bool = True) -> None:
        """Put a path and what is in it into a manifest; not deep: the path alone."""
        pending = [top]
        while pending:
            path = pending.pop()
            if excluded(path, self.excludes):
                continue
            try:
                entry = self._entry(path)
                children = []
                if entry and entry.kind == "directory" and deep:
                    # First listen, then look: nothing that is made in between is missed.
                    self._listen(path)
                    children = list(_children(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except UnstableError:
                # Without a scan before, nobody knows whether it is new: the other node may have it.
                if self._listing is None:
                    raise
                continue  # somebody still writes it: it is there once it holds still
            if entry is not None:
                first = found.get(entry.link)
                if first is not None and first.sha256 != entry.sha256:
                    # Written between the two reads: both names have what the first was read with.
                    entry = replace(first, path=path, link=first.path)
                found[path] = entry
                pending.extend(reversed(children))

    def _listen(self, directory: str) -> None:
        if self.watch:
            self.watch.add(directory)

    def _forget(self, directory: str) -> None:
        if self.watch:
            self.watch.forget(directory)

    def written(self, seconds: float) -> list[str]:
        """Files that have not held still for so long: what they are now, no scan has."""
        with self._alone:
            started = time.monotonic() - seconds
            return sorted(path for path, since in self._writing.items() if since <= started)

    def file_systems(self) -> list[str]:
        """One directory on each file system that the last scan came across."""
        return [path for path in self._devices.values() if os.path.isdir(path)]

    def look(self, path: str) -> Entry | None:
        """What is at one path, read now; None for nothing, and for what is never synchronized."""
        self._known.pop(path, None)
        try:
            return self._entry(path, alone=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            self._known.pop(path, None)
            self._writing.pop(path, None)

    def _entry(self, path: str, *, alone: bool = False) -> Entry | None:
        """What is at a path; alone: whatever other names it has."""
        since = self._writing.pop(path, None)
        info = os.lstat(path)
        if info.st_dev not in self._devices:
            inside = stat.S_ISDIR(info.st_mode)
            self._devices[info.st_dev] = path if inside else os.path.dirname(path)
        link = ""
        if info.st_nlink > 1 and not alone and stat.S_ISREG(info.st_mode):
            self._linked.add(path)
            link = self._inodes.setdefault((info.st_dev, info.st_ino), path)
            link = "" if link == path else link
        known = self._known.get(path)
        if known and known.still(info):
            entry = known.entry
            return entry if entry.link == link else replace(entry, link=link)
        now = time.time_ns()
        if stat.S_ISDIR(info.st_mode):
            entry = Entry(path, "directory", **_manner(path, info))
        elif stat.S_ISLNK(info.st_mode):
            entry = Entry(path, "symlink", target=os.readlink(path), **_manner(path, info))
        elif stat.S_ISREG(info.st_mode):
            try:
                sha256, info = self._read(path)
            except UnstableError:
                self._writing[path] = time.monotonic() if since is None else since
                return self._before(path, info, link)
            # Of what was read: another may have stood there at the look, for others to read.
            manner = _manner(path, info)
            entry = Entry(path, "file", sha256=sha256, size=info.st_size, link=link, **manner)
        else:
            return None  # a socket or FIFO belongs to a running program, not to the configuration
        self._known[path] = Known(_untouched(info), entry, racy=info.st_ctime_ns + RACY_NS > now)
        return entry

    def _before(self, path: str, info: os.stat_result, link: str) -> Entry:
        """What a file that never holds still last was: that is offered until it does.

        As a whole: its content may not be for those to read who may read what stands there now.
        UnstableError when there was none.
        """
        last = self._listing.get(path) if self._listing is not None else None
        if last is None or last.kind != "file":
            # What is left out is not what its other names are links to.
            if self._inodes.get((info.st_dev, info.st_ino)) == path:
                del self._inodes[info.st_dev, info.st_ino]
            raise UnstableError(f"{path} changes while it is read")
        return last if last.link == link else replace(last, link=link)

    def _read(self, path: str) -> tuple[str, os.stat_result]:
        """Digest of a file; a copy of the same bytes too, once there was a scan to differ from."""
        if self.copies is None or self._listing is None:
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
            if error.errno not in FULL:
                raise
            return digest_file(path)
        finally:
            os.close(descriptor)
        return sha256, after


def _open_file(path: str) -> int:
    """The descriptor of a file to read; UnstableError when something else stands there by now."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise UnstableError(f"{path} was replaced while it was read")


def digest_file(path: str, copy_to: int | None = None) -> tuple[str, os.stat_result]:
    """SHA-256 of a file that held still while it was read; optionally copied to a descriptor.

    Raises UnstableError when size or ctime change meanwhile, three times over, and when it is
    another kind of thing by then.
    """
    for _ in range(3):
        digest = hashlib.sha256()
        if copy_to is not None:
            os.ftruncate(copy_to, 0)
            os.lseek(copy_to, 0, os.SEEK_SET)
        with os.fdopen(_open_file(path), "rb") as stream:
            before = after = os.fstat(stream.fileno())
            # A large file that somebody writes is not read to its end for nothing.
            while _untouched(after) == _untouched(before) and (chunk := stream.read(READ_AT_ONCE)):
                digest.update(chunk)
                if copy_to is not None:
                    left = memoryview(chunk)
                    while left:  # a disk that is nearly full takes a part
                        left = left[os.write(copy_to, left) :]
                after = os.fstat(stream.fileno())
        if _untouched(after) == _untouched(before):
            return digest.hexdigest(), after
    raise UnstableError(f"{path} changes while it is read")


def listed(manifest: Manifest) -> Listing:
    """A manifest as one that knows its digest."""
    return manifest if isinstance(manifest, Listing) else Listing(manifest)


def digest(manifest: Manifest) -> str:
    """One SHA-256 for the whole content, the same on both nodes when the content is the same."""
    return listed(manifest).digest


def same(one: Entry | None, other: Entry | None) -> bool:
    """True for equal entries, and for two that are both not there."""
    if one is None or other is None:
        return one is other
    return one is other or one.seal == other.seal


def differing(ours: Manifest, theirs: Manifest) -> list[str]:
    """Paths that are not the same on both sides, sorted."""
    if isinstance(ours, Listing) and isinstance(theirs, Listing):
        return ours.differing(theirs)
    return _differing(ours, theirs)


def _differing(ours: Manifest, theirs: Manifest) -> list[str]:
    return sorted(
        path for path in ours.keys() | theirs.keys() if not same(ours.get(path), theirs.get(path))
    )


def dump(manifest: Manifest) -> list[dict[str, Any]]:
    """The manifest as plain data; names that are not UTF-8 survive as surrogates."""
    return [{name: getattr(manifest[p], name) for name in NAMES} for p in sorted(manifest)]


def undump(entries: Iterable[dict[str, Any]]) -> Entries:
    """The inverse of `dump`; TypeError for anything that is not an entry."""
    found = [Entry(**entry) for entry in entries]
    if not all(isinstance(entry.path, str) for entry in found):
        raise TypeError("a path is no text")
    return {entry.path: entry for entry in found}
