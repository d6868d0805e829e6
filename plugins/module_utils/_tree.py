# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Looks through a path to synchronize, within bounds: owners, content, whose the files are."""

from __future__ import annotations

import fnmatch
import grp
import hashlib
import os
import pwd
import stat
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.zcluster.ha.plugins.module_utils._observation import Tree, TreeFile

Run = t.Callable[[t.Sequence[str]], t.Tuple[int, str, str]]


@dataclass(frozen=True)
class Bounds:
    """Where looking ends; a tree beyond this is reported as cut off, never as equal."""

    entries: int = 200_000
    bytes: int = 512 * 1024 * 1024
    files: int = 5_000
    seconds: float = 20.0


@dataclass(frozen=True)
class Shipped:
    """Checksums under which packages delivered files, who owns a path, what is mounted."""

    checksums: t.Mapping[str, t.FrozenSet[str]]
    run: Run
    mounts: t.FrozenSet[str] = frozenset()

    def is_unmodified(self, path: str, md5: str) -> bool:
        """Whether a package (or ucf) installed the file with this very content."""
        return md5 in self.checksums.get(path, frozenset())


def conffiles(run: Run, read: t.Callable[[str], t.Optional[str]]) -> Shipped:
    """What dpkg, ucf and the kernel know about configuration files."""
    known: t.Dict[str, t.Set[str]] = {}
    _rc, out, _err = run(["dpkg-query", "-W", "-f", "${Conffiles}\n"])
    for line in out.splitlines():
        words = line.split()
        # dpkg(1): " /path md5 [obsolete|remove-on-upgrade]"
        if len(words) >= 2 and words[0].startswith("/"):
            known.setdefault(words[0], set()).add(words[1])
    for line in (read("/var/lib/ucf/hashfile") or "").splitlines():
        words = line.split()
        if len(words) == 2:
            known.setdefault(words[1], set()).add(words[0])
    # os.path.ismount compares devices, which overlayfs gives each file of its own.
    mounts = [line.split()[4] for line in (read("/proc/self/mountinfo") or "").splitlines()]
    return Shipped(
        {path: frozenset(sums) for path, sums in known.items()},
        run,
        frozenset(mount.replace("\\040", " ") for mount in mounts),
    )


def excluded(path: str, patterns: t.Sequence[str]) -> bool:
    """Whether the path is one of the excluded ones, or below one."""
    while path != "/":
        if any(fnmatch.fnmatch(path, pattern.rstrip("/")) for pattern in patterns):
            return True
        path = os.path.dirname(path)
    return False


def look(path: str, excludes: t.Sequence[str], shipped: Shipped, bounds: Bounds = Bounds()) -> Tree:
    """One bounded pass over the path; nothing is followed, nothing is changed."""
    try:
        info = os.lstat(path)
    except OSError:
        return Tree(path, "missing")
    walk = _Walk(excludes, shipped, bounds)
    if stat.S_ISDIR(info.st_mode):
        kind = "directory"
    elif stat.S_ISREG(info.st_mode):
        kind = "file"
    elif stat.S_ISLNK(info.st_mode):
        return Tree(path, "symlink", target=os.path.realpath(path))
    else:
        return Tree(path, "other")
    walk.visit(path, info)
    return Tree(
        path=path,
        kind=kind,
        entries=walk.entries,
        directories=walk.directories,
        bytes=walk.bytes,
        digest="" if walk.truncated else walk.digest(),
        owners=tuple(sorted(walk.owners)),
        groups=tuple(sorted(walk.groups)),
        files=walk.own_files(),
        truncated=walk.truncated,
        mount_point=path in shipped.mounts,
    )


class _Walk:
    """The state of one pass."""

    def __init__(self, excludes: t.Sequence[str], shipped: Shipped, bounds: Bounds) -> None:
        self.excludes, self.shipped, self.bounds = excludes, shipped, bounds
        self.entries = self.directories = self.bytes = 0
        self.owners: t.Set[str] = set()
        self.groups: t.Set[str] = set()
        self.truncated = ""
        self._lines: t.List[str] = []
        self._files: t.List[t.Tuple[str, str, str]] = []  # path, md5, digest
        self._deadline = time.monotonic() + bounds.seconds

    def visit(self, path: str, info: os.stat_result) -> None:
        """One entry and, of a directory, what is in it."""
        if self.truncated or excluded(path, self.excludes):
            return
        self.entries += 1
        self.owners.add(_user(info.st_uid))
        self.groups.add(_group(info.st_gid))
        self._check_bounds()
        mode = f"{stat.S_IMODE(info.st_mode):o} {_user(info.st_uid)} {_group(info.st_gid)}"
        if stat.S_ISDIR(info.st_mode):
            self.directories += 1
            self._lines.append(f"d {mode} {path}")
            self._children(path)
        elif stat.S_ISREG(info.st_mode):
            self.bytes += info.st_size
            self._check_bounds()
            if not self.truncated:
                self._file(path, mode)
        elif stat.S_ISLNK(info.st_mode):
            target = os.readlink(path)
            self._lines.append(f"l {path} {target}")
            self._files.append((path, "", hashlib.sha256(os.fsencode(target)).hexdigest()))
        else:
            self._lines.append(f"o {mode} {path}")

    def digest(self) -> str:
        """One digest of names, kinds, owners, modes and contents."""
        text = "\n".join(self._lines)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def own_files(self) -> t.Tuple[TreeFile, ...]:
        """The files that are not just as a package delivered them."""
        rest = [f for f in self._files if not self.shipped.is_unmodified(f[0], f[1])]
        owned = _package_files(
            [f for f in rest if f[0] not in self.shipped.checksums], self.shipped
        )
        found: t.List[TreeFile] = []
        for path, md5, digest in rest:
            if owned.get(path) is not None and md5 == owned[path]:
                continue
            packaged = path in self.shipped.checksums or path in owned
            found.append(TreeFile(path, digest, "modified" if packaged else "local"))
        if len(found) > self.bounds.files:
            self.truncated = f"more than {self.bounds.files} files of your own"
        return tuple(found[: self.bounds.files])

    def _children(self, path: str) -> None:
        try:
            with os.scandir(path) as listing:
                children = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self.truncated = f"{path}: {error.strerror}"
            return
        for child in children:
            try:
                info = child.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            self.visit(child.path, info)

    def _file(self, path: str, mode: str) -> None:
        md5, sha = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        try:
            with open(path, "rb") as stream:
                while chunk := stream.read(1 << 20):
                    md5.update(chunk)
                    sha.update(chunk)
        except OSError as error:
            self.truncated = f"{path}: {error.strerror}"
            return
        self._lines.append(f"f {mode} {path} {sha.hexdigest()}")
        self._files.append((path, md5.hexdigest(), sha.hexdigest()))

    def _check_bounds(self) -> None:
        if self.entries > self.bounds.entries:
            self.truncated = f"more than {self.bounds.entries} entries"
        elif self.bytes > self.bounds.bytes:
            self.truncated = f"more than {self.bounds.bytes >> 20} MiB"
        elif time.monotonic() > self._deadline:
            self.truncated = f"not read within {self.bounds.seconds:g} s"


def _package_files(
    files: t.Sequence[t.Tuple[str, str, str]], shipped: Shipped
) -> t.Dict[str, t.Optional[str]]:
    """Path -> md5 in the package's own list, for the paths that a package owns."""
    owned: t.Dict[str, t.Optional[str]] = {}
    paths = [path for path, _md5, _digest in files]
    for start in range(0, len(paths), 500):
        _rc, out, _err = shipped.run(["dpkg-query", "-S", *paths[start : start + 500]])
        for line in out.splitlines():
            package, _colon, path = line.rpartition(": ")
            if path in paths and not line.startswith("diversion "):
                owned[path] = _listed_md5(package.split(",")[0], path)
    return owned


def _listed_md5(package: str, path: str) -> t.Optional[str]:
    for name in (package, package.partition(":")[0]):
        try:
            with open(f"/var/lib/dpkg/info/{name}.md5sums", encoding="utf-8") as stream:
                for line in stream:
                    md5, _space, listed = line.rstrip("\n").partition("  ")
                    if "/" + listed == path:
                        return md5
        except OSError:
            continue
    return None


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
