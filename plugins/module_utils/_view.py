# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""What preflight knows when it judges: settings, nodes that were seen, nodes that were not."""

from __future__ import annotations

import enum
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.zcluster.ha.plugins.module_utils import (
    _networks,
    _plan,
    _records,
    _settings,
)
from ansible_collections.zcluster.ha.plugins.module_utils._findings import Finding
from ansible_collections.zcluster.ha.plugins.module_utils._observation import Observation


class Obstacle(enum.Enum):
    """Why a node could not be looked at."""

    LEFT_OUT = "left out"
    NAME = "name"
    NETWORK = "network"
    HOST_KEY = "host key"
    LOGIN = "login"
    ROOT = "root"
    PYTHON = "python"
    OTHER = "other"


# What ssh, become and Ansible say (in lower case) -> the obstacle it stands for; first match wins.
OBSTACLES: t.Tuple[t.Tuple[str, Obstacle], ...] = (
    (r"could not resolve|name or service not known|temporary failure in name", Obstacle.NAME),
    (r"host key verification failed|host identification has changed|host key .*not known"
     r"|authenticity of host|fingerprint|host key checking", Obstacle.HOST_KEY),
    (r"permission denied \(|invalid/incorrect password|too many authentication failures"
     r"|authentication failed|authentication or permission failure", Obstacle.LOGIN),
    (r"missing sudo password|incorrect sudo password|a password is required|sudoers|not allowed to"
     r"|privilege|incorrect su password|become", Obstacle.ROOT),
    (r"interpreter|python: not found|python3?: (command )?not found|no such file.*python"
     r"|ansible requires.*python|syntaxerror", Obstacle.PYTHON),
    (r"timed out|connection refused|no route to host|unreachable|connection closed|connection reset"
     r"|failed to connect|banner exchange", Obstacle.NETWORK),
)  # fmt: skip


@dataclass(frozen=True)
class Unseen:
    """A node that gave no observation, and the words it was refused with."""

    obstacle: Obstacle
    words: str = ""


@dataclass(frozen=True)
class View:
    """All that the checks may use; hosts are named as in the inventory."""

    settings: _settings.Settings
    seen: t.Dict[str, Observation]
    unseen: t.Dict[str, Unseen]
    mistakes: t.Tuple[Finding, ...] = ()

    @property
    def pair(self) -> t.Optional[t.Tuple[str, str]]:
        """(future master, future backup) when both were seen; who serves is never the backup."""
        master, backup = self.settings.initial_master, self.settings.backup
        if not {master, backup} <= set(self.seen):
            return None
        if self.is_member(backup) and self.serves(backup) and not self.is_member(master):
            return backup, master
        return master, backup

    @property
    def networks(self) -> t.Tuple[_networks.Shared, ...]:
        """The networks both nodes share; none unless both were seen."""
        if not self.pair:
            return ()
        return _networks.shared({host: self.seen[host].interfaces for host in self.settings.hosts})

    @property
    def exists(self) -> bool:
        """Whether a node is already a member of this very cluster."""
        return any(self.is_member(host) for host in self.seen)

    def is_member(self, host: str) -> bool:
        """Whether this node has settings of a cluster of this name."""
        cluster = self.seen[host].cluster
        return cluster is not None and cluster.get("name") == self.settings.name

    def serves(self, host: str) -> bool:
        """Whether this node holds one of the virtual IPs."""
        return any(answer.on_interface for answer in self.seen[host].addresses)

    def other(self, host: str) -> str:
        """The other host of the cluster; empty unless there are two."""
        rest = [other for other in self.settings.hosts if other != host]
        return rest[0] if len(rest) == 1 else ""

    def macs(self) -> t.Dict[str, str]:
        """MAC -> host, for all interfaces that were seen."""
        return {
            interface.mac.lower(): host
            for host, observation in self.seen.items()
            for interface in observation.interfaces
            if interface.mac
        }

    def own_vrids(self) -> t.Tuple[int, ...]:
        """The virtual router ids this cluster already has."""
        return _plan.own_vrids(self.seen.values(), self.settings.name)


def view(probes: t.Mapping[str, object], declared: _settings.Declared) -> View:
    """Build the view from the probes' results (host -> result or observation) and the settings."""
    settings, mistakes = _settings.parse(declared)
    seen: t.Dict[str, Observation] = {}
    unseen: t.Dict[str, Unseen] = {}
    for host in settings.hosts:
        looked = look(probes.get(host), str(declared[host].get("address") or host))
        if isinstance(looked, Observation):
            seen[host] = looked
        else:
            unseen[host] = looked
    return View(settings, seen, unseen, mistakes)


def look(probe: object, address: str = "") -> t.Union[Observation, Unseen]:
    """The observation in a task's result, or why there is none."""
    if not isinstance(probe, dict) or not probe:
        return Unseen(Obstacle.LEFT_OUT)
    if "observation" in probe and not probe.get("failed") and not probe.get("unreachable"):
        return _records.read(Observation, probe["observation"], "observation")
    if "system" in probe:
        return _records.read(Observation, probe, "observation")
    words = " ".join(
        str(probe[key]).strip()
        for key in ("msg", "module_stderr", "module_stdout")
        if probe.get(key)
    )
    # What ssh calls a host that it reaches through a program (ProxyCommand).
    words = words.replace("UNKNOWN port 65535", address)
    return Unseen(obstacle(words), _first_words(words))


def obstacle(words: str) -> Obstacle:
    """Which obstacle these words of ssh, become or Ansible stand for."""
    for pattern, stands_for in OBSTACLES:
        if re.search(pattern, words.lower()):
            return stands_for
    return Obstacle.OTHER


def _first_words(text: str, limit: int = 300) -> str:
    line = " ".join(text.split()).replace("Task failed: ", "")
    return line if len(line) <= limit else line[: limit - 3] + "..."
