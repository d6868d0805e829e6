# SPDX-License-Identifier: GPL-3.0-or-later
"""The private directory of one run: 0700, in memory if possible, always fresh, always removed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zcluster_runner.interruption import clear_away

RUN_NAME = re.compile(r"run-(?P<pid>\d+)-(?P<run_id>[0-9a-f-]{36})")


def runtime_directories(environment: dict[str, str]) -> Iterator[Path]:
    """Yield places for private directories, the best first; the last one always exists."""
    if xdg := environment.get("XDG_RUNTIME_DIR"):
        yield Path(xdg) / "zcluster"
    if os.geteuid() == 0:
        yield Path("/run/zcluster-runner")
    yield Path(f"/dev/shm/zcluster-{os.geteuid()}")  # noqa: S108  (checked below)
    yield Path(tempfile.gettempdir()) / f"zcluster-{os.geteuid()}"


def prepared(directory: Path) -> bool:
    """Make ``directory`` ours alone; false when that is not possible (also: a trap set for us)."""
    if not directory.parent.is_dir():
        return False
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError:
        return False
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return ours and not found.st_mode & 0o077 and os.access(directory, os.W_OK | os.X_OK)


def alive(pid: int) -> bool:
    """Return whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Lock a directory as long as its run lives, or tell that somebody else has it locked.

    The number of its process alone would not do: in a container, which may share the place, it is
    another one.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except OSError:
            mine = False
        yield mine
    finally:
        os.close(descriptor)


def remove_abandoned(directory: Path) -> None:
    """Clear away what runs have left that were killed: files, and an Ansible still at work."""
    for entry in directory.iterdir():
        name = RUN_NAME.fullmatch(entry.name)
        if name is None or alive(int(name["pid"])):
            continue
        with locked(entry) as abandoned:
            if abandoned:
                clear_away(name["run_id"])
                shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def private_data(run_id: str, environment: dict[str, str] | None = None) -> Iterator[Path]:
    """Give a fresh directory for one run and remove it with all it holds.

    ansible-runner lets files of an earlier run in the same directory win over the arguments of this
    one, so no directory is ever used twice.
    """
    places = runtime_directories(dict(os.environ) if environment is None else environment)
    parent = next((place for place in places if prepared(place)), None)
    if parent is not None:
        remove_abandoned(parent)
    path = Path(tempfile.mkdtemp(prefix=f".new-{os.getpid()}-", dir=parent))
    with locked(path):
        if parent is not None:
            # Under this name others look at it: not before it is locked.
            path = path.rename(parent / f"run-{os.getpid()}-{run_id}")
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():  # an Ansible process on its way out was still writing
                shutil.rmtree(path, ignore_errors=True)
