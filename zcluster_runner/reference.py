# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of all verbs, as Markdown, from the table of actions: ``make docs`` writes it."""

from __future__ import annotations

import sys

from zcluster_runner.actions import ACTIONS, Action, Kind, Param

BAR = "\\|"

HEAD = """\
<!-- SPDX-License-Identifier: GPL-3.0-or-later -->
<!-- Written by "make docs" from zcluster_runner/actions.py: change it there. -->
# Verbs

Options of every verb that works on a cluster: `-i/--inventory PATH`, `--cluster NAME`,
`--limit HOSTS`, `-o/--output table|json`, `-v`; of those that change something also `--yes`,
`--check`, `--diff`. In Python each verb is `zcluster_runner.run(VERB, …)`, its parameters are
keywords (`--check-interval` is `check_interval`).

Exit codes: 0 green, 1 orange, 2 red, 3 grey (unreachable, not known, or the run failed), 64 wrong
usage.
"""


def usage(param: Param) -> str:
    """Return a parameter as it is typed."""
    if param.positional:
        return f"`{param.name.upper()}`"
    if param.kind is Kind.FLAG:
        return f"`{param.option}`"
    value = "|".join(param.choices) or param.kind.value.upper()
    return f"`{param.option} {value}`"


def meaning(param: Param) -> str:
    """Return what a parameter means, and what it may be."""
    text = param.help
    if param.minimum is not None and param.maximum is not None:
        text += f"; {param.minimum:g} to {param.maximum:g}"
    return f"{text}; may be given several times" if param.multiple else text


def section(action: Action) -> str:
    """Return the section of one verb."""
    lines = [f"## {action.verb}", "", f"{action.summary}.", "", action.text, ""]
    if action.params:
        lines += ["| parameter | meaning |", "| --- | --- |"]
        # a bar in a cell would end it
        cells = ((usage(p), meaning(p)) for p in action.params)
        lines += [f"| {' | '.join(part.replace('|', BAR) for part in row)} |" for row in cells]
        lines.append("")
    lines += ["```console", *(f"$ {example}" for example in action.examples), "```", ""]
    notes = [f"Playbook: `{action.playbook}`."] if action.playbook else []
    notes += ["Asks before it starts; `--yes` answers."] if action.confirm else []
    return "\n".join([*lines, *([" ".join(notes), ""] if notes else [])])


def text() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(section(action) for action in ACTIONS)]).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
