# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""The plan of a cluster: nodes, networks, virtual IPs; stored as cluster.json."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.zcluster.ha.plugins.module_utils import (
    _interfaces,
    _master_only,
    _networks,
    _records,
    _services,
    _settings,
)
from ansible_collections.zcluster.ha.plugins.module_utils._observation import Observation

# RFC 5798: any VRID will do. 51 first, for 1 and its neighbours are what routers come with.
VRID_ORDER = (*range(51, 256), *range(1, 51))
# Close to the top: the skew time shrinks as the priority grows. 255 is the address owner's.
PRIORITIES = (254, 253)


class PlanError(ValueError):
    """No plan can be made of what was seen; preflight's findings say what to do."""


@dataclass(frozen=True)
class Node:
    """One of the two nodes."""

    hostname: str
    inventory_hostname: str
    ip: str
    interface: str
    priority: int


@dataclass(frozen=True)
class Network:
    """A network with a VRRP instance; the lead address is all that it advertises."""

    interface: str
    vrid: int
    lead: str
    kind: str  # link, served
    addresses: t.Dict[str, str]  # hostname -> address


@dataclass(frozen=True)
class Vip:
    """A virtual IP and the interface it appears on."""

    address: str
    prefix: int
    interface: str


@dataclass(frozen=True)
class Sync:
    """What is synchronized."""

    paths: t.Tuple[str, ...] = ()
    excludes: t.Tuple[str, ...] = ()
    keep: _settings.Keep = _settings.KEEP


@dataclass(frozen=True)
class Plan:
    """All settings of the cluster, the same on both nodes."""

    name: str
    revision: int
    initial_master: str
    failback: str
    profile: str
    check_interval: float
    missed_adverts: int
    realtime_priority: int
    nodes: t.Tuple[Node, ...]
    networks: t.Tuple[Network, ...]
    vips: t.Tuple[Vip, ...]
    witnesses: t.Tuple[str, ...] = ()
    sync: Sync = Sync()
    services: t.Tuple[_services.Service, ...] = ()
    preempt_delay: float = 0.0
    master_only: _master_only.MasterOnly = _master_only.NOTHING
    metrics_dir: str = _settings.METRICS_DIR
    track_interfaces: t.Tuple[str, ...] = ()

    @property
    def vrid(self) -> int:
        """The virtual router id, one for all networks."""
        return self.networks[0].vrid

    @property
    def content(self) -> t.Dict[str, t.Any]:
        """Everything but the revision."""
        return {k: v for k, v in _records.plain(self).items() if k != "revision"}


def existing(observation: Observation) -> t.Optional[Plan]:
    """The plan that is on the node; None when there is none or it cannot be read."""
    if observation.cluster is None:
        return None
    try:
        plan = _records.read(Plan, observation.cluster)
    except _records.RecordError:
        return None
    return plan if plan.networks and plan.nodes else None


def heard_vrids(observations: t.Iterable[Observation], own: t.Collection[int]) -> t.FrozenSet[int]:
    """Virtual router ids of others; the nodes' adverts with their own id are left out."""
    seen = list(observations)
    addresses = {a.address for o in seen for i in o.interfaces for a in i.addresses}
    return frozenset(
        advert.vrid
        for observation in seen
        for advert in observation.adverts
        if not (advert.source in addresses and advert.vrid in own)
    )


def own_vrids(observations: t.Iterable[Observation], name: str) -> t.Tuple[int, ...]:
    """The virtual router ids this cluster already has, by what is on its nodes."""
    plans = [existing(observation) for observation in observations]
    return tuple(sorted({plan.vrid for plan in plans if plan and plan.name == name}))


def free_vrid(taken: t.Collection[int], offset: int = 0) -> t.Optional[int]:
    """The first free virtual router id; the offset keeps clusters made at the same time apart."""
    free = [vrid for vrid in VRID_ORDER if vrid not in taken]
    return free[offset % len(free)] if free else None


def make(observations: t.Mapping[str, Observation], settings: _settings.Settings) -> Plan:
    """The plan for two nodes that preflight has no error about."""
    if len(settings.hosts) != 2 or set(observations) != set(settings.hosts):
        raise PlanError(
            f"a plan needs two nodes that were seen; these were: {sorted(observations)}"
        )
    nodes = {host: observations[host] for host in settings.hosts}
    before = [p for o in nodes.values() if (p := existing(o)) and p.name == settings.name]
    latest = max(before, key=lambda plan: plan.revision, default=None)
    hostnames = {host: o.system.hostname for host, o in nodes.items()}
    networks = _networks.shared({host: o.interfaces for host, o in nodes.items()})
    failback = hostname_of(settings.failback, hostnames)
    # Only the higher priority can preempt.
    preferred = failback if failback in hostnames.values() else hostnames[settings.initial_master]
    vrid = _vrid(nodes, settings)
    link, vips = _link(settings, networks), _vips(settings, networks)
    profile = _settings.PROFILES[settings.profile]
    plan = Plan(
        name=settings.name,
        revision=latest.revision if latest else 1,
        initial_master=hostnames[settings.initial_master],
        failback=failback,
        profile=settings.profile,
        check_interval=settings.check_interval,
        missed_adverts=profile.missed_adverts,
        realtime_priority=profile.realtime_priority,
        nodes=tuple(
            Node(
                hostnames[host],
                host,
                settings.ips[host],
                link.interface,
                PRIORITIES[0 if hostnames[host] == preferred else 1],
            )
            for host in settings.hosts
        ),
        networks=_plan_networks(link, vips, networks, vrid, hostnames, latest),
        vips=vips,
        witnesses=settings.witnesses,
        sync=Sync(settings.sync_paths, settings.sync_excludes, settings.sync_keep),
        services=settings.services,
        preempt_delay=settings.preempt_delay,
        master_only=settings.master_only,
        metrics_dir=settings.metrics_dir,
        track_interfaces=settings.track_interfaces,
    )
    if latest and plan.content != latest.content:
        return _records.read(Plan, {**_records.plain(plan), "revision": latest.revision + 1})
    return plan


def hostname_of(failback: str, hostnames: t.Mapping[str, str]) -> str:
    """`disabled`, or the hostname of the host that was named by hostname or inventory name."""
    if failback == _settings.FAILBACK_DISABLED or failback in hostnames.values():
        return failback
    return hostnames.get(failback, failback)


def _vrid(nodes: t.Mapping[str, Observation], settings: _settings.Settings) -> int:
    own = own_vrids(nodes.values(), settings.name)
    if settings.vrid is not None:
        return settings.vrid
    if own:
        return own[0]
    free = free_vrid(heard_vrids(nodes.values(), own), settings.vrid_offset)
    if free is None:
        raise PlanError("all virtual router ids from 1 to 255 are in use on these networks")
    return free


def _link(settings: _settings.Settings, networks: t.Sequence[_networks.Shared]) -> _networks.Shared:
    link = _networks.link(settings.ips, networks)
    if link is None:
        raise PlanError(f"no network of both nodes contains the cluster IPs {settings.ips}")
    return link


def _vips(
    settings: _settings.Settings, networks: t.Sequence[_networks.Shared]
) -> t.Tuple[Vip, ...]:
    placed: t.List[Vip] = []
    for vip in settings.vips:
        network = _networks.place(vip, networks)
        if network is None:
            raise PlanError(f"no network of both nodes contains the virtual IP {vip}")
        placed.append(Vip(vip.address, vip.prefix, network.interface))
    return tuple(placed)


def _plan_networks(
    link: _networks.Shared,
    vips: t.Sequence[Vip],
    networks: t.Sequence[_networks.Shared],
    vrid: int,
    hostnames: t.Mapping[str, str],
    latest: t.Optional[Plan],
) -> t.Tuple[Network, ...]:
    served = sorted({v.interface for v in vips} - {link.interface}, key=_interfaces.natural)
    numbers = _lead_numbers((link.interface, *served), latest)
    planned: t.List[Network] = []
    for interface in (link.interface, *served):
        heartbeat = link if interface == link.interface else None
        heartbeat = heartbeat or _networks.heartbeat(interface, networks)
        if heartbeat is None:
            raise PlanError(f"the nodes share no IPv4 network on {interface}")
        planned.append(
            Network(
                interface=interface,
                vrid=vrid,
                lead=f"169.254.{vrid}.{numbers[interface]}",
                kind="link" if interface == link.interface else "served",
                addresses={hostnames[host]: heartbeat.addresses[host] for host in hostnames},
            )
        )
    return tuple(planned)


def _lead_numbers(interfaces: t.Sequence[str], latest: t.Optional[Plan]) -> t.Dict[str, int]:
    """A network keeps its lead address as others come and go: a new one would split the pair."""
    kept = {
        network.interface: int(number)
        for network in (latest.networks if latest else ())
        if network.interface in interfaces and (number := network.lead.rpartition(".")[2]).isdigit()
    }
    free = (number for number in range(1, 255) if number not in kept.values())
    return {name: kept[name] if name in kept else next(free) for name in interfaces}
