#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks a node for the cluster's history: the events of both nodes in one time line."""

from __future__ import annotations

DOCUMENTATION = r"""
module: history_info
short_description: What happened on both nodes of a cluster, in one time line
version_added: 0.1.0
description:
  - Asks C(zclustermanager) on the node. Each node keeps its own events and a copy of its peer's,
    so one node is enough, even when the other is dead.
  - The order within a node is sure. Across the nodes it follows what each knew of the other; where
    neither knew anything, it is by their clocks, and the entry says so.
author:
  - zcluster contributors (@zcluster)
options:
  limit:
    description: The last so many entries.
    type: int
    default: 100
  detailed:
    description: Return details, too, such as keepalived's own events.
    type: bool
    default: false
  raw:
    description: Return the node's own events as they were recorded, instead of the time line.
    type: bool
    default: false
  events:
    description:
      - The peer's events, as O(raw=true) returned them on the peer. Without them the node asks its
        peer itself, and uses its copy when the peer does not answer.
    type: list
    elements: dict
attributes:
  check_mode:
    description: Can run in check mode and return what it sees; it never changes anything.
    support: full
  diff_mode:
    description: Nothing is changed, so there is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Read the last ten entries
  zcluster.ha.history_info:
    limit: 10
  register: answer
  run_once: true
"""

RETURN = r"""
history:
  description: The time line, oldest first; empty on a node that is in no cluster.
  returned: when O(raw=false)
  type: list
  elements: dict
  contains:
    when:
      description: Wall clock of the node, in seconds since the epoch.
      type: float
      sample: 1795385055.2
    node:
      description: The node on which it happened.
      type: str
      sample: lb1
    event:
      description: V(role), V(sync), the verb of an action, or another event.
      type: str
      sample: role
    from:
      description: The role before.
      type: str
      sample: backup
    to:
      description: The role or state after; of an action V(begun), V(done) or V(failed).
      type: str
      sample: master
    cause:
      description: Why, in words.
      type: str
      sample: lb1 does not answer
    seconds:
      description: How long it took.
      type: float
      sample: 0.2
    lasted:
      description: How long the role was held.
      type: float
      sample: 3600.0
    who:
      description: Who did it.
      type: str
      sample: alice@ops
    generation:
      description: How many generations of the configuration there had been.
      type: int
      sample: 4
    order:
      description: V(sure), or V(by clock).
      type: str
      sample: sure
    text:
      description: The entry as a sentence.
      type: str
      sample: "role backup -> master: lb1 does not answer"
events:
  description: The node's own events.
  returned: when O(raw=true)
  type: list
  elements: dict
"""

import json
import os
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

MANAGER = "/usr/sbin/zclustermanager"


def command(params: Dict[str, Any]) -> List[str]:
    """What zclustermanager is asked."""
    if params["raw"]:
        return [MANAGER, "history", "--events"]
    words = [MANAGER, "history", "--json", "--limit", str(params["limit"])]
    words += ["--all"] if params["detailed"] else []
    words += ["--merge"] if params["events"] is not None else []
    return words


def main() -> None:
    """Ask, pass the answer on."""
    module = AnsibleModule(
        argument_spec={
            "limit": {"type": "int", "default": 100},
            "detailed": {"type": "bool", "default": False},
            "raw": {"type": "bool", "default": False},
            "events": {"type": "list", "elements": "dict"},
        },
        supports_check_mode=True,
    )
    key = "events" if module.params["raw"] else "history"
    if module.params["limit"] < 1:
        module.fail_json(
            msg="limit: %d is not possible; allowed: 1 and more" % module.params["limit"]
        )
    if not os.path.exists(MANAGER):
        module.exit_json(changed=False, **{key: []})
    given = module.params["events"]
    code, out, err = module.run_command(
        command(module.params), data=json.dumps(given) if given is not None else None
    )
    if code != 0:
        module.fail_json(msg="zclustermanager cannot tell the history: %s" % (err or out).strip())
    module.exit_json(changed=False, **{key: json.loads(out)})


if __name__ == "__main__":
    main()
