#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Has the other node of the cluster serve instead of this one, without a loss."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_switchover
short_description: Have the other node serve
version_added: 0.1.0
description:
  - Run on the node that serves. Waits until the other node has its configuration and its
    connections, then has it take over. No packet and no established connection is lost.
  - On a node that does not serve there is nothing to do.
  - It is refused, with the reason, where the other node could not take over, and where failback
    would bring the virtual IPs back at once.
options: {}
author:
  - zcluster contributors (@zcluster)
attributes:
  check_mode:
    description: Can run in check mode and predict the change, or the refusal.
    support: full
  diff_mode:
    description: Shows who serves before and after.
    support: full
"""

EXAMPLES = r"""
- name: Have the other node serve
  zcluster.ha.node_switchover:
"""

RETURN = r"""
message:
  description: What was done, in words; who served when.
  returned: success
  type: str
  sample: lb1 served until 12:00:01.120, lb2 serves, seen at 12:00:01.410
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.zcluster.ha.plugins.module_utils import _manager


def main() -> None:
    """Have zclustermanager do it."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    command = [_manager.MANAGER, "switchover"] + (["--check"] if module.check_mode else [])
    try:
        _manager.insist_on_cluster()
        done = _manager.answer(module.run_command(command))
    except _manager.ManagerError as error:
        module.fail_json(msg=str(error))
    before = "this node serves: %s\n" % ("yes" if done["changed"] else "no")
    module.exit_json(
        changed=done["changed"],
        message=done["message"],
        diff={"before": before, "after": "this node serves: no\n"},
    )


if __name__ == "__main__":
    main()
