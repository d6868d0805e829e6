# SPDX-License-Identifier: GPL-3.0-or-later
"""inotify(7), the few calls that are needed: events are hints that something changed, no more."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Set as AbstractSet

from .tree import Hints

IN_CLOEXEC = os.O_CLOEXEC
IN_NONBLOCK = os.O_NONBLOCK
IN_ATTRIB = 0x004
IN_CLOSE_WRITE = 0x008
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x01000000

WATCHED = (
    IN_ATTRIB
    | IN_CLOSE_WRITE
    | IN_MOVED_FROM
    | IN_MOVED_TO
    | IN_CREATE
    | IN_DELETE
    | IN_DELETE_SELF
    | IN_MOVE_SELF
)
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Watcher:
    """Watches directories; `fileno()` becomes readable when something changed in one of them."""

    def __init__(self) -> None:
        self._descriptor: int = _libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1: see fs.inotify.max_user_instances")
        self._numbers: dict[str, int] = {}
        self._directories: dict[int, str] = {}
        # Directories that the kernel does not watch, for want of room.
        self.unheard: set[str] = set()

    def fileno(self) -> int:
        """The descriptor to select on."""
        return self._descriptor

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)

    def watched(self) -> AbstractSet[str]:
        """The directories that are watched."""
        return self._numbers.keys()

    def add(self, directory: str) -> None:
        """Hear of every change in a directory; once more for one that may have been replaced."""
        number = _libc.inotify_add_watch(
            self._descriptor, os.fsencode(directory), WATCHED | IN_ONLYDIR
        )
        if number < 0:
            if ctypes.get_errno() not in (errno.ENOENT, errno.ENOTDIR):
                self.unheard.add(directory)
            return
        self.unheard.discard(directory)
        if self._numbers.get(directory, number) != number:
            self.forget(directory)
        # A directory that was moved is known to the kernel by the number that it had.
        before = self._directories.get(number)
        if before is not None and self._numbers.get(before) == number:
            del self._numbers[before]
        self._numbers[directory], self._directories[number] = number, directory

    def forget(self, directory: str) -> None:
        """It is gone, or no business of ours any more."""
        self.unheard.discard(directory)
        number = self._numbers.pop(directory, None)
        if number is not None and self._directories.pop(number, None) is not None:
            _libc.inotify_rm_watch(self._descriptor, number)

    def drain(self) -> Hints:
        """Read all waiting events: where to look."""
        paths: set[str] = set()
        everything = bool(self.unheard)
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return Hints() | Hints(frozenset(paths), everything)
            offset = 0
            while offset < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, offset)
                name = data[offset + _EVENT.size : offset + _EVENT.size + length].rstrip(b"\0")
                offset += _EVENT.size + length
                if mask & IN_Q_OVERFLOW:
                    everything = True
                directory = self._directories.get(number)
                if directory is None:
                    continue
                # The directory itself: so also the one above it, should the root be replaced.
                paths.add(os.path.join(directory, os.fsdecode(name)) if name else directory)
                if mask & (IN_IGNORED | IN_MOVE_SELF) and self._numbers.get(directory) == number:
                    # Gone, or elsewhere: whoever finds it there watches it anew.
                    self.forget(directory)
