# SPDX-License-Identifier: GPL-3.0-or-later
"""Who can testify that a network works: third parties on it, configured or known."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import processes
from .settings import Cluster

HAPROXY = Path("/etc/haproxy")
# Probing more of them would say nothing new.
MOST = 8
SERVER = re.compile(
    r"^\s*server\s+\S+\s+(?:ipv[46]@)?\[?([0-9A-Fa-f.:]+?)\]?(?::\d+)?(?:\s|$)", re.MULTILINE
)

Subnets = Mapping[str, tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]]


def choose(
    served: Iterable[str],
    subnets: Subnets,
    configured: Iterable[str],
    gateways: Iterable[tuple[str, str]],
    backends: Iterable[str],
    own: Iterable[str],
) -> dict[str, tuple[str, ...]]:
    """Each served network's witnesses: those that were configured, gateways, known backends.

    `gateways` are (interface, address). The cluster's own addresses are no third parties.
    """
    mine = set(own)
    chosen: dict[str, tuple[str, ...]] = {}
    for interface in served:
        found: list[str] = [a for a in configured if _inside(a, subnets.get(interface, ()))]
        found += [address for name, address in gateways if name == interface]
        found += [a for a in backends if _inside(a, subnets.get(interface, ()))]
        chosen[interface] = tuple(a for a in dict.fromkeys(found) if a not in mine)[:MOST]
    return chosen


def _inside(address: str, subnets: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed.version == net.version and parsed in net for net in subnets)


def subnets(links: list[dict[str, Any]], virtual: Iterable[str]) -> Subnets:
    """The networks each interface is in by its own addresses (`ip -j address`)."""
    cluster = set(virtual)
    return {
        link["ifname"]: tuple(
            ipaddress.ip_network(f"{info['local']}/{info['prefixlen']}", strict=False)
            for info in link.get("addr_info", [])
            if "local" in info and info["local"] not in cluster and info.get("scope") == "global"
        )
        for link in links
        if "ifname" in link
    }


def gateways(routes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(interface, address) of each gateway (`ip -j route`), default routes first."""
    known = [r for r in routes if "gateway" in r and "dev" in r]
    known.sort(key=lambda route: route.get("dst") != "default")
    return [(route["dev"], route["gateway"]) for route in known]


def dnat_targets(ruleset: dict[str, Any]) -> list[str]:
    """Addresses that nftables sends connections to: in dnat statements and the maps they use."""
    objects = ruleset.get("nftables", [])
    found: list[str] = []
    names: set[str] = set()
    for entry in objects:
        for statement in entry.get("rule", {}).get("expr", []):
            if isinstance(statement, dict) and "dnat" in statement:
                for word in _words(statement["dnat"]):
                    names.add(word[1:]) if word.startswith("@") else found.append(word)
    for entry in objects:
        for kind in ("map", "set"):
            named = entry.get(kind)
            if named and named.get("name") in names:
                found += _words(named.get("elem", []))
    return sorted({word for word in found if _is_address(word)})


def servers(text: str) -> list[str]:
    """Addresses of the servers in a configuration of haproxy; names are left out."""
    return sorted({word for word in SERVER.findall(text) if _is_address(word)})


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [word for item in value.values() for word in _words(item)]
    if isinstance(value, list):
        return [word for item in value for word in _words(item)]
    return []


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def _json(*command: str) -> Any:
    outcome = processes.run(command, timeout=10.0)
    try:
        return json.loads(outcome.out or "[]")
    except json.JSONDecodeError:
        return []


def look(cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """The witnesses of this node's served networks, as they are known now."""
    virtual = [*(vip.address for vip in cluster.vips), *(n.lead for n in cluster.networks)]
    own = [*virtual, *(a for network in cluster.networks for a in network.addresses.values())]
    ruleset = _json("nft", "-j", "list", "ruleset")
    backends = dnat_targets(ruleset) if isinstance(ruleset, dict) else []
    for file in sorted(HAPROXY.glob("*.cfg")):
        backends += servers(file.read_text(encoding="utf-8", errors="replace"))
    carrying = {vip.interface for vip in cluster.vips}
    return choose(
        [n.interface for n in cluster.networks if n.kind == "served" or n.interface in carrying],
        subnets(_json("ip", "-j", "address"), virtual),
        cluster.witnesses,
        gateways(_json("ip", "-j", "-4", "route") + _json("ip", "-j", "-6", "route")),
        backends,
        own,
    )
