# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Network interfaces and their addresses: which are real, which are virtual, and why."""

from __future__ import annotations

import enum
import ipaddress
import re
import typing as t
from dataclasses import dataclass

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Kind(enum.Enum):
    """What an interface is."""

    NIC = "nic"
    BOND = "bond"
    VLAN = "vlan"
    LOOPBACK = "loopback"
    BRIDGE = "bridge"
    VETH = "veth"
    OTHER = "other"


REAL_KINDS = (Kind.NIC, Kind.BOND, Kind.VLAN)

# ip-link(8): the kernel's name of a link kind -> ours. No name and an Ethernet address: hardware.
KINDS = {
    "bond": Kind.BOND,
    "team": Kind.BOND,
    "vlan": Kind.VLAN,
    "bridge": Kind.BRIDGE,
    "veth": Kind.VETH,
}
# In a container these have their other half outside, and are what a NIC is elsewhere.
CONTAINER_KINDS = ("veth", "macvlan", "ipvlan")


@dataclass(frozen=True)
class Address:
    """One address; `virtual` says why a cluster cannot be built on it, or is empty."""

    address: str
    prefix: int
    family: int
    scope: str = "global"
    label: str = ""
    flags: t.Tuple[str, ...] = ()
    virtual: str = ""

    @property
    def network(self) -> Network:
        """The subnet the address is in."""
        return ipaddress.ip_interface(f"{self.address}/{self.prefix}").network


@dataclass(frozen=True)
class Interface:
    """One interface; `virtual` says why it is not a real one, or is empty."""

    name: str
    index: int
    kind: Kind
    mac: str
    up: bool
    carrier: bool
    addresses: t.Tuple[Address, ...] = ()
    virtual: str = ""

    @property
    def unfit(self) -> str:
        """Why no cluster can be built on this interface now; empty when one can."""
        if self.virtual:
            return self.virtual
        if not self.up:
            return "the interface is down"
        return "" if self.carrier else "the link has no carrier"


def parse(links: object, in_container: bool, vips: t.Collection[str]) -> t.Tuple[Interface, ...]:
    """Interfaces from what `ip -json -details address` says."""
    # ip(8) leaves empty objects in its JSON for links that a filter skipped.
    every = links if isinstance(links, list) else []
    named = [link for link in every if isinstance(link, dict) and "ifname" in link]
    # Not every container says that it is one; what has no hardware at all is.
    contained = in_container or not any(_kind(link, False) is Kind.NIC for link in named)
    return tuple(_interface(link, contained, vips) for link in named)


def natural(name: str) -> t.Tuple[t.Tuple[int, str], ...]:
    """Sorting key: eth2 comes before eth10."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def find(
    interfaces: t.Iterable[Interface], address: str
) -> t.Optional[t.Tuple[Interface, Address]]:
    """The interface that has this address, and how."""
    wanted = ipaddress.ip_address(address)
    for interface in interfaces:
        for candidate in interface.addresses:
            if ipaddress.ip_address(candidate.address) == wanted:
                return interface, candidate
    return None


def fit_address(interface: Interface, network: Network) -> t.Optional[Address]:
    """The node's own first address on this interface in this subnet."""
    for address in interface.addresses:
        if not address.virtual and address.network == network:
            return address
    return None


def fit_networks(interface: Interface) -> t.Tuple[Network, ...]:
    """The subnets in which this interface has an address of the node's own."""
    if interface.virtual:
        return ()
    networks: t.List[Network] = []
    for address in interface.addresses:
        if not address.virtual and address.network not in networks:
            networks.append(address.network)
    return tuple(networks)


def holding(interfaces: t.Iterable[Interface], address: str) -> t.Optional[Interface]:
    """The real interface whose narrowest subnet contains this address."""
    wanted = ipaddress.ip_address(address)
    best: t.Optional[t.Tuple[int, Interface]] = None
    for interface in interfaces:
        for network in fit_networks(interface):
            fits = wanted.version == network.version and wanted in network
            if fits and (best is None or network.prefixlen > best[0]):
                best = (network.prefixlen, interface)
    return best[1] if best else None


def items(interface: Interface) -> t.Tuple[t.Dict[str, t.Any], ...]:
    """One mapping per address, and whether a cluster can be built on it."""
    addresses = interface.addresses or (Address("", 0, 4, virtual="no address"),)
    return tuple(
        {
            "interface": interface.name,
            "address": address.address,
            "prefix": address.prefix,
            "family": address.family,
            "kind": interface.kind.value,
            "mac": interface.mac,
            "up": interface.up and interface.carrier,
            "eligible": not (reason := interface.unfit or address.virtual or _why_no_link(address)),
            "reason": reason,
        }
        for address in addresses
    )


def _why_no_link(address: Address) -> str:
    return "" if address.family == 4 else "an IPv6 address: the nodes talk to each other over IPv4"


def _interface(link: t.Dict[str, t.Any], in_container: bool, vips: t.Collection[str]) -> Interface:
    flags = link.get("flags", [])
    kind = _kind(link, in_container)
    return Interface(
        name=link["ifname"],
        index=int(link.get("ifindex", 0)),
        kind=kind,
        mac=link.get("address", ""),
        up="UP" in flags,
        carrier="LOWER_UP" in flags,
        addresses=tuple(
            _address(info, vips) for info in link.get("addr_info", []) if "local" in info
        ),
        virtual=_why_virtual(link, kind),
    )


def _kind(link: t.Dict[str, t.Any], in_container: bool) -> Kind:
    if "LOOPBACK" in link.get("flags", []):
        return Kind.LOOPBACK
    name = link.get("linkinfo", {}).get("info_kind", "")
    if not name:
        return Kind.NIC if link.get("link_type") == "ether" else Kind.OTHER
    if in_container and name in CONTAINER_KINDS and _other_half_is_outside(link):
        return Kind.NIC
    return KINDS.get(name, Kind.OTHER)


def _other_half_is_outside(link: t.Dict[str, t.Any]) -> bool:
    # A peer in this namespace is named ("link"); one outside is only a number ("link_index").
    return "link" not in link and link.get("link_index") != link.get("ifindex")


def _why_virtual(link: t.Dict[str, t.Any], kind: Kind) -> str:
    info = link.get("linkinfo", {})
    if info.get("info_slave_kind") in ("bond", "bridge", "team"):
        return f"a port of {link.get('master', 'another interface')}"
    if kind in REAL_KINDS:
        return ""
    if kind is Kind.LOOPBACK:
        return "the loopback interface"
    name = info.get("info_kind") or link.get("link_type", "unknown")
    return f"not a real NIC, bond or VLAN but a {name} interface"


def _address(info: t.Dict[str, t.Any], vips: t.Collection[str]) -> Address:
    family = 6 if info.get("family") == "inet6" else 4
    address, prefix = info["local"], int(info.get("prefixlen", 0))
    label = info.get("label", "")
    # iproute2 writes flags as booleans of the object itself.
    flags = tuple(sorted(key for key, value in info.items() if value is True))
    return Address(
        address=address,
        prefix=prefix,
        family=family,
        scope=info.get("scope", ""),
        label=label,
        flags=flags,
        virtual=_why_unfit(address, prefix, family, info.get("scope", ""), label, flags, vips),
    )


def _why_unfit(
    address: str,
    prefix: int,
    family: int,
    scope: str,
    label: str,
    flags: t.Tuple[str, ...],
    vips: t.Collection[str],
) -> str:
    if address in vips:
        return "a virtual IP of a cluster"
    if ":" in label:
        return f"an alias address ({label})"
    if prefix == (32 if family == 4 else 128):
        return f"a single address (/{prefix}), as virtual IPs are"
    if scope != "global":
        return f"an address of scope {scope}"
    for flag in ("temporary", "tentative", "deprecated", "dadfailed"):
        if flag in flags:
            return f"a {flag} address"
    return ""
