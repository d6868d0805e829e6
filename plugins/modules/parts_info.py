#!/usr/bin/python
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says which parts of a cluster are on a node already: one round trip for what would be many."""

from __future__ import annotations

DOCUMENTATION = r"""
module: parts_info
short_description: Which packages, units, files and addresses are on a node already
version_added: 0.1.0
description:
  - Of everything it is asked for it returns what is there, so that a run can leave out the steps
    that would find nothing to do.
  - What it does not name may still be there in another way (an alias, a generated unit); the step
    that sees to it then looks by itself.
options:
  packages:
    description: Debian packages.
    type: list
    elements: str
    default: []
  units:
    description: systemd units, with their suffix.
    type: list
    elements: str
    default: []
  paths:
    description: Files, directories or links.
    type: list
    elements: str
    default: []
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
- name: See what is there
  zcluster.ha.parts_info:
    packages: [keepalived, rsync]
    units: [keepalived.service]
    paths: [/etc/zcluster]
  register: seen

- name: Install what is missing
  ansible.builtin.apt:
    name: "{{ ['keepalived', 'rsync'] | difference(seen.packages) }}"
  when: "['keepalived', 'rsync'] | difference(seen.packages) | length > 0"
"""

RETURN = r"""
packages:
  description: Those of O(packages) that are installed.
  returned: success
  type: list
  elements: str
active:
  description: Those of O(units) that are active.
  returned: success
  type: list
  elements: str
enabled:
  description: Those of O(units) that are enabled.
  returned: success
  type: list
  elements: str
paths:
  description: Those of O(paths) that exist.
  returned: success
  type: list
  elements: str
addresses:
  description: All IP addresses of the node, without prefix.
  returned: success
  type: list
  elements: str
  sample: [198.18.30.11, 198.18.10.100]
"""

import json
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.zcluster.ha.plugins.module_utils import _commands

PACKAGE_FORM = "${Package} ${db:Status-Status}\n"
UNIT_PROPERTIES = "--property=ActiveState,UnitFileState"


def installed(said: str) -> t.List[str]:
    """The packages that dpkg-query calls installed (not just known, or removed)."""
    rows = (line.split() for line in said.splitlines())
    return [row[0] for row in rows if row[1:] == ["installed"]]


def units_that(wanted: t.Sequence[str], said: str, prop: str, value: str) -> t.List[str]:
    """The units of which systemctl show says ``prop=value``: a paragraph each, in their order."""
    paragraphs = said.strip("\n").split("\n\n")
    if len(paragraphs) != len(wanted):
        return []  # an answer to another question: then nothing is known
    line = "%s=%s" % (prop, value)
    return [unit for n, unit in enumerate(wanted) if line in paragraphs[n].splitlines()]


def addresses(said: str) -> t.List[str]:
    """The addresses in what ``ip -json address`` says."""
    return [
        i["local"] for link in json.loads(said) for i in link.get("addr_info", ()) if "local" in i
    ]


def main() -> None:
    """Look, tell."""
    lists = ("packages", "units", "paths")
    module = AnsibleModule(
        argument_spec={name: {"type": "list", "elements": "str", "default": []} for name in lists},
        supports_check_mode=True,
    )
    packages, units, paths = (module.params[name] for name in lists)
    _rc, known, _err = (
        _commands.run(["dpkg-query", "--show", "--showformat=" + PACKAGE_FORM, *packages])
        if packages
        else (0, "", "")
    )
    _rc, shown, _err = (
        _commands.run(["systemctl", "show", UNIT_PROPERTIES, "--", *units])
        if units
        else (0, "", "")
    )
    code, listed, error = _commands.run(["ip", "-json", "address"])
    if code != 0:
        module.fail_json(msg="The addresses cannot be read: %s" % error.strip())
    module.exit_json(
        changed=False,
        packages=installed(known),
        active=units_that(units, shown, "ActiveState", "active"),
        enabled=units_that(units, shown, "UnitFileState", "enabled"),
        paths=[path for path in paths if os.path.lexists(path)],
        addresses=addresses(listed),
    )


if __name__ == "__main__":
    main()
