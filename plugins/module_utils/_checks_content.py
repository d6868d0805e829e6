# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Preflight checks of what is synchronized: paths, owners, and what would be replaced."""

from __future__ import annotations

import typing as t

from ansible_collections.zcluster.ha.plugins.module_utils._findings import Finding, error, warning
from ansible_collections.zcluster.ha.plugins.module_utils._observation import Tree
from ansible_collections.zcluster.ha.plugins.module_utils._view import View

SHOWN_FILES = 10


def sync_paths(view: View) -> t.Iterator[Finding]:
    """Each path is there on the future master, and is a plain directory or file."""
    for host, node in view.seen.items():
        for tree in node.trees:
            if tree.kind == "missing" and host == view.settings.initial_master and not view.exists:
                yield error(
                    host,
                    "zcluster_sync_paths",
                    tree.path,
                    "This path is not there on the future master, whose configuration is sent.",
                    "Correct the path, install the service, or make the other node the master.",
                )
            elif tree.kind == "symlink":
                yield error(
                    host,
                    "zcluster_sync_paths",
                    f"{tree.path} -> {tree.target}",
                    "This path is a symbolic link; what it points to would not be synchronized.",
                    f"Declare {tree.target} instead.",
                )
            elif tree.kind == "other":
                yield error(
                    host,
                    "zcluster_sync_paths",
                    tree.path,
                    "This path is neither a directory nor a file.",
                    "Name directories and files only.",
                )
            elif tree.kind == "file" and tree.mount_point:
                yield error(
                    host,
                    "zcluster_sync_paths",
                    tree.path,
                    "This file is a mount point of its own and cannot be replaced by renaming.",
                    "Unmount it, or leave it out.",
                )
            if tree.truncated:
                yield warning(
                    host,
                    "zcluster_sync_paths",
                    f"{tree.path}: {tree.truncated}",
                    "This path was not looked through to its end; the first pass will take long.",
                    "Exclude with zcluster_sync_excludes what need not be on both nodes.",
                )
    if view.pair:
        yield from _same_kind(view)


def owners(view: View) -> t.Iterator[Finding]:
    """Every owner and group of the master's files has a name, and the backup has it too."""
    if view.pair is None:
        return
    master, backup = view.pair
    for source, target in ((master, backup), (backup, master)):
        node, other = view.seen[source], view.seen[target]
        for what, command, known, used in (
            ("owner", "adduser --system", other.users, [tree.owners for tree in node.trees]),
            ("group", "addgroup --system", other.groups, [tree.groups for tree in node.trees]),
        ):
            names = sorted({name for group in used for name in group})
            say = error if source == master else warning
            for name in names:
                if name.isdigit():
                    yield say(
                        source,
                        what,
                        name,
                        f"Files under the synchronized paths belong to a number without a name; "
                        f"owners and groups travel by name, so {target} cannot know it.",
                        "Give the files an owner and a group that exist (chown).",
                    )
                elif known and name not in known:
                    yield say(
                        target,
                        what,
                        f"{name} is missing",
                        f"Files under the synchronized paths on {source} belong to {what} {name}, "
                        f"which {target} does not have.",
                        f"Install the service's package on {target}, or add it: {command} {name}.",
                    )


def replaced(view: View) -> t.Iterator[Finding]:
    """Nothing of the future backup's own is replaced without an explicit yes."""
    if view.pair is None or view.settings.replace_backup:
        return
    master, backup = view.pair
    # A member's tree is the business of synchronization, which knows generations.
    if view.is_member(backup):
        return
    sources = {tree.path: tree for tree in view.seen[master].trees}
    for tree in view.seen[backup].trees:
        source = sources.get(tree.path)
        if source is None or source.kind == "missing":
            continue
        lost = _lost(tree, source)
        if tree.truncated and tree.digest == "" and not lost:
            lost = [f"{tree.path} ({tree.truncated})"]
        if lost:
            more = f" and {len(lost) - SHOWN_FILES} more" if len(lost) > SHOWN_FILES else ""
            yield error(
                backup,
                "zcluster_replace_backup",
                ", ".join(lost[:SHOWN_FILES]) + more,
                f"The future backup has configuration of its own under {tree.path}, which would be "
                f"replaced by that of {master}.",
                f"If {master} is right, say so: zcluster_replace_backup: true (what is replaced is "
                f"kept on {backup}). If {backup} is right, make it the initial master.",
            )


def _lost(tree: Tree, source: Tree) -> t.List[str]:
    if tree.digest and tree.digest == source.digest:
        return []
    there = {file.path: file.digest for file in source.files}
    return [file.path for file in tree.files if there.get(file.path) != file.digest]


def _same_kind(view: View) -> t.Iterator[Finding]:
    one, two = view.settings.hosts
    kinds = {host: {tree.path: tree.kind for tree in view.seen[host].trees} for host in (one, two)}
    for path, kind in kinds[one].items():
        other = kinds[two].get(path, "missing")
        if {kind, other} == {"file", "directory"}:
            yield error(
                view.settings.all_hosts,
                "zcluster_sync_paths",
                f"{path} is a {kind} on {one} and a {other} on {two}",
                "The path is not the same kind of thing on both nodes.",
                "Make it the same, or leave it out.",
            )
