# SPDX-License-Identifier: GPL-3.0-or-later
# A node of the pair, as the tests see it: what is asked of it, is asked in one command and once.
from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from testinfra.host import Host


@dataclass(frozen=True)
class Node:
    """One node of the pair."""

    name: str
    host: Host = field(repr=False)
    variables: Mapping[str, Any] = field(repr=False)

    @property
    def ip(self) -> str:
        """Its address on the cluster link."""
        return str(self.variables["zcluster_ip"])

    @property
    def vips(self) -> list[str]:
        """The virtual addresses of its cluster, as they stand in the inventory."""
        return [str(vip) for vip in self.variables["zcluster_vips"]]

    @cached_property
    def status(self) -> dict[str, Any]:
        """What zclustermanager says."""
        said: dict[str, Any] = json.loads(self.host.run("zclustermanager status --json").stdout)
        return said

    @cached_property
    def addresses(self) -> dict[str, str]:
        """Every address it holds, as ADDRESS/PREFIX, and the interface that has it."""
        links = json.loads(self.host.check_output("ip -json address show"))
        return {
            f"{entry['local']}/{entry['prefixlen']}": link["ifname"]
            for link in links
            for entry in link["addr_info"]
        }

    def read(self, *paths: str) -> list[str]:
        """The contents of small files."""
        command = " && ".join(f"cat {shlex.quote(path)} && printf '\\0'" for path in paths)
        return [text.strip() for text in self.host.check_output(command).split("\0")[:-1]]
