# SPDX-License-Identifier: GPL-3.0-or-later
"""Which versions a node has: zcluster's own and Debian's packages. They may differ for a while."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from . import __version__, durable, processes
from .settings import RUNTIME_DIR

PACKAGES = ("conntrackd", "keepalived", "rsync")
DPKG_STATUS = "/var/lib/dpkg/status"

# Every request of the peer is a process of its own: it does not ask dpkg again.
KNOWN = RUNTIME_DIR / "versions.json"


def parse(text: str) -> dict[str, str]:
    """`Package Version` lines of dpkg-query, those of installed packages."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def installed() -> dict[str, str]:
    """The versions now; dpkg is asked again only when its database has changed."""
    try:
        changed = os.stat(DPKG_STATUS).st_mtime_ns
    except OSError:
        changed = 0
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        known = durable.read_json(KNOWN) or {}
    if known.get("changed") != changed:
        said = processes.run(["dpkg-query", "-W", "-f=${Package} ${Version}\n", *PACKAGES])
        known = {"changed": changed, "packages": parse(said.out)}
        with contextlib.suppress(OSError):
            durable.write_json(KNOWN, known)
    return {"zcluster": __version__, **known["packages"]}


def differing(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """What the nodes have in different versions, in words."""
    return [
        f"{name} {mine[name]} here, {theirs[name]} there"
        for name in sorted(mine)
        if name in theirs and mine[name] != theirs[name]
    ]
