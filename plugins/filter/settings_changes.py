# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: what is different between two states of a cluster's settings."""

from __future__ import annotations

DOCUMENTATION = r"""
name: settings_changes
short_description: What is different between two states of a cluster's settings
version_added: 0.1.0
description:
  - Compares the settings on a node with a new plan, setting by setting.
author: zcluster contributors (@zcluster)
positional: new
options:
  _input:
    description: The old settings, as in C(/etc/zcluster/cluster.json).
    type: dict
    required: true
  new:
    description: The new ones, as P(zcluster.ha.cluster_plan#filter) makes them.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say what is different
  ansible.builtin.debug:
    msg: "{{ old | zcluster.ha.settings_changes(new) }}"
"""

RETURN = r"""
_value:
  description: A list of mappings with C(setting), C(old) and C(new), both as text.
  type: list
  elements: dict
"""

import json
import typing as t

# What follows from others, or says who reads it.
LEFT_OUT = ("local", "nodes", "networks", "revision")


def settings_changes(
    old: t.Mapping[str, t.Any], new: t.Mapping[str, t.Any]
) -> t.List[t.Dict[str, str]]:
    """The settings whose values differ, by name."""
    names = sorted((set(old) | set(new)) - set(LEFT_OUT))
    return [
        {"setting": name, "old": _text(old.get(name)), "new": _text(new.get(name))}
        for name in names
        # Settings of an older zcluster lack what is empty in a newer one.
        if (old.get(name) or None) != (new.get(name) or None)
    ]


def _text(value: t.Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, dict):
        if {"address", "prefix"} <= set(value):
            return "%s/%s" % (value["address"], value["prefix"])
        return str(value.get("name") or json.dumps(value, sort_keys=True))
    return "none" if value is None else str(value)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        """Name -> filter."""
        return {"settings_changes": settings_changes}
