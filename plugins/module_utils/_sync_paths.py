# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Which paths may be synchronized: never what belongs to one node alone."""

from __future__ import annotations

import posixpath
import typing as t

# Path -> why it stays on its node.
PER_NODE: t.Dict[str, str] = {
    "/etc/zcluster": "zcluster's own settings and keys",
    "/var/lib/zcluster": "zcluster's own state",
    "/usr/lib/zcluster": "zcluster's own programs",
    "/usr/sbin/zclustermanager": "zcluster's own program",
    "/etc/keepalived": "the heartbeat of this node",
    "/etc/conntrackd": "connection tracking of this node",
    "/etc/network": "the addresses of this node",
    "/etc/netplan": "the addresses of this node",
    "/etc/NetworkManager": "the addresses of this node",
    "/etc/systemd/network": "the addresses of this node",
    "/etc/hostname": "the name of this node",
    "/etc/hosts": "names and addresses of this node",
    "/etc/machine-id": "the identity of this node",
    "/etc/ssh": "the host keys of this node",
    "/etc/fstab": "the disks of this node",
    "/etc/crypttab": "the disks of this node",
    "/etc/mtab": "the mounts of this node",
    "/etc/passwd": "the users of this node",
    "/etc/shadow": "the users of this node",
    "/etc/group": "the groups of this node",
    "/etc/gshadow": "the groups of this node",
    "/etc/apt": "the packages of this node",
    "/var/lib/dpkg": "the packages of this node",
    "/var/lib/apt": "the packages of this node",
    "/var/lib/systemd": "the state of this node",
    "/var/log": "the logs of this node",
    "/root/.ssh": "the keys of this node",
    "/boot": "the kernel of this node",
    "/proc": "not files but the kernel",
    "/sys": "not files but the kernel",
    "/dev": "not files but devices",
    "/run": "what does not survive a reboot",
    "/var/run": "what does not survive a reboot",
    "/tmp": "temporary files",  # noqa: S108
    "/var/tmp": "temporary files",  # noqa: S108
}


def inside(path: str, root: str) -> bool:
    """Whether the path is the root or below it."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def refusal(path: str) -> str:
    """Why this path cannot be synchronized; empty when it can."""
    if not path.startswith("/"):
        return "not an absolute path"
    if posixpath.normpath(path) != path or path.startswith("//"):
        return f"not in its plain form ({posixpath.normpath(path)})"
    if any(character in path for character in "*?[\n\0"):
        return "a path, not a pattern, is wanted here"
    for own, why in PER_NODE.items():
        if inside(path, own):
            return f"{own} holds {why}"
        if inside(own, path):
            return f"it contains {own}: {why}"
    return ""
