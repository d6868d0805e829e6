# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Preflight checks of the network: cluster IPs, virtual IPs, the VRID, firewalls."""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.zcluster.ha.plugins.module_utils import (
    _interfaces,
    _networks,
    _plan,
    _ruleset,
    _settings,
)
from ansible_collections.zcluster.ha.plugins.module_utils._findings import Finding, error, warning
from ansible_collections.zcluster.ha.plugins.module_utils._view import View

VRRP, TCP, UDP = _ruleset.VRRP, _ruleset.TCP, _ruleset.UDP


def cluster_ip(view: View) -> t.Iterator[Finding]:
    """Each cluster IP is really on its node, as a real address of a real interface that is up."""
    for host, node in view.seen.items():
        ip = view.settings.ips.get(host)
        if ip is None or "interfaces" in node.errors:
            continue
        found = _interfaces.find(node.interfaces, ip)
        if found is None:
            yield error(
                host,
                "zcluster_ip",
                ip,
                "No interface of this node has this address.",
                f"Set zcluster_ip to one of its own: {_own_addresses(node.interfaces)}.",
            )
            continue
        interface, address = found
        where = f"{ip} on {interface.name}"
        if interface.virtual or address.virtual:
            yield error(
                host,
                "zcluster_ip",
                where,
                "A cluster cannot be built on a virtual address: this is "
                f"{address.virtual or interface.virtual}.",
                f"Set zcluster_ip to a real one: {_own_addresses(node.interfaces)}.",
            )
        elif interface.unfit:
            yield error(
                host,
                "zcluster_ip",
                where,
                f"The link of the cluster IP is not up: {interface.unfit}.",
                f"Connect {interface.name} and bring it up (ip link set {interface.name} up).",
            )


def cluster_link(view: View) -> t.Iterator[Finding]:
    """Interfaces of one name, one subnet, and each node answers the other."""
    ends = _ends(view)
    if ends is None:
        return
    one, two = view.settings.hosts
    (first, mine), (second, yours) = ends[one], ends[two]
    shown = f"{one}: {mine.address}/{mine.prefix} on {first.name}, " + (
        f"{two}: {yours.address}/{yours.prefix} on {second.name}"
    )
    if first.name != second.name:
        yield error(
            view.settings.all_hosts,
            "zcluster_ip",
            shown,
            "The cluster IPs are on interfaces of different names.",
            "Use an interface that has the same name on both nodes; systemd.link(5) renames one.",
        )
    if mine.network != yours.network:
        yield error(
            view.settings.all_hosts,
            "zcluster_ip",
            shown,
            "The cluster IPs are not in one subnet.",
            "Use addresses of one subnet, with the same prefix length on both nodes.",
        )


def reachability(view: View) -> t.Iterator[Finding]:
    """Each node reaches the other's cluster IP, and nobody else has it."""
    ends = _ends(view)
    if ends is None:
        return
    macs = view.macs()
    for host in ends:
        other, peer = view.other(host), view.seen[host].peer
        if peer is None or "peer" in view.seen[host].errors:
            continue
        strangers = [mac for mac in peer.answered_by if macs.get(mac) != other]
        if strangers:
            yield error(
                host,
                "zcluster_ip",
                f"{peer.ip} is answered by {', '.join(strangers)}",
                f"Another machine than {other} answers for the cluster IP of {other}.",
                "Find the machine with this MAC address and give it another address.",
            )
        elif not peer.ping and peer.answered_by:
            yield warning(
                host,
                "zcluster_ip",
                f"{peer.ip} answers ARP but no ping",
                f"{other} is there, but its answer to a ping does not come back: a firewall is in "
                "the way.",
                "Check that it lets VRRP (IP protocol 112), conntrackd (UDP 3780) and SSH through.",
            )
        elif not peer.ping:
            yield error(
                host,
                "zcluster_ip",
                f"no answer from {peer.ip}",
                f"{host} does not reach {other} over the cluster link.",
                "Check the cable, the switch and the VLAN between the two interfaces.",
            )


def vip_networks(view: View) -> t.Iterator[Finding]:
    """Each virtual IP is in a subnet of a real interface that both nodes have."""
    if view.pair is None:
        return
    networks = view.networks
    known = ", ".join(str(network) for network in networks) or "none"
    for vip in view.settings.vips:
        if _owner(view, vip.address):
            continue
        network = _networks.place(vip, networks)
        if network is None:
            on = f" on {vip.interface}" if vip.interface else ""
            yield error(
                view.settings.all_hosts,
                "zcluster_vips",
                f"{vip}{on}",
                f"The virtual IP is in no subnet{on} that both nodes are in with an address of "
                f"their own and under the same interface name. Such networks: {known}.",
                "Choose an address of one of these networks, or give both nodes an address there.",
            )
            continue
        if rivals := _networks.rivals(vip, networks):
            yield error(
                view.settings.all_hosts,
                "zcluster_vips",
                vip,
                "More than one interface is in this subnet: "
                f"{', '.join(rival.interface for rival in rivals)}.",
                "Name the interface: {address: "
                + f"{vip}, interface: {rivals[0].interface}"
                + "}.",
            )
        if _networks.heartbeat(network.interface, networks) is None:
            yield error(
                view.settings.all_hosts,
                "zcluster_vips",
                f"{vip} on {network.interface}",
                "The nodes have no IPv4 addresses in one subnet on this interface; the heartbeat "
                "runs over IPv4.",
                f"Give both nodes an IPv4 address on {network.interface}.",
            )
        yield from _in_subnet(view, vip, network)


def vip_free(view: View) -> t.Iterator[Finding]:
    """A virtual IP is no node's own address, and nobody answers for it but this cluster."""
    macs = view.macs()
    for vip in view.settings.vips:
        owner = _owner(view, vip.address)
        if owner:
            yield error(
                owner,
                "zcluster_vips",
                vip,
                f"This is an address of {owner} itself, which it needs to be reached by.",
                "Choose a free address, beside the nodes' own.",
            )
            continue
        if view.pair is None:
            continue
        heard: t.Dict[str, t.List[str]] = {}
        for host, node in view.seen.items():
            for answer in node.addresses:
                strangers = [mac for mac in answer.answered_by if mac not in macs]
                if answer.address == vip.address and strangers:
                    found = f"{vip} is answered by {', '.join(strangers)} on {answer.asked_on}"
                    heard.setdefault(found, []).append(host)
        for found, hosts in heard.items():
            yield error(
                " and ".join(hosts),
                "zcluster_vips",
                found,
                "Another machine has this address.",
                "Choose a free address, or take it away from the machine with this MAC.",
            )
        yield from _where_it_is(view, vip)


def vrid(view: View) -> t.Iterator[Finding]:
    """The virtual router id is used by nobody else on these networks."""
    own = view.own_vrids()
    heard = _plan.heard_vrids(view.seen.values(), own)
    wanted = view.settings.vrid if view.settings.vrid is not None else next(iter(own), None)
    free = _plan.free_vrid(heard, view.settings.vrid_offset)
    if free is None:
        yield error(
            view.settings.all_hosts,
            "zcluster_vrid",
            "all in use",
            "All virtual router ids from 1 to 255 were heard on these networks.",
            "Use other networks, or retire unused VRRP routers.",
        )
    if wanted is None or wanted not in heard:
        return
    addresses = {a.address for o in view.seen.values() for i in o.interfaces for a in i.addresses}
    others: t.Dict[str, t.List[str]] = {}
    for host, node in view.seen.items():
        for advert in node.adverts:
            if advert.vrid == wanted and not (advert.source in addresses and wanted in own):
                source = f"{advert.source} on {advert.interface}"
                router = f"{source} (VRRPv{advert.version}, priority {advert.priority})"
                others.setdefault(router, []).append(host)
    for router, hosts in others.items():
        yield error(
            " and ".join(hosts),
            "zcluster_vrid",
            f"{wanted} from {router}",
            f"The virtual router id {wanted} is in use by another cluster on this network.",
            f"Set zcluster_vrid to a free one, for example {free}"
            + (", or leave it out: a free one is picked." if not own else "."),
        )


def master_only(view: View) -> t.Iterator[Finding]:
    """The interfaces that routes and addresses of the master name are on both nodes."""
    for host, node in view.seen.items():
        names = {"lo", *(interface.name for interface in node.interfaces)}
        only = view.settings.master_only
        for entry in only.entries:
            field = (
                "zcluster_master_routes" if entry in only.routes else "zcluster_master_addresses"
            )
            if entry.interface and entry.interface not in names and "interfaces" not in node.errors:
                yield error(
                    host,
                    field,
                    entry.words,
                    f"This node has no interface {entry.interface}.",
                    "Name one that both nodes have.",
                )


def track_interfaces(view: View) -> t.Iterator[Finding]:
    """A tracked interface is on both nodes, and has a carrier, lest its node leave service."""
    field = "zcluster_track_interfaces"
    link = _networks.link(view.settings.ips, view.networks)
    served = {s.interface for v in view.settings.vips if (s := _networks.place(v, view.networks))}
    for name in view.settings.track_interfaces:
        if link and name == link.interface and name not in served:
            yield error(
                view.settings.all_hosts,
                field,
                name,
                "This is the cluster link: its death would take both nodes out of service.",
                "Leave it out: whether the nodes hear each other is known without it.",
            )
            continue
        for host, node in view.seen.items():
            if "interfaces" in node.errors:
                continue
            allowed = {
                i.name: i for i in node.interfaces if i.kind is not _interfaces.Kind.LOOPBACK
            }
            before = _plan.existing(node)
            if name not in allowed:
                yield error(
                    host,
                    field,
                    name,
                    "This node has no such interface.",
                    f"Name one that both nodes have; here: {', '.join(allowed) or 'none'}.",
                )
            elif not allowed[name].carrier and not (before and name in before.track_interfaces):
                yield error(
                    host,
                    field,
                    name,
                    "This interface has no carrier: the node would be out of service at once.",
                    f"Connect {name} and bring it up (ip link set {name} up) first.",
                )


def firewall(view: View) -> t.Iterator[Finding]:
    """The user's ruleset lets the nodes talk: VRRP, conntrackd, SSH, both ways."""
    for host, node in view.seen.items():
        other = view.other(host)
        if not other or view.pair is None or set(view.settings.ips) != set(view.pair):
            continue
        judged: t.Dict[t.Tuple[_ruleset.Answer, str], t.List[str]] = {}
        ways: t.Dict[t.Tuple[_ruleset.Answer, str], t.List[str]] = {}
        for name, packet in _flows(view, host, other):
            verdict = _ruleset.judge(node.firewall.objects, packet)
            key = (verdict.answer, verdict.chain)
            if name not in judged.setdefault(key, []):
                judged[key].append(name)
            ways.setdefault(key, []).append(_accepting(packet))
        for (answer, chain), names in judged.items():
            what = ", ".join(names)
            rules = "; ".join(ways[(answer, chain)])
            if answer is _ruleset.Answer.DROPPED:
                yield error(
                    host,
                    f"nftables chain {chain}",
                    f"drops {what}",
                    f"The ruleset of this node drops what the nodes tell each other: {what}.",
                    f"Admit the peer before that, for example: {rules}",
                )
            elif answer is _ruleset.Answer.UNKNOWN:
                yield warning(
                    host,
                    f"nftables chain {chain}",
                    f"cannot tell about {what}",
                    f"The ruleset is too intricate to tell whether it admits the peer: {what}.",
                    f"Make sure that it does, for example: {rules}",
                )
        link = _networks.link(view.settings.ips, view.networks)
        reports = [] if link is None else _ruleset.reports(_wire(link, host, other))
        dropped = [
            _accepting(packet)
            for packet in reports
            if _ruleset.judge(node.firewall.objects, packet).answer is _ruleset.Answer.DROPPED
        ]
        if dropped and not any(a is _ruleset.Answer.DROPPED for a, _chain in judged):
            yield warning(
                host,
                "nftables",
                f"drops reports (UDP {_ruleset.REPORTS_PORT})",
                "The ruleset of this node drops what the nodes report to each other about their "
                "links: a link that is dead while its carrier is up would move nothing.",
                f"Admit the peer, for example: {'; '.join(dropped)}",
            )
        if any(_may_drop(line) for line in node.firewall.legacy):
            yield warning(
                host,
                "iptables-legacy",
                "; ".join(line for line in node.firewall.legacy if _may_drop(line))[:200],
                "Old iptables rules are loaded beside nftables; whether they admit the peer was "
                "not judged.",
                "Make sure that they accept VRRP (IP protocol 112), UDP 3780 and SSH from the "
                "peer, or move them to nftables.",
            )


def witnesses(view: View) -> t.Iterator[Finding]:
    """Each served network has a third party that shows whether a link works."""
    if view.pair is None:
        return
    networks = view.networks
    near = [
        address.network
        for node in view.seen.values()
        for interface in node.interfaces
        for address in interface.addresses
    ]
    for witness in view.settings.witnesses:
        if not any(ipaddress.ip_address(witness) in network for network in near):
            yield error(
                view.settings.all_hosts,
                "zcluster_witnesses",
                witness,
                "This witness is in no network of both nodes: they could not ask it directly.",
                "Name machines of the networks that the virtual IPs are in.",
            )
    known = {*view.settings.witnesses, *(g for n in view.seen.values() for g in n.gateways)}
    placed = [_networks.place(vip, networks) for vip in view.settings.vips]
    for interface in dict.fromkeys(shared.interface for shared in placed if shared):
        subnets = [shared.network for shared in networks if shared.interface == interface]
        if not any(ipaddress.ip_address(address) in net for address in known for net in subnets):
            yield warning(
                view.settings.all_hosts,
                "zcluster_witnesses",
                f"none on {interface}",
                f"No gateway and no configured witness is on {interface}: whether its link is dead "
                "while its carrier is up can then be seen only by backends that the rules of "
                "nftables or haproxy name.",
                "Set zcluster_witnesses to machines of that network, such as a router.",
            )


def _ends(
    view: View,
) -> t.Optional[t.Dict[str, t.Tuple[_interfaces.Interface, _interfaces.Address]]]:
    """Interface and address of both cluster IPs, when both are there."""
    if view.pair is None:
        return None
    ends: t.Dict[str, t.Tuple[_interfaces.Interface, _interfaces.Address]] = {}
    for host in view.settings.hosts:
        ip = view.settings.ips.get(host)
        found = _interfaces.find(view.seen[host].interfaces, ip) if ip else None
        if found is None:
            return None
        ends[host] = found
    return ends


def _own_addresses(interfaces: t.Iterable[_interfaces.Interface]) -> str:
    fit = [
        f"{address.address} ({interface.name})"
        for interface in interfaces
        for address in interface.addresses
        if address.family == 4 and not (interface.unfit or address.virtual)
    ]
    return ", ".join(fit) or "it has none yet"


def _owner(view: View, address: str) -> str:
    """The host whose own address this is: its cluster IP, or the only or first of a subnet."""
    for host, ip in view.settings.ips.items():
        if ip == address:
            return host
    for host, node in view.seen.items():
        found = _interfaces.find(node.interfaces, address)
        # In the cluster already: a virtual IP that is up, not the node's own.
        if found is None or _vip_of_cluster(view, host, address):
            continue
        interface, there = found
        first = there.family == 4 and there.prefix < 32 and "secondary" not in there.flags
        alone = _interfaces.fit_address(interface, there.network) is None and there.prefix < (
            32 if there.family == 4 else 128
        )
        if first or alone:
            return host
    return ""


def _vip_of_cluster(view: View, host: str, address: str) -> bool:
    cluster = view.seen[host].cluster or {}
    return address in {vip.get("address") for vip in cluster.get("vips", [])}


def _in_subnet(view: View, vip: _settings.Vip, network: _networks.Shared) -> t.Iterator[Finding]:
    address = ipaddress.ip_address(vip.address)
    subnet = network.network
    length = subnet.max_prefixlen
    special = ""
    if subnet.prefixlen < length - 1:
        if address == subnet.network_address:
            special = "network" if vip.family == 4 else "subnet-router anycast"
        elif vip.family == 4 and address == subnet.broadcast_address:
            special = "broadcast"
    if special:
        yield error(
            view.settings.all_hosts,
            "zcluster_vips",
            vip,
            f"This is the {special} address of {network}.",
            "Choose an ordinary address of this network.",
        )
    if vip.prefix not in (subnet.prefixlen, length):
        yield warning(
            view.settings.all_hosts,
            "zcluster_vips",
            vip,
            f"The prefix of the virtual IP is not that of its network, {network}: the master would "
            "get a second, different route.",
            f"Write it as {vip.address}/{subnet.prefixlen}.",
        )


def _where_it_is(view: View, vip: _settings.Vip) -> t.Iterator[Finding]:
    """A virtual IP that is up already: adopted on the future master, in the way elsewhere."""
    if view.pair is None or view.exists:
        return
    master, backup = view.pair
    up = {
        host: answer.on_interface
        for host in view.pair
        for answer in view.seen[host].addresses
        if answer.address == vip.address and answer.on_interface
    }
    if backup in up and master in up:
        yield error(
            view.settings.all_hosts,
            "zcluster_vips",
            vip,
            "Both nodes have this address already, and both answer for it.",
            f"Remove it from {backup}: ip address del {vip} dev {up[backup]}, and from its network "
            "configuration.",
        )
    elif backup in up:
        yield error(
            backup,
            "zcluster_vips",
            f"{vip} on {up[backup]}",
            "The future backup has this address; taking it away would be a gap.",
            f"Make it the master (zcluster_initial_master: {backup}): the address is adopted "
            "without a gap. Or remove it there first.",
        )


def _flows(view: View, host: str, other: str) -> t.Iterator[t.Tuple[str, _ruleset.Packet]]:
    """What the nodes say to each other, as first packets seen from this host."""
    link = _networks.link(view.settings.ips, view.networks)
    if link is None:
        return
    heartbeats = {link.interface: link}
    for vip in view.settings.vips:
        network = _networks.place(vip, view.networks)
        beat = _networks.heartbeat(network.interface, view.networks) if network else None
        if beat:
            heartbeats.setdefault(beat.interface, beat)
    ssh = {end: (view.seen[end].sshd.ports or (22,))[0] for end in (host, other)}
    yield from _ruleset.flows(
        [_wire(beat, host, other) for beat in heartbeats.values()],
        _wire(link, host, other),
        ssh_here=ssh[host],
        ssh_there=ssh[other],
    )


def _wire(network: _networks.Shared, host: str, other: str) -> _ruleset.Wire:
    return _ruleset.Wire(network.interface, network.addresses[host], network.addresses[other])


def _accepting(packet: _ruleset.Packet) -> str:
    what = {
        VRRP: "ip protocol vrrp",
        UDP: f"udp dport {packet.port}",
        TCP: f"tcp dport {packet.port}",
    }
    if packet.direction == "in":
        return (
            f'iifname "{packet.interface}" ip saddr {packet.source} {what[packet.protocol]} accept'
        )
    return f'oifname "{packet.interface}" ip daddr {packet.target} {what[packet.protocol]} accept'


def _may_drop(line: str) -> bool:
    words = line.split()
    if words[:1] == ["-P"]:
        return words[-1] != "ACCEPT"
    return words[:1] == ["-A"] and not line.endswith("-j ACCEPT")
