# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: findings as one text for a person."""

from __future__ import annotations

DOCUMENTATION = r"""
name: findings_text
short_description: Findings as one text for a person
version_added: 0.1.0
description:
  - Writes what P(zcluster.ha.preflight_findings#filter) found as numbered paragraphs, errors first.
author: zcluster contributors (@zcluster)
positional: cluster
options:
  _input:
    description: The findings.
    type: list
    elements: dict
    required: true
  cluster:
    description: Name of the cluster, for the first line.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Stop when there are errors
  ansible.builtin.fail:
    msg: "{{ findings | zcluster.ha.findings_text('web') }}"
  when: findings | selectattr('severity', 'eq', 'error')
"""

RETURN = r"""
_value:
  description: The text.
  type: str
"""

import typing as t

from ansible_collections.zcluster.ha.plugins.module_utils import _findings


class FilterModule:
    """The filters of this file."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        """Name -> filter."""
        return {"findings_text": _findings.as_text}
