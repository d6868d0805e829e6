# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which of a node's files must be written: pure decisions of module node_files.

Note that this module util is PRIVATE to the collection.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Set


@dataclass(frozen=True)
class Wanted:
    """A file as it should be. owner and group are names; mode is the permission bits."""

    path: str
    content: bytes
    mode: int
    owner: str
    group: str
    validate: Optional[str]
    shown: bool = True


@dataclass(frozen=True)
class Found:
    """A file as it is on the node."""

    content: bytes
    mode: int
    owner: str
    group: str


@dataclass(frozen=True)
class Change:
    """One file that must be written (wanted) or removed (wanted is None)."""

    path: str
    wanted: Optional[Wanted]
    found: Optional[Found]


def parse_mode(text: str) -> int:
    """Permission bits of an octal string; ValueError names what is allowed."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise ValueError('mode %r: an octal string such as "0644" is allowed' % text)
    return mode


def changes(wanted: List[Wanted], absent: List[str], found: Dict[str, Found]) -> List[Change]:
    """The changes that make the node as it should be, in the order asked for."""
    todo = []  # type: List[Change]
    for item in wanted:
        present = found.get(item.path)
        as_it_should = present is not None and (
            present.content == item.content
            and present.mode == item.mode
            and (present.owner, present.group) == (item.owner, item.group)
        )
        if not as_it_should:
            todo.append(Change(item.path, item, present))
    todo.extend(Change(path, None, found[path]) for path in absent if path in found)
    return todo


def diff(change: Change) -> Dict[str, Any]:
    """Ansible's diff of one change; what is not to be shown, or not for everybody, is a size."""
    before = change.found
    after = change.wanted
    shown = after is None or after.shown

    def side(content: bytes, mode: int) -> str:
        if not shown or not mode & 0o004:
            return "(%d bytes, mode %04o)\n" % (len(content), mode)
        return content.decode("utf-8", "replace")

    return {
        "before_header": change.path,
        "after_header": change.path,
        "before": side(before.content, before.mode) if before else "",
        "after": side(after.content, after.mode) if after else "",
    }


def parents(paths: List[str], existing: Set[str]) -> List[str]:
    """Directories that must be made for these paths, outermost first."""
    missing = []  # type: List[str]
    for path in paths:
        chain = []
        directory = os.path.dirname(path)
        while directory not in ("", "/") and directory not in existing:
            chain.append(directory)
            directory = os.path.dirname(directory)
        missing.extend(d for d in reversed(chain) if d not in missing)
    return missing


def remember(change: Change) -> Dict[str, Any]:
    """What a checkpoint keeps of a file before it is changed."""
    found = change.found
    if found is None:
        return {"path": change.path, "existed": False}
    return {
        "path": change.path,
        "existed": True,
        "content": base64.b64encode(found.content).decode(),
        "mode": found.mode,
        "owner": found.owner,
        "group": found.group,
    }


def merge(kept: Dict[str, Any], todo: List[Change], made: List[str]) -> Dict[str, Any]:
    """Add changes to a checkpoint: of each path, what was there first counts."""
    files = {entry["path"]: entry for entry in kept.get("files", [])}
    for change in todo:
        files.setdefault(change.path, remember(change))
    directories = list(dict.fromkeys(list(kept.get("directories", [])) + made))
    return {"files": list(files.values()), "directories": directories}


def unfinished(kept: Dict[str, Any], paths: List[str]) -> List[str]:
    """Those of the paths that an earlier run changed: who reads them may not have been told."""
    before = {entry["path"] for entry in kept.get("files", [])}
    return [path for path in paths if path in before]


def restoring(kept: Dict[str, Any], found: Dict[str, Found]) -> List[Change]:
    """The changes that bring back what a checkpoint kept."""
    wanted = [
        Wanted(e["path"], base64.b64decode(e["content"]), e["mode"], e["owner"], e["group"], None)
        for e in kept.get("files", [])
        if e["existed"]
    ]
    absent = [e["path"] for e in kept.get("files", []) if not e["existed"]]
    return changes(wanted, absent, found)
