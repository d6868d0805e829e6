# SPDX-License-Identifier: GPL-3.0-or-later
"""The effects of synchronization on a node's disk, one by one; their order is decided elsewhere.

`Disk` names them, for the tests have a disk of their own that forgets what was not made durable.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from .. import durable
from . import tree
from .generation import Generation
from .store import LATE, NEW, Store, kind
from .tree import Entry, Manifest, Scanner

# So many files are made durable one by one; above that the whole file system is cheaper.
FEW = 64
# What a file takes at most beside its bytes.
BLOCK = 4096
# Seconds for a program to end what it writes to a file that was replaced under its hands.
LAST_WORDS = 1.0
OCTAL = re.compile(rb"\\([0-7]{3})")
OURS = re.compile(rf"{re.escape(tree.TEMPORARY_PREFIX)}[0-9a-f]{{32}}-?")


class DiskError(Exception):
    """The disk cannot take this step; the text says why."""


class Disk(Protocol):
    """What a transaction may do to a disk. Only `save`, `mark` and `settle` make durable."""

    def lock(self, patience: float | None = None) -> contextlib.AbstractContextManager[None]:
        """One judge at a time on this node; TimeoutError after so many seconds, or never."""

    def generation(self) -> Generation:
        """This node's generation."""

    def save(self, generation: Generation) -> None:
        """Make a generation durable."""

    def scan(self, *, trust: bool = True) -> Manifest:
        """What is live now."""

    def settle(self, paths: Iterable[str] | None = None) -> None:
        """Make durable what was written: these live paths, or everything, kept and staged."""

    def tokens(self) -> list[str]:
        """The stages there are."""

    def mark(self, token: str, name: str, value: Any) -> None:
        """Durably note something about a stage; the first mark makes the stage."""

    def marked(self, token: str, name: str) -> Any:
        """What was noted, or None."""

    def drop(self, token: str) -> None:
        """Forget a stage."""

    def deliver(self, token: str, sha256: str, content: bytes) -> None:
        """Put a content that came with a request into a stage."""

    def arrived(self, token: str, sha256: str) -> str:
        """The digest of what arrived in a stage under this name; empty when nothing did."""

    def unknown_owners(self, target: Manifest) -> list[str]:
        """Users and groups of a manifest that this node lacks."""

    def own(self, directory: str, live: Manifest) -> str:
        """A file in a directory that is not synchronized; empty for none."""

    def mounts(self) -> set[str]:
        """Mount points: nothing can be exchanged with one."""

    def tidy(self) -> None:
        """Finish or forget versions whose making ended half-way."""

    def make_room(self, replaced: Manifest) -> None:
        """Have room to keep what is replaced."""

    def version(self, kind: str) -> str:
        """Begin a kept version (`store.REPLACED`…); its name."""

    def keep(self, version: str, entry: Entry, *, goes: bool = False) -> None:
        """Copy what is live at a path into a version; `goes`: it will not stay live itself."""

    def record(self, version: str, replaced: Manifest, added: list[str]) -> None:
        """Note what a version is about."""

    def discard(self, version: str) -> None:
        """Forget a version: nothing that is in it went."""

    def prepare(self, entry: Entry, token: str) -> None:
        """Make what is new beside the live path, under the name that this pass has for it."""

    def beside(self, token: str, path: str) -> Entry | None:
        """What is under that name, as such: the new before `put`, what it replaced afterwards."""

    def held(self, token: str, path: str) -> bool:
        """True while somebody still writes to what is under that name."""

    def put(self, token: str, path: str) -> bool:
        """Exchange what was prepared with what is live; False when nothing was prepared."""

    def take_away(self, token: str, path: str) -> None:
        """Move what is live under that name."""

    def link(self, token: str, entry: Entry) -> None:
        """Prepare a hard link."""

    def keep_beside(self, version: str, token: str, path: str) -> Manifest:
        """Bring what is under that name into a version."""

    def forget(self, token: str, path: str) -> None:
        """Remove what is under that name."""

    def remove_directory(self, path: str) -> None:
        """Take an empty directory away; one that holds something stays."""

    def dress(self, entry: Entry) -> None:
        """Owner, mode, attributes, times."""

    def sweep(self, spared: Iterable[tuple[str, str]]) -> None:
        """Remove what a killed pass left beside live files, but for these passes and paths."""


class LocalDisk:
    """The disk of this machine."""

    def __init__(self, store: Store, scanner: Scanner) -> None:
        self.store = store
        self.scanner = scanner
        # What is known while the lock is held: where what passes have beside live paths is (empty:
        # nowhere), the directories above those in a directory, the one for a version's copies of
        # what is in it, the version that keeps a file itself, and directories that were opened.
        self._names: dict[tuple[str, str], str] = {}
        self._upward: dict[str, list[str]] = {}
        self._copies: dict[tuple[str, str], str] = {}
        self._kept: dict[str, str] = {}
        self._ways = tree.Ways()
        self.generation = store.generation
        self.save = store.save
        self.scan = scanner.scan
        self.drop = store.drop

    @contextlib.contextmanager
    def lock(self, patience: float | None = None) -> Iterator[None]:
        """That of the store."""
        with self.store.lock(patience):
            try:
                yield
            finally:
                for known in (self._names, self._upward, self._copies, self._kept):
                    known.clear()
                self._ways.close()
                tree.uid.cache_clear()
                tree.gid.cache_clear()

    def settle(self, paths: Iterable[str] | None = None) -> None:
        """fsync(2) for a few paths and their directories, else syncfs(2)."""
        chosen = None if paths is None else set(paths)
        if chosen is not None and len(chosen) <= FEW:
            chosen |= {os.path.dirname(path) for path in chosen}
            for path in sorted(chosen, reverse=True):
                self._fsync(path)
            return
        state = [str(self.store.state)] if paths is None else []
        # A root that is not there yet is made on the file system of what it will be in.
        above = filter(os.path.isdir, map(os.path.dirname, self.scanner.roots))
        places = (*state, *self.scanner.file_systems(), *above)
        durable.sync_filesystems(map(Path, places))

    @staticmethod
    def _fsync(path: str) -> None:
        try:
            kind = os.lstat(path).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                return  # the name of a symbolic link is its directory's
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            # Gone, with a directory above it that is a file or a symbolic link now.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def tokens(self) -> list[str]:
        """Directories under incoming/."""
        incoming = self.store.incoming
        return sorted(p.name for p in incoming.iterdir()) if incoming.is_dir() else []

    def mark(self, token: str, name: str, value: Any) -> None:
        """A small file of its own in the stage."""
        self.blobs(token).mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.write_json(self.store.incoming / token / f"{name}.json", value)

    def marked(self, token: str, name: str) -> Any:
        """What that file says."""
        return durable.read_json(self.store.incoming / token / f"{name}.json")

    def blobs(self, token: str) -> Path:
        """Where the contents of a stage arrive, each named by its SHA-256."""
        return self.store.incoming / token / "blobs"

    def deliver(self, token: str, sha256: str, content: bytes) -> None:
        """As rsync would."""
        durable.create(str(self.blobs(token) / sha256), content)

    def arrived(self, token: str, sha256: str) -> str:
        """Read again: what rsync wrote is not believed."""
        try:
            return tree.digest_file(str(self.blobs(token) / sha256))[0]
        except OSError:
            return ""

    def unknown_owners(self, target: Manifest) -> list[str]:
        """Asked of the name service, as ids differ between two installations."""
        users, groups = {e.owner for e in target.values()}, {e.group for e in target.values()}
        for entry in target.values():
            named = tree.acl_names(entry) if entry.xattrs else (set(), set())
            users, groups = users | named[0], groups | named[1]
        return sorted(
            {f"user {name}" for name in users if tree.uid(name) is None}
            | {f"group {name}" for name in groups if tree.gid(name) is None}
        )

    def own(self, directory: str, live: Manifest) -> str:
        """Excluded files, sockets: whatever no manifest has."""
        with os.scandir(directory) as entries:
            return next(
                (
                    entry.name
                    for entry in entries
                    if entry.path not in live and not entry.name.startswith(tree.TEMPORARY_PREFIX)
                ),
                "",
            )

    def mounts(self) -> set[str]:
        """As the kernel tells (proc_pid_mountinfo(5)): a field in which some bytes are octal."""
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
        return {
            os.fsdecode(OCTAL.sub(lambda found: bytes([int(found[1], 8)]), line.split()[4]))
            for line in lines
        }

    def make_room(self, replaced: Manifest) -> None:
        """On the file system of versions/."""
        files = [entry for entry in replaced.values() if entry.kind == "file"]
        needed = sum(entry.size + BLOCK for entry in files)
        if lacking := self.store.make_room(needed, len(files)):
            raise DiskError(
                f"no room to keep what is replaced: {lacking} on {self.store.state}; free some, "
                "or lower zcluster_sync_keep"
            )

    def version(self, kind: str) -> str:
        """A directory under versions/."""
        return self.store.new_version(kind)

    def keep(self, version: str, entry: Entry, *, goes: bool = False) -> None:
        """With owner, mode and times, for `sync restore`."""
        if entry.kind == "directory":
            return
        copy = self._copy_of(version, entry.path)
        with contextlib.suppress(FileNotFoundError), self._beneath(entry.path) as live:
            if goes and self._second_name(live, copy):
                self._kept[entry.path] = version
            else:
                self._copy(live, copy)

    def _copy_of(self, version: str, path: str) -> str:
        """Where a version has its copy of a path."""
        directory, name = os.path.split(path)
        if (version, directory) not in self._copies:
            place = f"{self.store.version(version)}{directory}"
            os.makedirs(place, mode=0o700, exist_ok=True)
            self._copies[version, directory] = place
        return os.path.join(self._copies[version, directory], name)

    @staticmethod
    def _second_name(live: str, copy: str) -> bool:
        """Keep a file itself, if it has no other name by which somebody writes to it later.

        Who writes to it until it is gone overwrites what is kept of it, as he would without us.
        """
        info = os.lstat(live)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
            return False
        try:
            os.link(live, copy, follow_symlinks=False)
        except FileNotFoundError:
            raise
        except OSError:
            return False  # another file system, or one that has no hard links
        return True

    def _let_be(self, path: str, displaced: str) -> None:
        """What somebody has a way to, by another name or open, is kept as a copy instead."""
        if not (version := self._kept.pop(path, "")):
            return
        copy = self._copy_of(version, path)
        if not os.path.samestat(os.lstat(copy), os.lstat(displaced)):
            return
        directory = os.path.dirname(copy)
        new = os.path.join(directory, f"{tree.TEMPORARY_PREFIX}{os.urandom(16).hex()}")
        try:
            self._copy(displaced, new)
            self._fsync(new)
            os.rename(new, copy)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            raise
        durable.fsync_directory(Path(directory))

    def discard(self, version: str) -> None:
        """It is unfinished first: a half-removed one would be one of what is left."""
        self._copies.clear()
        self.store.discard(version)

    def record(self, version: str, replaced: Manifest, added: list[str]) -> None:
        """Beside the copies."""
        self._copies.clear()
        self.store.record(version, tree.dump(replaced), added)

    def tidy(self) -> None:
        """Unfinished versions hold copies, but for what was moved there: that is all there is."""
        for unfinished in self.store.unfinished():
            name = unfinished.name.removeprefix(NEW)
            kept = Scanner([str(unfinished)], []).scan() if kind(name) == LATE else {}
            found = {
                path: replace(entry, path=path, link="")
                for at, entry in kept.items()
                if entry.kind != "directory" and (path := at.removeprefix(str(unfinished)))
            }
            if found:
                self.record(name, found, [])
            else:
                shutil.rmtree(unfinished, ignore_errors=True)

    def prepare(self, entry: Entry, token: str) -> None:
        """From what arrived in the stage."""
        self.make(entry, self.blobs(token), token)

    def make(self, entry: Entry, contents: Path, token: str) -> None:
        """On the same file system, so that a rename is enough."""
        beside = self._beside(token, entry.path)
        if not _is_directory(os.path.dirname(beside)):
            # Somebody moved it away since, or there is not even what the root is to be in.
            self._upward.clear()
            beside = self._beside(token, entry.path)
            if (above := os.path.dirname(beside)) == os.path.dirname(self._root(entry.path)):
                os.makedirs(above, exist_ok=True)
        self._names[token, entry.path] = beside
        made = True
        with self._beneath(beside) as new:
            if entry.kind == "file":
                made = self._make_file(new, entry, f"{contents}/{entry.sha256}")
            elif entry.kind == "symlink":
                os.symlink(entry.target, new)
                tree.dress(new, entry)
            elif made := not _is_directory(entry.path):
                os.mkdir(new, 0o700)
                tree.dress(new, entry)
        if not made:
            self._names[token, entry.path] = ""

    @staticmethod
    def _make_file(new: str, entry: Entry, blob: str) -> bool:
        """False for one whose content is in place."""
        try:
            info = os.lstat(blob)
        except FileNotFoundError:
            # Nothing came for what has the right content: owner and mode are enough.
            if tree.digest_file(entry.path)[0] != entry.sha256:
                raise DiskError(f"the new content of {entry.path} is not there") from None
            return False
        if info.st_nlink == 1:  # the first path with this content gets the file itself
            os.chmod(blob, 0o600)
            try:
                os.link(blob, new, follow_symlinks=False)
            except OSError:
                pass  # another file system, or one that has no hard links
            else:
                tree.dress(new, entry)
                return True
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(blob, "rb") as source, os.fdopen(descriptor, "wb") as copy:
            try:
                copy_holes_too(source.fileno(), copy.fileno())
                tree.dress_open(copy.fileno(), entry)
            except OSError as error:
                error.filename = entry.path  # sendfile(2) does not say which disk is full
                raise
        return True

    def beside(self, token: str, path: str) -> Entry | None:
        """By its content, for a rename changes the rest."""
        if not (name := self._found(token, path)):
            return None
        try:
            found = self.scanner.look(name)
        except tree.UnstableError:
            found = Entry(name, "file", 0, "", "")  # no content: it is what nobody has seen
        return found

    def held(self, token: str, path: str) -> bool:
        """True for a directory too that holds something."""
        return _written_to(self._beside(token, path))

    def put(self, token: str, path: str) -> bool:
        """In one step: readers see the old or the new, and no write falls between the two."""
        if not (beside := self._found(token, path)):
            return False
        with self._both(beside, path) as (live, new):
            while True:
                try:
                    prepared = os.lstat(new)
                except FileNotFoundError:
                    return False
                try:
                    stands = os.lstat(live)
                except FileNotFoundError:
                    with contextlib.suppress(FileExistsError):
                        durable.renameat2(new, live, durable.NOREPLACE)
                        self._names[token, path] = ""
                        self._upward.pop(path, None)
                        return True
                    continue
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    to_a_file = stat.S_ISDIR(stands.st_mode) and not stat.S_ISDIR(prepared.st_mode)
                    if stat.S_ISDIR(stands.st_mode) or stat.S_ISDIR(prepared.st_mode):
                        self._upward.clear()
                    if to_a_file and any(os.scandir(live)):
                        raise DiskError(f"{path} must become a file but holds files of this node")
                    return self._exchange(new, live)

    @staticmethod
    def _exchange(new: str, path: str) -> bool:
        try:
            durable.renameat2(new, path, durable.EXCHANGE)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
                raise
            # A file system that cannot: what is live gets a second name first.
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)
                os.rename(new, path)
                return True
            os.link(path, f"{new}-", follow_symlinks=False)
            if os.path.isdir(new) and not os.path.islink(new):
                os.unlink(path)
            os.rename(new, path)
            os.rename(f"{new}-", new)
        return True

    def take_away(self, token: str, path: str) -> None:
        """Whoever looks for it now finds nothing; who has it open can be waited for."""
        beside = self._names[token, path] = self._beside(token, path)
        try:
            with self._both(beside, path) as (live, aside):
                os.rename(live, aside)
        except FileNotFoundError:
            self._names[token, path] = ""

    def link(self, token: str, entry: Entry) -> None:
        """One more name of a file that is in place."""
        self.forget(token, entry.path)
        beside = self._names[token, entry.path] = self._beside(token, entry.path)
        with self._both(beside, entry.link) as (other, new):
            os.link(other, new, follow_symlinks=False)

    def keep_beside(self, version: str, token: str, path: str) -> Manifest:
        """Renamed where that is possible: who still writes to it then writes to what is kept."""
        copy = self._copy_of(version, path)
        with self._beneath(self._beside(token, path)) as name:
            self._let_be(path, name)
            try:
                os.rename(name, copy)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                deadline = time.monotonic() + LAST_WORDS
                while self.held(token, path) and time.monotonic() < deadline:
                    time.sleep(0.01)
                if os.path.isdir(name) and not os.path.islink(name):
                    shutil.copytree(name, copy, symlinks=True, dirs_exist_ok=True)
                else:
                    self._copy(name, copy)
        kept = Scanner([copy], []).scan()
        here = copy.removesuffix(path)
        return {p: replace(e, path=p, link="") for q, e in kept.items() if (p := q[len(here) :])}

    @staticmethod
    def _copy(path: str, copy: str) -> None:
        info = os.lstat(path)
        if stat.S_ISREG(info.st_mode):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(copy)  # it may be the second name of something
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(source, "rb"), open(copy, "wb") as target:
                os.fchmod(target.fileno(), 0o600)
                copy_holes_too(source, target.fileno())
            shutil.copystat(path, copy, follow_symlinks=False)
        else:
            shutil.copy2(path, copy, follow_symlinks=False)
        os.chown(copy, info.st_uid, info.st_gid, follow_symlinks=False)

    def forget(self, token: str, path: str) -> None:
        """It is the new that was not put, or the old that is kept."""
        if not (beside := self._found(token, path)):
            return
        with contextlib.suppress(FileNotFoundError), self._beneath(beside) as name:
            # Its name here, the one under versions, and another.
            if path in self._kept and os.lstat(name).st_nlink > 2:
                self._let_be(path, name)
            try:
                os.unlink(name)
            except IsADirectoryError:
                shutil.rmtree(name)
        self._names[token, path] = ""

    def remove_directory(self, path: str) -> None:
        """What is left in it is this node's own, or was written a moment ago."""
        self._upward.clear()
        with contextlib.suppress(OSError), self._beneath(path) as live:
            os.rmdir(live)

    def dress(self, entry: Entry) -> None:
        """See `tree.dress`."""
        with self._beneath(entry.path) as live:
            tree.dress(live, entry)

    def sweep(self, spared: Iterable[tuple[str, str]]) -> None:
        """It may be a copy of a key."""
        names = {self._beside(token, path) for token, path in spared}
        for root in self.scanner.roots:
            directories = [os.path.dirname(root), *(path for path, _, _ in os.walk(root))]
            for directory in directories:
                with contextlib.suppress(OSError), os.scandir(directory) as entries:
                    for entry in entries:
                        if OURS.fullmatch(entry.name) and entry.path not in names:
                            if entry.is_dir(follow_symlinks=False):
                                shutil.rmtree(entry.path)
                            else:
                                os.unlink(entry.path)

    @staticmethod
    def _name(token: str, path: str) -> str:
        """The pass's name for a path: the same after a crash.

        Neither a scan nor a program that reads a conf.d takes it for its own.
        """
        mark = hashlib.sha256(f"{token} {path}".encode("utf-8", "surrogateescape")).hexdigest()
        return f"{tree.TEMPORARY_PREFIX}{mark[:32]}"

    def _found(self, token: str, path: str) -> str:
        """Where what has that name is, as far as known; empty for nowhere."""
        if (token, path) not in self._names:
            name = self._name(token, path)
            there = (os.path.join(directory, name) for directory in self._above(path))
            self._names[token, path] = next(filter(os.path.lexists, there), "")
        return self._names[token, path]

    def _beside(self, token: str, path: str) -> str:
        """The same; if it is nowhere, where it would be: in the nearest directory there is."""
        found = self._found(token, path)
        return found or os.path.join(self._above(path)[-1], self._name(token, path))

    def _root(self, path: str) -> str:
        """The root that a path is in; itself in none."""
        inside = (r for r in self.scanner.roots if path == r or path.startswith(f"{r}/"))
        return next(inside, path)

    def _beneath(self, path: str) -> contextlib.AbstractContextManager[str]:
        """Where to write what is meant for a path, and nowhere else (see `tree.Ways`)."""
        return self._ways.to(path, self._root(path))

    @contextlib.contextmanager
    def _both(self, beside: str, path: str) -> Iterator[tuple[str, str]]:
        """The same for a path and the pass's name for it, most often in one directory."""
        directory, name = os.path.split(beside)
        with self._beneath(path) as live:
            if directory == os.path.dirname(path):
                yield live, os.path.join(os.path.dirname(live), name)
            else:
                with self._beneath(beside) as new:
                    yield live, new

    def _above(self, path: str) -> list[str]:
        """The directory of the root of a path, then each real directory on the way to it."""
        directory = os.path.dirname(path)
        if directory not in self._upward:
            root = self._root(path)
            above = [os.path.dirname(root)]
            step = root
            for part in (*path[len(root) + 1 :].split("/"), ""):
                if step == path or not _is_directory(step):
                    break
                above.append(step)
                step = os.path.join(step, part)
            self._upward[directory] = above
        return self._upward[directory]


def _is_directory(path: str) -> bool:
    """A real one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _written_to(path: str) -> bool:
    """A lease to read is not given while a file is open for writing (fcntl(2)).

    A directory: something is in it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return bool(os.listdir(descriptor))
        # Whoever opens it now, by another hard link, breaks the lease with a signal.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False


def copy_holes_too(source: int, target: int) -> None:
    """Copy a file; what takes no room in it takes none in the copy (lseek(2), SEEK_HOLE)."""
    size, at = os.fstat(source).st_size, 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # nothing but a hole is left
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end and (sent := os.sendfile(target, source, at, end - at)):
            at += sent
    os.ftruncate(target, size)
