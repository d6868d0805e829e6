# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: all findings about the nodes of one cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_findings
short_description: All findings about the nodes of a cluster
version_added: 0.1.0
description:
  - Judges what M(zcluster.ha.preflight) saw on both nodes, together with the declared settings.
  - Returns all findings at once, errors first. An error means that the cluster cannot be built.
author: zcluster contributors (@zcluster)
positional: settings
options:
  _input:
    description:
      - Inventory hostname to the result of M(zcluster.ha.preflight) there, or to that of a task
        that could not reach the host.
    type: dict
    required: true
  settings:
    description:
      - Inventory hostname to what that host declares, for each host of the cluster in the order of
        the inventory. The keys are C(name), C(ip), C(vips), C(initial_master), C(failback),
        C(profile), C(check_interval), C(vrid), C(sync_paths), C(sync_excludes), C(sync_keep),
        C(services), C(witnesses), C(track_interfaces), C(replace_backup).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Judge
  ansible.builtin.set_fact:
    findings: "{{ {'lb1': probe1, 'lb2': probe2} | zcluster.ha.preflight_findings(settings) }}"
"""

RETURN = r"""
_value:
  description:
    - One mapping per finding, with the keys C(severity) (V(error) or V(warning)), C(check),
      C(node), C(field), C(found), C(message) and C(way_out).
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.zcluster.ha.plugins.module_utils import _preflight, _records


def preflight_findings(
    observations: t.Mapping[str, object], settings: t.Mapping[str, t.Mapping[str, t.Any]]
) -> t.List[t.Dict[str, t.Any]]:
    """Findings as plain mappings."""
    try:
        return [_records.plain(found) for found in _preflight.findings(observations, settings)]
    except _records.RecordError as error:
        raise AnsibleFilterError(f"zcluster.ha.preflight_findings: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        """Name -> filter."""
        return {"preflight_findings": preflight_findings}
