# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings given to ``configure``: worked out against the inventory, and written into it.

The run gets them as extra variables; only when it went through are they written, so that what was
refused is nowhere. The inventory is the user's: one place in one file is changed, comments and all
else stay. What Ansible would make of it is tried beside it, and compared with what it makes of it
now; only what is right is written.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from zcluster_runner import inventory
from zcluster_runner.actions import Action, Goes
from zcluster_runner.errors import DriverError, InventoryError, UsageError

NAME = "zcluster_name"
MOST_ATTEMPTS = 12
Variables = Mapping[str, Mapping[str, Any]]
"""Host, variable, value."""


def hosts_of(found: Variables, cluster: str) -> tuple[str, Variables]:
    """Return the cluster's name and its hosts' variables; it must be clear which is meant."""
    names = list(dict.fromkeys(str(v[NAME]) for v in found.values() if v.get(NAME)))
    if not cluster and len(names) > 1:
        raise UsageError(f"the inventory has several clusters, say --cluster: {', '.join(names)}")
    wanted = cluster or (names[0] if names else "")
    return wanted, {host: v for host, v in found.items() if v.get(NAME) == wanted}


def settings(action: Action, values: Mapping[str, Any], hosts: Variables) -> dict[str, Any]:
    """Return the variables of the inventory that these parameters mean, with their new values."""
    before: Mapping[str, Any] = next(iter(hosts.values()), {})
    wanted: dict[str, Any] = {}
    for param in action.params:
        if param.goes is not Goes.SETTING or param.name not in values:
            continue
        value = values[param.name]
        if param.changes_list:
            listed = before.get(param.variable) or []
            wanted[param.variable] = edited(param.option, list(listed), value)
        else:
            wanted[param.variable] = value
    return wanted


def address(entry: Any) -> str:
    """Return the address of an entry of a list: 192.0.2.1 of 192.0.2.1/24@eth0."""
    text = str(entry.get("address") if isinstance(entry, Mapping) else entry)
    return text.partition("@")[0].partition("/")[0]


def entry(text: str) -> Any:
    """Return an entry as the inventory has it: a mapping where the interface was named."""
    value, _, interface = text.partition("@")
    return {"address": value, "interface": interface} if interface else value


def edited(option: str, listed: list[Any], changes: Iterable[tuple[str, str]]) -> list[Any]:
    """Return the list with entries added and removed; both may be so already."""
    for what, text in changes:
        same = [known for known in listed if address(known) == address(text)]
        if what == "add" and not same:
            listed = [*listed, entry(text)]
        elif what == "remove":
            if not same and not any(w == "add" and address(t) == address(text) for w, t in changes):
                shown = ", ".join(str(address(known)) for known in listed) or "none"
                raise UsageError(f"{option} remove {text}: it is not there; there are: {shown}")
            listed = [known for known in listed if known not in same]
    return listed


def persist(paths: Sequence[Path], cluster: str, wanted: Mapping[str, Any]) -> str:
    """Write the settings into the inventory; the reason in words if that could not be done."""
    lost: dict[str, Any] = {}
    reasons: dict[str, None] = {}
    for variable, value in wanted.items():
        try:
            if written(paths, cluster, variable, value):
                continue
        except (DriverError, OSError, UnicodeError) as error:
            reasons[str(error)] = None
        lost[variable] = value
    if not lost:
        return ""
    lines = "\n".join(f"  {name}: {json.dumps(value)}" for name, value in lost.items())
    where = ", ".join(str(path) for path in paths)
    why = f" ({'; '.join(reasons)})" if reasons else ""
    words = f"the cluster has its new settings, but {where} does not{why}"
    return f"{words}: please write there\n{lines}"


def written(paths: Sequence[Path], cluster: str, variable: str, value: Any) -> bool:
    """Write one setting, so that Ansible reads it, and nothing else is read differently."""
    before = variables_of(paths)
    wanted = {
        host: {**known, variable: value} if known.get(NAME) == cluster else known
        for host, known in before.items()
    }
    if before == wanted:
        return True
    for attempt in islice(attempts(list(files(paths)), variable, value), MOST_ATTEMPTS):
        if variables_with(paths, attempt) == wanted:
            replace_all({path: text.encode() for path, text in attempt.items()})
            return True
    return False


def variables_with(paths: Sequence[Path], new: Mapping[Path, str]) -> Variables | None:
    """Return what Ansible would make of the inventory with new contents; None if it cannot."""
    with tempfile.TemporaryDirectory(prefix="zcluster-") as scratch:
        places = [Path(scratch) / str(number) for number in range(len(paths))]
        try:
            return variables_of(
                [mirror(path, place, new) for path, place in zip(paths, places, strict=True)]
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


def attempts(candidates: list[Path], variable: str, value: Any) -> Iterator[dict[Path, str]]:
    """Yield changes of files that may do: one place replaced, all of them, or a new line."""
    texts = {
        path: path.read_text(encoding="utf-8").splitlines(keepends=True) for path in candidates
    }
    places = [(p, i) for p, lines in texts.items() for i in found(lines, variable)]
    names = [(p, i) for p, lines in texts.items() for i in found(lines, NAME)]
    for chosen in [*([place] for place in places), *([places] if len(places) > 1 else [])]:
        yield changed(texts, chosen, variable, value, insert=False)
    if not places:
        for chosen in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
            yield changed(texts, chosen, variable, value, insert=True)


def found(lines: Sequence[str], variable: str) -> Iterator[int]:
    """Yield the numbers of the lines that set a variable."""
    pattern = re.compile(rf"\s*{re.escape(variable)}\s*:(\s|$)")
    return (number for number, line in enumerate(lines) if pattern.match(line))


def changed(
    texts: Mapping[Path, Sequence[str]],
    places: Sequence[tuple[Path, int]],
    variable: str,
    value: Any,
    *,
    insert: bool,
) -> dict[Path, str]:
    """Return the files with the value at these places, or after these lines."""
    new: dict[Path, list[str]] = {}
    for path, number in sorted(places, key=lambda place: place[1], reverse=True):
        lines = new.setdefault(path, list(texts[path]))
        indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
        comment = re.search(r"\s+#.*$", lines[number].rstrip("\n")) if not insert else None
        end = number + 1
        while not insert and end < len(lines) and belongs(lines[end], indent):
            end += 1
        lines[number + insert : end] = as_yaml(
            indent, variable, value, comment[0] if comment else ""
        )
    return {path: "".join(lines) for path, lines in new.items()}


def belongs(line: str, indent: str) -> bool:
    """Return whether a line goes on with the value of a key at this indent."""
    rest = line[len(indent) :]
    return line.startswith(indent) and rest.startswith((" ", "\t", "- "))


def as_yaml(indent: str, variable: str, value: Any, comment: str) -> list[str]:
    """Return the lines that set a variable; JSON is YAML."""
    if not isinstance(value, list) or not value:
        return [f"{indent}{variable}: {json.dumps(value)}{comment}\n"]
    items = [f"{indent}  - {json.dumps(item)}\n" for item in value]
    return [f"{indent}{variable}:{comment}\n", *items]


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
