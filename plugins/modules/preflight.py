#!/usr/bin/python
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at one node before a cluster is built on it; judges nothing, changes nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Looks at a node before it becomes part of a cluster
version_added: 0.1.0
description:
  - Collects in one round trip what a decision about a cluster needs, and writes nothing.
  - The judgement is made from the observations of both nodes together, by the filters
    P(zcluster.ha.preflight_findings#filter) and P(zcluster.ha.cluster_plan#filter).
  - While it looks, it listens for VRRP adverts of others, and asks on the wire who answers for
    the virtual IPs.
author:
  - zcluster contributors (@zcluster)
requirements:
  - Python 3.11 or newer on the node
  - iproute2
  - root privileges
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it would without it.
    support: full
    details: The module never changes anything.
  diff_mode:
    description: Returns details on what has changed.
    support: none
    details: The module never changes anything.
options:
  cluster_name:
    description: Name of the cluster that is to be.
    type: str
    default: ""
  local_ip:
    description: This node's address on the cluster link.
    type: str
    default: ""
  peer_ip:
    description: The other node's address on the cluster link; it is asked whether it answers.
    type: str
    default: ""
  vips:
    description:
      - The virtual IPs that are asked for, each as C(ADDRESS/PREFIX) or as a mapping with the keys
        C(address) and C(interface).
      - An entry that is not an address is left out here; the judgement names it.
    type: list
    elements: raw
    default: []
  vrid:
    description: The virtual router id that is asked for, if any.
    type: int
  listen_seconds:
    description: How long to listen for VRRP adverts.
    type: float
    default: 3.5
  listen_unchanged:
    description:
      - Whether to listen on a node of this cluster too, when its VRID and virtual IPs stay.
    type: bool
    default: true
  sync_paths:
    description: Paths to synchronize; they are looked through within bounds.
    type: list
    elements: str
    default: []
  sync_excludes:
    description: Paths and patterns that are left out of them.
    type: list
    elements: str
    default: []
  services:
    description:
      - Services to protect, as C(zcluster_services) has them; their systemd units and the programs
        of their commands are looked for.
    type: list
    elements: raw
    default: []
  controller_time:
    description: The controller's clock when it asks, in seconds since the epoch.
    type: float
seealso:
  - module: zcluster.ha.interface_info
"""

EXAMPLES = r"""
- name: Look at the node
  zcluster.ha.preflight:
    cluster_name: web
    local_ip: 198.18.30.11
    peer_ip: 198.18.30.12
    vips:
      - 198.18.10.100/24
      - address: 2001:db8:10::100/64
        interface: eth0
    sync_paths:
      - /etc/haproxy
    services:
      - name: haproxy
  register: probe
"""

RETURN = r"""
observation:
  description: What was seen on the node.
  returned: success
  type: dict
  contains:
    system:
      description: Hostname, operating system, Python, kernel, boot, rights, systemd, container.
      type: dict
      returned: success
    clock:
      description: The controller's clock when it asked, the node's at start and end.
      type: dict
      returned: success
    interfaces:
      description: Interfaces with their addresses; RV(ignore:virtual) says why one is no real one.
      type: list
      elements: dict
      returned: success
    adverts:
      description: VRRP adverts that were heard.
      type: list
      elements: dict
      returned: success
    cluster:
      description: The settings of the cluster that is on the node.
      type: dict
      returned: success
    trees:
      description: What the paths to synchronize hold.
      type: list
      elements: dict
      returned: success
    errors:
      description: Probe to message, for each that gave no answer.
      type: dict
      returned: success
  sample:
    system:
      hostname: n1
      os_id: debian
      os_version: "12"
"""

import ipaddress
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.zcluster.ha.plugins.module_utils import (
    _commands,
    _observe,
    _records,
    _services,
)


def main() -> None:
    """Ask the node, return what it says."""
    module = AnsibleModule(
        argument_spec={
            "cluster_name": {"type": "str", "default": ""},
            "local_ip": {"type": "str", "default": ""},
            "peer_ip": {"type": "str", "default": ""},
            "vips": {"type": "list", "elements": "raw", "default": []},
            "vrid": {"type": "int"},
            "listen_seconds": {"type": "float", "default": 3.5},
            "listen_unchanged": {"type": "bool", "default": True},
            "sync_paths": {"type": "list", "elements": "str", "default": []},
            "sync_excludes": {"type": "list", "elements": "str", "default": []},
            "services": {"type": "list", "elements": "raw", "default": []},
            "controller_time": {"type": "float"},
        },
        supports_check_mode=True,
    )
    asked = module.params
    question = _observe.Question(
        cluster_name=asked["cluster_name"],
        local_ip=_ipv4(asked["local_ip"]),
        peer_ip=_ipv4(asked["peer_ip"]),
        vips=tuple(vip for vip in map(_vip, asked["vips"]) if vip),
        vrid=asked["vrid"],
        listen_seconds=asked["listen_seconds"],
        listen_unchanged=asked["listen_unchanged"],
        sync_paths=tuple(path.rstrip("/") or "/" for path in asked["sync_paths"]),
        sync_excludes=tuple(asked["sync_excludes"]),
        units=_services.units(asked["services"]),
        programs=_services.programs(asked["services"]),
        controller_time=asked["controller_time"],
    )
    node = _observe.Node(_commands.run, _commands.read)
    module.exit_json(changed=False, observation=_records.plain(_observe.observe(node, question)))


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return ""


def _vip(raw: t.Any) -> t.Optional[t.Tuple[str, str]]:
    text = raw.get("address") if isinstance(raw, dict) else raw
    interface = raw.get("interface") if isinstance(raw, dict) else ""
    try:
        return str(ipaddress.ip_interface(str(text)).ip), str(interface or "")
    except ValueError:
        return None


if __name__ == "__main__":
    main()
