# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Which run of Ansible this is, and whether another one of this controller is still alive."""

from __future__ import annotations

import getpass
import os
import socket


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""


def machine() -> str:
    """This controller: its name, its boot, its view of processes (containers have their own)."""
    boot = _read("/proc/sys/kernel/random/boot_id").strip()
    try:
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        pids = ""
    return f"{socket.gethostname()}/{boot}/{pids}"


def started(pid: int) -> str:
    """When a process started, in ticks since boot (proc(5), field 22); empty for none."""
    # The name in field 2 may hold anything, blanks and brackets too.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def run(pid: int) -> str:
    """The identity of the run whose main process this is."""
    return f"{machine()}#{pid}#{started(pid)}"


def who() -> str:
    """User and controller, for people; who became root is still the user."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def is_dead(identity: str) -> bool:
    """True when it was a run of this controller whose process has ended; False if not known."""
    where, rest = identity.partition("#")[::2]
    pid, since = rest.partition("#")[::2]
    return where == machine() and pid.isdigit() and bool(since) and started(int(pid)) != since
