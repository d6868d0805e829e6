# SPDX-License-Identifier: GPL-3.0-or-later
"""The effects of synchronization on a node's disk, one by one; their order is decided elsewhere.

`Disk` names them, for the tests have a disk of their own that forgets what was not made durable.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from .. import durable
from . import tree
from .generation import Generation
from .store import RECORD, Store
from .tree import Entry, Manifest, Scanner

# So many files are made durable one by one; above that the whole file system is cheaper.
FEW = 64


class DiskError(Exception):
    """The disk cannot take this step; the text says why."""


class Disk(Protocol):
    """What a transaction may do to a disk. Only `save`, `mark` and `settle` make durable."""

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """One judge at a time on this node."""

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

    def arrived(self, token: str, sha256: str) -> str:
        """The digest of what arrived in a stage under this name; empty when nothing did."""

    def unknown_owners(self, target: Manifest) -> list[str]:
        """Users and groups of a manifest that this node lacks."""

    def own(self, directory: str, live: Manifest) -> str:
        """A file in a directory that is not synchronized; empty for none."""

    def version(self, why: str) -> str:
        """Begin a kept version; its name."""

    def keep(self, version: str, entry: Entry) -> None:
        """Copy what is live at a path into a version."""

    def record(self, version: str, replaced: Manifest, added: list[str]) -> None:
        """Note what a version is about."""

    def touched(self, path: str, seen: Entry | None) -> bool:
        """True when a path is not any more what the last scan saw there."""

    def remove(self, old: Entry, new: Entry | None) -> None:
        """Take a live path away; a directory only when it is empty."""

    def prepare(self, entry: Entry, token: str) -> str | None:
        """Make the new file beside the live one; its name, or None when it is in place already."""

    def rename(self, temporary: str, path: str) -> None:
        """Give the new file its name."""

    def link(self, entry: Entry) -> None:
        """Make a hard link."""

    def dress(self, entry: Entry) -> None:
        """Owner, mode, attributes, times."""

    def sweep(self) -> None:
        """Remove what a killed transaction left beside live files."""


class LocalDisk:
    """The disk of this machine."""

    def __init__(self, store: Store, scanner: Scanner) -> None:
        self.store = store
        self.scanner = scanner
        self.lock = store.lock
        self.generation = store.generation
        self.save = store.save
        self.scan = scanner.scan
        self.drop = store.drop

    def settle(self, paths: Iterable[str] | None = None) -> None:
        """fsync(2) for a few paths and their directories, else syncfs(2)."""
        chosen = None if paths is None else set(paths)
        if chosen is not None and len(chosen) <= FEW:
            chosen |= {os.path.dirname(path) for path in chosen}
            for path in sorted(chosen, reverse=True):
                self._fsync(path)
            return
        state = [self.store.state] if paths is None else []
        durable.sync_filesystems([*state, *(Path(p) for p in self.scanner.file_systems())])

    @staticmethod
    def _fsync(path: str) -> None:
        try:
            kind = os.lstat(path).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                return  # the name of a symbolic link is its directory's
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
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

    def arrived(self, token: str, sha256: str) -> str:
        """Read again: what rsync wrote is not believed."""
        try:
            return tree.digest_file(str(self.blobs(token) / sha256))[0]
        except OSError:
            return ""

    def unknown_owners(self, target: Manifest) -> list[str]:
        """Asked of the name service, as ids differ between two installations."""
        users, groups = {e.owner for e in target.values()}, {e.group for e in target.values()}
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

    def version(self, why: str) -> str:
        """A directory under versions/."""
        return self.store.new_version(why)

    def keep(self, version: str, entry: Entry) -> None:
        """With owner, mode and times, for `sync restore`."""
        if entry.kind == "directory":
            return
        copy = self.store.versions / version / entry.path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(entry.path, copy, follow_symlinks=False)
            info = os.lstat(entry.path)
            os.chown(copy, info.st_uid, info.st_gid, follow_symlinks=False)

    def record(self, version: str, replaced: Manifest, added: list[str]) -> None:
        """Beside the copies."""
        durable.write_json(
            self.store.versions / version / RECORD,
            {"replaced": tree.dump(replaced), "added": added},
        )

    def touched(self, path: str, seen: Entry | None) -> bool:
        """By inode, size and ctime; then by content."""
        return self.scanner.touched(path, seen)

    def remove(self, old: Entry, new: Entry | None) -> None:
        """A directory that still holds something stays, unless a file must take its place."""
        with contextlib.suppress(FileNotFoundError):
            if old.kind != "directory":
                os.unlink(old.path)
                return
            try:
                os.rmdir(old.path)
            except OSError as error:
                if new is not None:
                    raise DiskError(
                        f"{old.path} must become a {new.kind} but holds files of this node"
                    ) from error
                # What is left in it is this node's own, or was written a moment ago.

    def prepare(self, entry: Entry, token: str) -> str | None:
        """From what arrived in the stage."""
        return self.make(entry, self.blobs(token))

    def make(self, entry: Entry, contents: Path) -> str | None:
        """In the same directory, so that a rename is enough."""
        parent = os.path.dirname(entry.path)
        os.makedirs(parent, exist_ok=True)
        if entry.kind == "directory":
            with contextlib.suppress(FileExistsError):
                os.mkdir(entry.path, 0o700)
            return None
        blob = contents / entry.sha256
        if entry.kind == "file" and not blob.exists():
            # Nothing came for what has the right content: only then are owner and mode enough.
            if tree.digest_file(entry.path)[0] != entry.sha256:
                raise DiskError(f"the new content of {entry.path} is not there")
            self.dress(entry)
            return None
        temporary = _temporary(parent)
        if entry.kind == "symlink":
            os.symlink(entry.target, temporary)
        else:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with blob.open("rb") as source, os.fdopen(descriptor, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        tree.dress(temporary, entry)
        return temporary

    def rename(self, temporary: str, path: str) -> None:
        """In one step: readers see the old file or the new one."""
        os.rename(temporary, path)

    def link(self, entry: Entry) -> None:
        """Beside, then renamed."""
        temporary = _temporary(os.path.dirname(entry.path))
        os.link(entry.link, temporary, follow_symlinks=False)
        os.rename(temporary, entry.path)
        # rename(2) does nothing when both names are the same file already: the spare name stays.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)

    def dress(self, entry: Entry) -> None:
        """See `tree.dress`."""
        tree.dress(entry.path, entry)

    def sweep(self) -> None:
        """It may be a copy of a key."""
        for root in self.scanner.roots:
            for directory, _, names in os.walk(root):
                for name in names:
                    if name.startswith(tree.TEMPORARY_PREFIX):
                        os.unlink(os.path.join(directory, name))
        for root in self.scanner.roots:
            with contextlib.suppress(OSError), os.scandir(os.path.dirname(root)) as entries:
                for entry in entries:
                    if entry.name.startswith(tree.TEMPORARY_PREFIX):
                        os.unlink(entry.path)


def _temporary(directory: str) -> str:
    """A name that neither a scan nor a program that reads a conf.d takes for its own."""
    return os.path.join(directory, f"{tree.TEMPORARY_PREFIX}{uuid.uuid4().hex}")
