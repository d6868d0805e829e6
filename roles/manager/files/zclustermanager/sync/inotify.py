# SPDX-License-Identifier: GPL-3.0-or-later
"""inotify(7), the few calls that are needed: events are hints that something changed, no more."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

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
        self._watches: dict[str, int] = {}

    def fileno(self) -> int:
        """The descriptor to select on."""
        return self._descriptor

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)

    def watch(self, directories: Iterable[str]) -> bool:
        """Watch exactly these directories; True when one was added (what it held may be news)."""
        wanted = set(directories)
        for gone in self._watches.keys() - wanted:
            _libc.inotify_rm_watch(self._descriptor, self._watches.pop(gone))
        added = False
        for path in wanted - self._watches.keys():
            number = _libc.inotify_add_watch(
                self._descriptor, os.fsencode(path), WATCHED | IN_ONLYDIR
            )
            if number >= 0:
                self._watches[path] = number
                added = True
            elif ctypes.get_errno() not in (errno.ENOENT, errno.ENOTDIR):
                raise OSError(
                    ctypes.get_errno(), f"cannot watch {path}: see fs.inotify.max_user_watches"
                )
        return added

    def drain(self) -> bool:
        """Read all waiting events; True when there was one that is not an echo of our own."""
        news = False
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return news
            offset = 0
            while offset < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size + length
                if mask & IN_IGNORED:
                    # The directory is gone or was replaced: the next pass watches it anew.
                    self._watches = {p: n for p, n in self._watches.items() if n != number}
                news = True
