# SPDX-License-Identifier: GPL-3.0-or-later
"""What the nodes go by after a run, written into the inventory: by ``configure`` and ``replace``.

The inventory is the user's: one place in one file is changed, comments and all else stay. What
Ansible would make of it is tried beside it, and compared with what it makes of it now; only what is
right is written.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from zcluster_runner import inventory, places
from zcluster_runner.actions import Action
from zcluster_runner.errors import DriverError, InventoryError

NAME = "zcluster_name"
MOST_ATTEMPTS = 12
Variables = Mapping[str, Mapping[str, Any]]
"""Host, variable, value."""
WRITE = "Write the new settings into the inventory"


def host_settings(action: Action, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of the verb's node that these parameters mean, with their values."""
    return {
        param.host_variable: values[param.name]
        for param in action.params
        if param.host_variable and param.name in values
    }


class Persisted(NamedTuple):
    """What has been, or would be, written into the inventory; what has no place there, in words."""

    diff: str
    lost: str


def persist(
    paths: Sequence[Path],
    cluster: str,
    wanted: Mapping[str, Any],
    host: str = "",
    *,
    check: bool = False,
) -> Persisted:
    """Write variables of a cluster's hosts, or of one host, into the inventory."""
    new: dict[Path, str] = {}
    lost: dict[str, Any] = {}
    reasons: dict[str, None] = {}
    for variable, value in wanted.items():
        change = None
        try:
            change = placed(paths, new, cluster, host, variable, value)
        except (DriverError, OSError, UnicodeError) as error:
            reasons[str(error)] = None
        if change is None:
            lost[variable] = value
        else:
            new |= change
    try:
        diff = "".join(difference(path, text) for path, text in new.items())
        if not check:
            replace_all({path: text.encode() for path, text in new.items()})
    except OSError as error:
        reasons[str(error)] = None
        lost, diff = dict(wanted), ""
    return Persisted(diff, unwritten(paths, lost, list(reasons), host))


def unwritten(
    paths: Sequence[Path], lost: Mapping[str, Any], reasons: Sequence[str], host: str
) -> str:
    """Return what a person has to write; empty if nothing."""
    if not lost:
        return ""
    lines = "\n".join(f"  {name}: {json.dumps(value)}" for name, value in lost.items())
    where = ", ".join(str(path) for path in paths)
    why = f" ({'; '.join(reasons)})" if reasons else ""
    words = f"{where} cannot be given the new settings by zcluster{why}: please write there"
    return f"{words}{f', for {host}' if host else ''}\n{lines}"


def difference(path: Path, text: str) -> str:
    """Return the lines that change; what stands around them may be nobody's business."""
    before = path.read_text(encoding="utf-8")
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True),
            text.splitlines(keepends=True),
            f"before: {path}",
            f"after: {path}",
            n=0,
        )
    )


def placed(
    paths: Sequence[Path],
    new: Mapping[Path, str],
    cluster: str,
    host: str,
    variable: str,
    value: Any,
) -> dict[Path, str] | None:
    """Return new contents by which Ansible reads the value there, and nothing else differently.

    ``new``: contents that are settled, but not written yet. None: there is no such place.
    """
    before = variables_with(paths, new) if new else variables_of(paths)
    wanted = {
        name: {**known, variable: value}
        if (name == host if host else known.get(NAME) == cluster)
        else known
        for name, known in (before or {}).items()
    }
    if before == wanted:
        return {}
    texts = {
        path: (new.get(path) or path.read_text(encoding="utf-8")).splitlines(keepends=True)
        for path in files(paths)
    }
    attempts = (
        places.of_host(texts, host, variable, value)
        if host
        else places.of_group(texts, NAME, variable, value)
    )
    for attempt in islice(attempts, MOST_ATTEMPTS):
        if variables_with(paths, {**new, **attempt}) == wanted:
            return attempt
    return None


def variables_with(paths: Sequence[Path], new: Mapping[Path, str]) -> Variables | None:
    """Return what Ansible would make of the inventory with new contents; None if it cannot."""
    with tempfile.TemporaryDirectory(prefix="zcluster-") as scratch:
        copies = [Path(scratch) / str(number) for number in range(len(paths))]
        try:
            return variables_of(
                [mirror(path, copy, new) for path, copy in zip(paths, copies, strict=True)]
            )
        except InventoryError:
            return None


def mirror(path: Path, place: Path, new: Mapping[Path, str]) -> Path:
    """Make the inventory ``path`` anew in ``place``: links, but for the files with new contents."""
    place.mkdir()
    # Ansible reads what stands beside a file, too: group_vars, host_vars
    for entry in (path if path.is_dir() else path.parent).iterdir():
        copy = place / entry.name
        if entry.resolve() in new:
            copy.write_text(new[entry.resolve()], encoding="utf-8")
        elif path.is_dir() and entry.is_dir() and not entry.is_symlink() and entry.name != ".git":
            mirror(entry, copy, new)
        else:
            copy.symlink_to(entry.absolute())
    return place if path.is_dir() else place / path.name


def variables_of(paths: Sequence[Path]) -> Variables:
    """Return what Ansible makes of the inventory: all variables of all hosts."""
    content = inventory.content(tuple(paths), os.environ, Path.cwd())
    found: Variables = content.get("_meta", {}).get("hostvars", {})
    return found


def files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the inventory's YAML files."""
    for path in paths:
        if path.is_file():
            yield path.resolve()
        for suffix in ("yml", "yaml"):
            yield from (
                p.resolve() for p in sorted(path.rglob(f"*.{suffix}")) if ".git" not in p.parts
            )


def replace_all(new: Mapping[Path, bytes]) -> None:
    """Write these files, or none of them."""
    old = {path: path.read_bytes() for path in new}
    try:
        for path, content in new.items():
            replace(path, content)
    except BaseException:
        for path, content in old.items():
            if path.read_bytes() != content:
                replace(path, content)
        raise


def replace(path: Path, content: bytes) -> None:
    """Write a file whole; its mode and owner stay."""
    known = path.stat()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as new:
        try:
            new.write(content)
            new.flush()
            os.fchmod(new.fileno(), known.st_mode & 0o777)
            with suppress(PermissionError):  # who may write there need not be root
                os.fchown(new.fileno(), known.st_uid, known.st_gid)
            os.fsync(new.fileno())
            Path(new.name).replace(path)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
