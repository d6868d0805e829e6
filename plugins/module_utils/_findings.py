# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""What preflight finds: the record, and how it reads for a person."""

from __future__ import annotations

import enum
import textwrap
import typing as t
from dataclasses import dataclass


class Severity(enum.Enum):
    """An error stops create; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what was found, what it means, and the way out."""

    severity: Severity
    node: str
    field: str
    found: str
    message: str
    way_out: str
    check: str = ""


def error(node: str, field: str, found: object, message: str, way_out: str) -> Finding:
    """A finding that stops create."""
    return Finding(Severity.ERROR, node, field, _shown(found), message, way_out)


def warning(node: str, field: str, found: object, message: str, way_out: str) -> Finding:
    """A finding that create only reports."""
    return Finding(Severity.WARNING, node, field, _shown(found), message, way_out)


def as_text(findings: t.Sequence[t.Mapping[str, str]], cluster: str = "") -> str:
    """All findings as one text, errors first."""
    errors = [f for f in findings if f["severity"] == Severity.ERROR.value]
    warnings = [f for f in findings if f["severity"] != Severity.ERROR.value]
    name = f" of cluster {cluster}" if cluster else ""
    if not findings:
        return f"Preflight{name}: nothing found."
    head = f"Preflight{name}: {_count(errors, 'error')}, {_count(warnings, 'warning')}."
    lines = [head + (" Nothing was changed." if errors else "")]
    for number, finding in enumerate([*errors, *warnings], 1):
        lines += [
            "",
            f"{number}. {finding['severity'].upper()} on {finding['node']}, {finding['field']}: "
            f"{finding['found'] or 'nothing'}",
            _paragraph(finding["message"]),
            _paragraph("Way out: " + finding["way_out"]),
        ]
    return "\n".join(lines)


def _paragraph(text: str) -> str:
    return textwrap.fill(
        text,
        width=100,
        initial_indent="   ",
        subsequent_indent="   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _count(items: t.Sequence[object], word: str) -> str:
    return f"{len(items) or 'no'} {word}{'' if len(items) == 1 else 's'}"


def _shown(found: object) -> str:
    if isinstance(found, (list, tuple)):
        return ", ".join(str(item) for item in found)
    return "" if found is None else str(found)
