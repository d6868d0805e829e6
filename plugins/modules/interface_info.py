#!/usr/bin/python
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists the addresses of a node on which a cluster can be built."""

from __future__ import annotations

DOCUMENTATION = r"""
module: interface_info
short_description: Lists the addresses on which a cluster can be built
version_added: 0.1.0
description:
  - Addresses of real NICs, bonds and VLANs that are up.
  - Never virtual ones - alias addresses such as C(eth0:1), virtual IPs, loopback, bridges and
    tunnels that container engines made. A node that is itself a container has veth NICs, which are
    its real ones.
author:
  - zcluster contributors (@zcluster)
requirements:
  - iproute2
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
  all:
    description: Whether to list the others too, each with the reason why it will not do.
    type: bool
    default: false
seealso:
  - module: zcluster.ha.preflight
"""

EXAMPLES = r"""
- name: List the addresses a cluster can be built on
  zcluster.ha.interface_info:
  register: found

- name: List all addresses, and why some will not do
  zcluster.ha.interface_info:
    all: true
  register: found
"""

RETURN = r"""
interfaces:
  description: One item per address.
  returned: success
  type: list
  elements: dict
  contains:
    interface:
      description: Name of the interface.
      type: str
      returned: success
    address:
      description: The address; empty for an interface without any (only with O(all=true)).
      type: str
      returned: success
    prefix:
      description: Length of its prefix.
      type: int
      returned: success
    family:
      description: V(4) or V(6).
      type: int
      returned: success
    kind:
      description: V(nic), V(bond) or V(vlan); with O(all=true) others too.
      type: str
      returned: success
    mac:
      description: MAC address of the interface.
      type: str
      returned: success
    up:
      description: Whether the interface is up and has a carrier.
      type: bool
      returned: success
    speed:
      description: Speed in Mbit/s, if it is known.
      type: int
      returned: success
    eligible:
      description: Whether a cluster can be built on it.
      type: bool
      returned: success
    reason:
      description: Why not; empty when it can.
      type: str
      returned: success
  sample:
    - interface: eth2
      address: 198.18.30.11
      prefix: 24
      family: 4
      kind: nic
      mac: "02:00:00:00:00:01"
      up: true
      speed: 10000
      eligible: true
      reason: ""
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.zcluster.ha.plugins.module_utils import (
    _commands,
    _interfaces,
    _observe,
)


def main() -> None:
    """Read the interfaces, list the fit addresses."""
    module = AnsibleModule(
        argument_spec={"all": {"type": "bool", "default": False}}, supports_check_mode=True
    )
    node = _observe.Node(_commands.run, _commands.read)
    try:
        try:
            cluster = _observe.cluster_file(node.read)
        except ValueError:
            cluster = None  # an unreadable one is preflight's business
        found = _observe.look_at_interfaces(node, cluster)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The interfaces cannot be read: {error}. Is iproute2 installed?")
    items = [
        item for interface in sorted(found, key=_by_name) for item in _interfaces.items(interface)
    ]
    for item in items:
        item["speed"] = _observe.speed(node.read, str(item["interface"]))
    chosen: t.List[t.Dict[str, t.Any]] = [
        item for item in items if module.params["all"] or item["eligible"]
    ]
    module.exit_json(changed=False, interfaces=chosen)


def _by_name(interface: _interfaces.Interface) -> t.Any:
    return _interfaces.natural(interface.name)


if __name__ == "__main__":
    main()
