# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/speed.md and docs/speed.svg from what run.py measured; nothing is measured here."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAIR_AIM = 1.5
HOST_AIM = 1.2
SLOWEST = 12
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f")
"""Of the roles, in the order in which they come first."""

INTRODUCTION = """\
What `make bench-driver` measures: zcluster beside plain Ansible on the same hosts, in turns, warm
(connections open), with the same SSH settings, pipelining, interpreter and forks. All of it on one
machine, the lab's, whose few cores all nodes share: compare ratios, not seconds.
"""

ABOUT_CREATE = """\
One module with many probes (`parts_info`) sees at once what is on a node: packages, units,
addresses. Steps that would find nothing to do are left out, those that install, enable and start;
what stays is what must be looked at each time.
"""


ABOUT_PARTS = """\
Medians, one run after the other in one process that has loaded everything; a command loads it anew.
A ping has the same start of Ansible (less a playbook), the same connection and module on the nodes.
"""


@dataclass(frozen=True)
class Bar:
    """A horizontal bar of parts: label of the bar; name, length in seconds of each part."""

    label: str
    parts: tuple[tuple[str, float], ...]

    @property
    def length(self) -> float:
        """All parts."""
        return sum(length for _, length in self.parts)


def by_role(create: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Seconds per role, in the order of the run; Ansible's own start first."""
    found: dict[str, float] = {"start of Ansible": create["starting"]}
    for step in create["steps"]:
        name = step["role"] or "playbook"
        found[name] = found.get(name, 0.0) + step["seconds"]
    return tuple(found.items())


def verdict(ratio: float, aim: float) -> str:
    """Whether an aim is met."""
    return f"{ratio:.2f} (aim: at most {aim:g}; {'met' if ratio <= aim else 'missed'})"


def median(values: Iterable[float]) -> float:
    """The median, of a list that JSON holds."""
    return statistics.median(values)


def page(found: Mapping[str, Any]) -> str:
    """The text."""
    lines = [
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->",
        '<!-- Written by "bench/driver/run.py report" from what was measured; see there. -->',
        "# Speed of the driver",
        "",
        *INTRODUCTION.splitlines(),
        "",
        "![Speed](speed.svg)",
        "",
        "| what | zcluster | plain Ansible | ratio |",
        "| --- | --- | --- | --- |",
    ]
    if pair := found.get("pair"):
        told = pair["median"]
        lines.append(
            f"| `zcluster nodes`, 2 nodes, beside `ansible -m ping` | {told['nodes']:.2f} s | "
            f"{told['ping']:.2f} s | {verdict(pair['ratio'], PAIR_AIM)} |"
        )
        cost = pair["processor"]
        lines.append(
            f"| the same, processor time of the controller | {cost['nodes']:.2f} s | "
            f"{cost['ping']:.2f} s | {cost['nodes'] / cost['ping']:.2f} |"
        )
    if hundred := found.get("hundred"):
        cost = hundred["per_host"]
        lines.append(
            f"| the same per host, 100 hosts | {cost['nodes'] * 1000:.0f} ms | "
            f"{cost['ping'] * 1000:.0f} ms | {verdict(hundred['ratio'], HOST_AIM)} |"
        )
    if imported := found.get("import"):
        told = imported["seconds"]
        lines.append(
            "| `import zcluster_runner`, beside a bare `python` | "
            f"{told['import'] * 1000:.0f} ms | "
            f"{told['bare'] * 1000:.0f} ms | {imported['ratio']:.1f} |"
        )
    if pair and "parts" in pair:
        lines += ["", "## Where the time of `zcluster nodes` goes", "", *ABOUT_PARTS.splitlines()]
        lines += ["", "| part | ms |", "| --- | --- |"]
        lines += [f"| {name} | {told * 1000:.0f} |" for name, told in pair["parts"].items()]
        lines += ["", f"Load of the machine before: {pair['load']:g}."]
    if create := found.get("create"):
        lines += ["", "## A create that has nothing to do", ""]
        for name, words in (("before", "Before, with an older collection"), ("now", "Now")):
            if name in create:
                lines.append(
                    f"- {words}: {median(create[name]['seconds']):.1f} s (median of "
                    f"{len(create[name]['seconds'])}), {median(create[name]['processor']):.1f} s "
                    f"of the controller's processor, {len(create[name]['steps'])} steps."
                )
        lines += [
            "",
            *ABOUT_CREATE.splitlines(),
            "",
            f"The {SLOWEST} longest steps of the quickest run:",
            "",
            "| seconds | role | step |",
            "| --- | --- | --- |",
        ]
        steps = sorted(create["now"]["steps"], key=lambda step: -step["seconds"])[:SLOWEST]
        lines += [
            f"| {step['seconds']:.2f} | {step['role'] or 'playbook'} | {step['step']} |"
            for step in steps
        ]
    return "\n".join(lines) + "\n"


def bars(found: Mapping[str, Any]) -> list[tuple[str, list[Bar]]]:
    """The panels of the plot: a title, and bars that share a scale."""
    panels: list[tuple[str, list[Bar]]] = []
    if pair := found.get("pair"):
        told = pair["median"]
        panels.append(
            (
                "2 nodes, warm",
                [
                    Bar("zcluster nodes", (("", told["nodes"]),)),
                    Bar("ansible -m ping", (("", told["ping"]),)),
                ],
            )
        )
    if hundred := found.get("hundred"):
        seconds = hundred["seconds"]
        many = seconds[max(seconds, key=len)]
        panels.append(
            (
                "100 hosts",
                [
                    Bar("zcluster nodes", (("", median(many["nodes"])),)),
                    Bar("ansible -m ping", (("", median(many["ping"])),)),
                ],
            )
        )
    if create := found.get("create"):
        panels.append(
            (
                "a create that has nothing to do, by role",
                [Bar(name, by_role(create[name])) for name in ("before", "now") if name in create],
            )
        )
    return panels


def plot(panels: Sequence[tuple[str, list[Bar]]]) -> str:
    """The picture: a panel below the other, its bars on one scale."""
    left, width, height, gap = 130, 620, 22, 8
    names = list(dict.fromkeys(n for _, made in panels for bar in made for n, _ in bar.parts if n))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    parts: list[str] = []
    y = 10
    for title, made in panels:
        parts.append(f'<text x="{left}" y="{y + 14}" font-weight="bold">{title}</text>')
        y += 24
        scale = width / max(bar.length for bar in made)
        for bar in made:
            parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{bar.label}</text>')
            x = float(left)
            for name, length in bar.parts:
                colour = colours.get(name, COLOURS[0])
                parts.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{length * scale:.1f}" height="{height}" '
                    f'fill="{colour}"><title>{name or bar.label}: {length:.2f} s</title></rect>'
                )
                x += length * scale
            parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{bar.length:.1f} s</text>')
            y += height + gap
        y += 10
    for place, name in enumerate(names):
        column, row = place % 4, place // 4
        x, top = left + column * 165, y + row * 20
        parts.append(
            f'<rect x="{x}" y="{top}" width="12" height="12" fill="{colours[name]}"/>'
            f'<text x="{x + 18}" y="{top + 11}">{name}</text>'
        )
    y += 20 * -(-len(names) // 4) + 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{y}" '
        'font-family="sans-serif" font-size="13">'
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->"
        '<rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def write(results: Path, docs: Path) -> None:
    """Write both from the results that are there."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    if not found:
        raise SystemExit(f"{results}: nothing is measured yet")
    (docs / "speed.md").write_text(page(found), encoding="utf-8")
    (docs / "speed.svg").write_text(plot(bars(found)), encoding="utf-8")
