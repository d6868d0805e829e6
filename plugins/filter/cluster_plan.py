# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: the plan of a cluster from what was seen and declared."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cluster_plan
short_description: The plan of a cluster
version_added: 0.1.0
description:
  - Works out, from what M(zcluster.ha.preflight) saw on both nodes and from the declared settings,
    what every role needs to know; stored on both nodes as C(/etc/zcluster/cluster.json).
  - The same input gives the same plan. A VRID that the cluster has is kept; unchanged settings keep
    their revision.
author: zcluster contributors (@zcluster)
positional: settings
options:
  _input:
    description: Inventory hostname to the result of M(zcluster.ha.preflight) there.
    type: dict
    required: true
  settings:
    description:
      - Inventory hostname to what that host declares, as for
        P(zcluster.ha.preflight_findings#filter).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    plan: "{{ {'lb1': probe1, 'lb2': probe2} | zcluster.ha.cluster_plan(settings) }}"
"""

RETURN = r"""
_value:
  description: >-
    A mapping with the keys C(name), C(revision), C(initial_master), C(failback), C(profile),
    C(check_interval), C(missed_adverts), C(realtime_priority), C(nodes), C(networks), C(vips),
    C(witnesses), C(track_interfaces), C(sync) and C(services).
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.zcluster.ha.plugins.module_utils import _plan, _records, _view


def cluster_plan(
    observations: t.Mapping[str, object], settings: t.Mapping[str, t.Mapping[str, t.Any]]
) -> t.Dict[str, t.Any]:
    """The plan as a plain mapping."""
    try:
        view = _view.view(observations, settings)
        plan: t.Dict[str, t.Any] = _records.plain(_plan.make(view.seen, view.settings))
    except (_plan.PlanError, _records.RecordError) as error:
        raise AnsibleFilterError(f"zcluster.ha.cluster_plan: {error}") from error
    return plan


class FilterModule:
    """The filters of this file."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        """Name -> filter."""
        return {"cluster_plan": cluster_plan}
