#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Records in a node's history that somebody does something to the cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_event
short_description: Record an operator's action in the history of a cluster node
version_added: 0.1.0
description:
  - Appends to the node's durable events, and to its journal, that an action has begun, is done, or
    has failed.
  - A record of what is done is no state of the node, so this is never C(changed). On a node that is
    in no cluster nothing is recorded.
author:
  - zcluster contributors (@zcluster)
options:
  verb:
    description: The action, for example V(switchover).
    type: str
    required: true
  state:
    description: How far it is.
    type: str
    required: true
    choices: [begun, done, failed]
  who:
    description: Who does it, for example V(alice@ops).
    type: str
    default: ""
  run:
    description: The same for all records of one run; the history makes one entry of them.
    type: str
    default: ""
  why:
    description: Why it failed.
    type: str
    default: ""
attributes:
  check_mode:
    description: Records nothing in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Record that somebody works on the node
  zcluster.ha.node_event:
    verb: change-of-disks
    state: begun
    who: alice@ops
    run: ticket-4711
"""

RETURN = r"""
recorded:
  description: Whether the node has recorded it.
  returned: always
  type: bool
  sample: true
"""

import os

from ansible.module_utils.basic import AnsibleModule

MANAGER = "/usr/sbin/zclustermanager"
SETTINGS = "/etc/zcluster/cluster.json"


def main() -> None:
    """Hand it to zclustermanager."""
    module = AnsibleModule(
        argument_spec={
            "verb": {"type": "str", "required": True},
            "state": {"type": "str", "required": True, "choices": ["begun", "done", "failed"]},
            "who": {"type": "str", "default": ""},
            "run": {"type": "str", "default": ""},
            "why": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    there = os.path.exists(MANAGER) and os.path.exists(SETTINGS)
    if module.check_mode or not there:
        module.exit_json(changed=False, recorded=False)
    words = [MANAGER, "event", given["verb"], "--state=" + given["state"], "--who=" + given["who"]]
    words += ["--run-id=" + given["run"], "--why=" + given["why"]]
    code, _out, err = module.run_command(words)
    if code != 0:
        # The action itself is what counts: it is not stopped for a note about it.
        module.warn("the action could not be recorded in the history: %s" % err.strip())
    module.exit_json(changed=False, recorded=code == 0)


if __name__ == "__main__":
    main()
