# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""The networks two nodes share, and which of them a virtual IP belongs to."""

from __future__ import annotations

import ipaddress
import typing as t
from dataclasses import dataclass

from ansible_collections.zcluster.ha.plugins.module_utils import _interfaces
from ansible_collections.zcluster.ha.plugins.module_utils._settings import Vip

Nodes = t.Mapping[str, t.Sequence[_interfaces.Interface]]


@dataclass(frozen=True)
class Shared:
    """A subnet that both nodes are in, on an interface of the same name."""

    interface: str
    network: _interfaces.Network
    addresses: t.Dict[str, str]

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.network.version

    def __str__(self) -> str:
        return f"{self.network} on {self.interface}"


def shared(nodes: Nodes) -> t.Tuple[Shared, ...]:
    """All subnets the nodes share, in the order of the interfaces' names."""
    by_host = {host: {i.name: i for i in interfaces} for host, interfaces in nodes.items()}
    if not by_host:
        return ()
    first, *rest = by_host.values()
    found: t.List[Shared] = []
    for name in sorted(set(first).intersection(*rest), key=_interfaces.natural):
        for network in _interfaces.fit_networks(first[name]):
            own = {
                host: _interfaces.fit_address(interfaces[name], network)
                for host, interfaces in by_host.items()
                if not interfaces[name].virtual
            }
            addresses = {host: address.address for host, address in own.items() if address}
            if len(addresses) == len(by_host):
                found.append(Shared(name, network, addresses))
    return tuple(found)


def place(vip: Vip, networks: t.Sequence[Shared]) -> t.Optional[Shared]:
    """The shared network a virtual IP is in: the narrowest, on its interface if it names one."""
    address = ipaddress.ip_address(vip.address)
    fitting = [
        network
        for network in networks
        if network.family == address.version
        and address in network.network
        and vip.interface in ("", network.interface)
    ]
    return max(fitting, key=lambda network: network.network.prefixlen) if fitting else None


def rivals(vip: Vip, networks: t.Sequence[Shared]) -> t.Tuple[Shared, ...]:
    """The shared networks of equal right for a virtual IP that names no interface."""
    chosen = place(vip, networks)
    if chosen is None or vip.interface:
        return ()
    same = [network for network in networks if network.network == chosen.network]
    return tuple(same) if len(same) > 1 else ()


def heartbeat(interface: str, networks: t.Sequence[Shared]) -> t.Optional[Shared]:
    """The IPv4 network in which the nodes exchange heartbeats on this interface."""
    for network in networks:
        if network.interface == interface and network.family == 4:
            return network
    return None


def link(ips: t.Mapping[str, str], networks: t.Sequence[Shared]) -> t.Optional[Shared]:
    """The network of the cluster link: the one that has each node's cluster IP."""
    for network in networks:
        in_it = all(
            ipaddress.ip_address(ip) in network.network
            for ip in ips.values()
            if network.family == 4
        )
        if network.family == 4 and ips and in_it:
            return Shared(network.interface, network.network, dict(ips))
    return None
