#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks a node how it is: one round trip, probed live by zclustermanager on the node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_info
short_description: How a cluster node is, probed now
version_added: 0.1.0
description:
  - Asks C(zclustermanager) on the node, which probes keepalived, the addresses that are really
    there, conntrackd and its link, the sender, and the peer.
  - A task that does not register the answer shows it, as M(ansible.builtin.debug) would.
  - A node that is in no cluster is C(not configured), which is an answer and not an error.
author:
  - zcluster contributors (@zcluster)
attributes:
  check_mode:
    description: Can run in check mode and return what it sees; it never changes anything.
    support: full
  diff_mode:
    description: Nothing is changed, so there is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Ask both nodes
  zcluster.ha.node_info:
  register: answer

- name: Insist on a healthy cluster
  ansible.builtin.assert:
    that: answer.node.status == 'ok'
    fail_msg: "{{ answer.node.message }}"
"""

RETURN = r"""
node:
  description: The node's status object.
  returned: success
  type: dict
  contains:
    cluster:
      description: Name of the cluster.
      type: str
      sample: web
    hostname:
      description: The node's hostname.
      type: str
      sample: lb1
    ip:
      description: Its address on the cluster link.
      type: str
      sample: 198.18.30.11
    role:
      description: V(master), V(backup), V(maintenance), V(fault) or V(not configured).
      type: str
      sample: master
    status:
      description: V(ok), V(maintenance), V(failure) or V(not configured).
      type: str
      sample: ok
    message:
      description: The reason, in words.
      type: str
      sample: Node online and active
    sync:
      description: V(in sync), V(pending), V(paused), V(failed) or V(diverged).
      type: str
      sample: in sync
    vips_held:
      description: Virtual IPs that are on the node now.
      type: list
      elements: str
      sample: [198.18.10.100]
"""

import json
import os
import socket
from typing import Any, Dict, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

MANAGER = "/usr/sbin/zclustermanager"
# Of its daemon, which looks for whoever asks; quicker than the start of a program.
SOCKET = "/run/zcluster/manager.sock"
# Seconds for the daemon's sign of life, and for its answer: a peer that is away takes up to six.
ALIVE = 1.0
LOOKING = 8.0
# 0 green, 1 orange, 2 red, 3 grey: all of them are answers.
ANSWERS = (0, 1, 2, 3)


def interpret(outcome: Tuple[int, str, str], hostname: str) -> Dict[str, Any]:
    """The status object in what zclustermanager said; a failure object when it said none."""
    code, out, err = outcome
    try:
        if code in ANSWERS:
            return dict(json.loads(out))
    except ValueError:
        pass
    lines = [line for line in (err or out).splitlines() if line.strip()]
    return {
        "cluster": "",
        "hostname": hostname,
        "ip": "",
        "role": "fault",
        "status": "failure",
        "message": "zclustermanager cannot answer: %s" % (lines[-1] if lines else code),
        "sync": "",
        "vips_held": [],
        "vips_expected": [],
        "checks": [],
    }


def asked(path: str) -> Optional[Dict[str, Any]]:
    """The status object from the daemon; None when it is dead, busy, or too old to be asked."""
    data = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(ALIVE)
            link.connect(path)
            link.sendall(b'{"status": true}')
            link.shutdown(socket.SHUT_WR)
            while True:
                chunk = link.recv(65536)
                if not chunk:
                    break
                data += chunk
                link.settimeout(LOOKING)
        answer = json.loads(data.decode()).get("status")
    except (AttributeError, OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def not_configured(hostname: str) -> Dict[str, Any]:
    """The status object of a node on which nothing is installed."""
    return {
        "cluster": "",
        "hostname": hostname,
        "ip": "",
        "role": "not configured",
        "status": "not configured",
        "message": "Cluster not configured",
        "sync": "",
        "vips_held": [],
        "vips_expected": [],
        "checks": [],
    }


def main() -> None:
    """Ask, pass the answer on."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    hostname = socket.gethostname()
    if not os.path.exists(MANAGER):
        module.exit_json(changed=False, node=not_configured(hostname))
    answer = asked(SOCKET)
    if answer is None:
        answer = interpret(module.run_command([MANAGER, "status", "--json"]), hostname)
    module.exit_json(changed=False, node=answer)


if __name__ == "__main__":
    main()
