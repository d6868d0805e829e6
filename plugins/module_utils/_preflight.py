# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Preflight: the table of checks, and all findings of a cluster at once."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.zcluster.ha.plugins.module_utils import (
    _checks_content,
    _checks_machine,
    _checks_network,
)
from ansible_collections.zcluster.ha.plugins.module_utils._findings import Finding, Severity
from ansible_collections.zcluster.ha.plugins.module_utils._settings import Declared
from ansible_collections.zcluster.ha.plugins.module_utils._view import View, view

Check = t.Callable[[View], t.Iterator[Finding]]


def declared(seen: View) -> t.Iterator[Finding]:
    """The settings are sound."""
    yield from seen.mistakes


# Name -> check. The name is stable: reports and tests refer to it.
CHECKS: t.Dict[str, Check] = {
    "settings": declared,
    "reachable": _checks_machine.reachable,
    "root": _checks_machine.root,
    "operating_system": _checks_machine.operating_system,
    "versions": _checks_machine.versions,
    "hostnames": _checks_machine.hostnames,
    "membership": _checks_machine.membership,
    "other_software": _checks_machine.other_software,
    "cluster_ip": _checks_network.cluster_ip,
    "cluster_link": _checks_network.cluster_link,
    "reachability": _checks_network.reachability,
    "vip_networks": _checks_network.vip_networks,
    "vip_free": _checks_network.vip_free,
    "master_only": _checks_network.master_only,
    "track_interfaces": _checks_network.track_interfaces,
    "vrid": _checks_network.vrid,
    "witnesses": _checks_network.witnesses,
    "firewall": _checks_network.firewall,
    "sshd": _checks_machine.sshd,
    "failback": _checks_machine.failback,
    "clocks": _checks_machine.clocks,
    "disks": _checks_machine.disks,
    "inotify": _checks_machine.inotify,
    "realtime": _checks_machine.realtime,
    "services": _checks_machine.services,
    "sync_paths": _checks_content.sync_paths,
    "owners": _checks_content.owners,
    "replaced": _checks_content.replaced,
    "complete": _checks_machine.complete,
}


def findings(probes: t.Mapping[str, object], settings: Declared) -> t.Tuple[Finding, ...]:
    """All findings: errors first, each group in the order of the table."""
    return judge(view(probes, settings))


def judge(seen: View) -> t.Tuple[Finding, ...]:
    """All findings about what was seen."""
    found = [
        dataclasses.replace(finding, check=name)
        for name, check in CHECKS.items()
        for finding in check(seen)
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity is not Severity.ERROR))
