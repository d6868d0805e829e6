# SPDX-License-Identifier: GPL-3.0-or-later
"""Where in the YAML files of an inventory a variable stands, or could: candidates, as text alone.

Whether Ansible then reads what is meant is judged by whoever tries them (``persisting.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Texts = Mapping[Path, Sequence[str]]
"""Files, line by line."""

KEY = re.compile(
    r"(?P<indent>\s*)(?P<name>\"[^\"]+\"|'[^']+'|[^\s#'\":{][^\s#'\"{]*)\s*:"
    r"(?P<inline>\s*\{.*\})?(?P<comment>\s+#.*)?\s*$"
)
"""A key with what belongs to it below, or in one line: ``lb1:``, ``lb1: {zcluster_ip: ...}``."""

SECRET = re.compile("pass|secret|token", re.IGNORECASE)
"""A line with such a word is not written anew: what is written is shown."""


def of_group(texts: Texts, beside: str, variable: str, value: Any) -> Iterator[dict[Path, str]]:
    """Yield changes of files that may do: one place replaced, all of them, or a new line.

    ``beside``: the variable after whose line a new one comes.
    """
    places = [(p, i) for p, lines in texts.items() for i in found(lines, variable)]
    names = [(p, i) for p, lines in texts.items() for i in found(lines, beside)]
    for chosen in [*([place] for place in places), *([places] if len(places) > 1 else [])]:
        yield changed(texts, chosen, variable, value, insert=False)
    if not places:
        for chosen in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
            yield changed(texts, chosen, variable, value, insert=True)


def of_host(texts: Texts, host: str, variable: str, value: Any) -> Iterator[dict[Path, str]]:
    """Yield changes of files that may do for one host: its own line replaced, or a new one."""
    own = [p for p in texts if "host_vars" in p.parts and host in (p.stem, p.parent.name)]
    for path, lines in texts.items():
        for number in found(lines, variable):
            if path in own or parent(lines, number) == host:
                yield changed(texts, [(path, number)], variable, value, insert=False)
    for path, lines in texts.items():
        for number, line in enumerate(lines):
            key = KEY.match(line)
            if key and name_of(key) == host:
                new = beneath(key, following(lines, number), variable, value)
                yield {path: "".join([*lines[:number], *new, *lines[number + 1 :]])}
    for path in own:
        yield {path: "".join([*map(ended, texts[path]), *as_yaml("", variable, value, "")])}


def found(lines: Sequence[str], variable: str) -> Iterator[int]:
    """Yield the numbers of the lines that set a variable."""
    pattern = re.compile(rf"\s*{re.escape(variable)}\s*:(\s|$)")
    return (number for number, line in enumerate(lines) if pattern.match(line))


def name_of(key: re.Match[str]) -> str:
    """Return a key without its quotes."""
    return key["name"].strip("\"'")


def indent_of(line: str) -> str:
    """Return the blanks at the beginning of a line."""
    return line[: len(line) - len(line.lstrip())]


def ended(line: str) -> str:
    """Return a line with its end, which the last of a file may lack."""
    return line if line.endswith("\n") else f"{line}\n"


def says(line: str) -> bool:
    """Return whether a line is more than a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def parent(lines: Sequence[str], number: int) -> str:
    """Return the key under which a line stands."""
    indent = len(indent_of(lines[number]))
    above = (ln for ln in reversed(lines[:number]) if says(ln) and len(indent_of(ln)) < indent)
    key = KEY.match(next(above, ""))
    return name_of(key) if key else ""


def following(lines: Sequence[str], number: int) -> str:
    """Return the indent of what stands below a key, or would."""
    own = indent_of(lines[number])
    below = indent_of(next(filter(says, lines[number + 1 :]), ""))
    return below if len(below) > len(own) else f"{own}  "


def beneath(key: re.Match[str], indent: str, variable: str, value: Any) -> list[str]:
    """Return a host's line with one variable more."""
    import yaml

    line = ended(key.string)
    if not key["inline"]:
        return [line, *as_yaml(indent, variable, value, "")]
    try:
        known = yaml.safe_load(key["inline"])
    except yaml.YAMLError:  # what Ansible adds to YAML
        return [line]
    if SECRET.search(line):
        return [line]
    new = json.dumps({**known, variable: value}, ensure_ascii=False, default=str)
    return [f"{key['indent']}{key['name']}: {new}{key['comment'] or ''}\n"]


def changed(
    texts: Texts,
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
        indent = indent_of(lines[number])
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
