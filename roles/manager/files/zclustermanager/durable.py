# SPDX-License-Identifier: GPL-3.0-or-later
"""Files written whole: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable (fsync(2): a rename is durable only then)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystems(paths: Iterable[Path]) -> None:
    """Make everything written below these paths durable, one syncfs(2) for each file system.

    For many files at once: an fsync(2) for each would cost a journal commit for each.
    """
    done: set[int] = set()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            device = os.fstat(descriptor).st_dev
            if device not in done and _libc.syncfs(descriptor) != 0:
                raise OSError(ctypes.get_errno(), f"{path} cannot be made durable")
            done.add(device)
        finally:
            os.close(descriptor)


# renameat2(2), which Python lacks; its two flags.
NOREPLACE, EXCHANGE = 1, 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(source: str, target: str, flags: int) -> None:
    """Rename without replacing anything, or exchange two names, in one step."""
    done = _libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
    )
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source, None, target)


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file by one with this content; readers see the old or the new one, never a mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = str(path)  # write(2) does not say which disk is full
        raise
    fsync_directory(path.parent)


def create(path: str, content: bytes) -> None:
    """Make a file that is this user's alone; it is not durable yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as stream:
        left = memoryview(content)
        while left:
            left = left[stream.write(left) :]


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    """`write` of a JSON document."""
    write(path, json.dumps(value, sort_keys=True).encode() + b"\n", mode)


def read_json(path: Path) -> Any:
    """The JSON document in a file, or None when there is no file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def locked(path: Path, patience: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock (flock(2)): it ends with the process, however that ends.

    TimeoutError when somebody else holds it for longer than `patience` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        if patience is None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        else:
            _lock_within(stream, patience)
        yield


def _lock_within(stream: IO[str], patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{stream.name} is held for over {patience:g} s") from error
            time.sleep(0.02)
        else:
            return
