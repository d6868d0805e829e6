#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes a cluster node out of service, or brings it back, without a loss."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_maintenance
short_description: Maintenance of a cluster node
version_added: 0.1.0
description:
  - V(enabled) hands the virtual IPs over, if this node serves, and keeps it from serving until it
    is V(disabled) again, reboots included. No packet and no established connection is lost.
  - V(disabled) brings it back as backup; it becomes master only if failback prefers it, and only
    when it has caught up.
  - It is refused, with the reason, where the other node could not take over.
options:
  state:
    description: Whether the node is in maintenance.
    type: str
    choices: [enabled, disabled]
    required: true
  force:
    description: Go into maintenance even if the other node could not take over.
    type: bool
    default: false
author:
  - zcluster contributors (@zcluster)
attributes:
  check_mode:
    description: Can run in check mode and predict the change, or the refusal.
    support: full
  diff_mode:
    description: Shows the state before and after.
    support: full
"""

EXAMPLES = r"""
- name: Take the node out of service
  zcluster.ha.node_maintenance:
    state: enabled

- name: Have it back
  zcluster.ha.node_maintenance:
    state: disabled
"""

RETURN = r"""
message:
  description: What was done, in words.
  returned: success
  type: str
  sample: lb1 is in maintenance; lb2 serves
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.zcluster.ha.plugins.module_utils import _manager


def command(state: str, force: bool, check: bool) -> t.List[str]:
    """What zclustermanager is told."""
    words = [_manager.MANAGER, "maintenance", "enable" if state == "enabled" else "disable"]
    return words + (["--force"] if force else []) + (["--check"] if check else [])


def diff(state: str, changed: bool) -> t.Dict[str, str]:
    """The state before and after."""
    other = {"enabled": "disabled", "disabled": "enabled"}[state]
    return {
        "before": "maintenance: %s\n" % (other if changed else state),
        "after": "maintenance: %s\n" % state,
    }


def main() -> None:
    """Have zclustermanager do it."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["enabled", "disabled"], "required": True},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    state = module.params["state"]
    try:
        _manager.insist_on_cluster()
        done = _manager.answer(
            module.run_command(command(state, module.params["force"], module.check_mode))
        )
    except _manager.ManagerError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=done["changed"], message=done["message"], diff=diff(state, done["changed"])
    )


if __name__ == "__main__":
    main()
