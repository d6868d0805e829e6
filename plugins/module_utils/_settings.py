# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""The cluster as its inventory declares it: parsed once, every mistake named."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.zcluster.ha.plugins.module_utils import (
    _master_only,
    _services,
    _sync_paths,
)
from ansible_collections.zcluster.ha.plugins.module_utils._findings import Finding, error, warning

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
ABSOLUTE = re.compile(r"/[A-Za-z0-9_./-]{1,200}")
CHECK_INTERVAL = (0.01, 40.95)  # VRRPv3 centiseconds, 12 bits (RFC 5798 §5.2.7)
DEFAULT_PROFILE = "standard"
LONGEST_DELAY = 3600
# Where Debian's prometheus-node-exporter looks for text files.
METRICS_DIR = "/var/lib/prometheus/node-exporter"
FAILBACK_DISABLED = "disabled"
# What each host says for itself; everything else is said by both alike.
PER_HOST = ("address", "ip")


@dataclass(frozen=True)
class Profile:
    """How fast a dead master is noticed: seconds between adverts, adverts that may be missed."""

    check_interval: float
    missed_adverts: int
    realtime_priority: int


# A takeover comes after missed_adverts check intervals (RFC 5798 §6.1, Master_Down_Interval).
PROFILES = {
    "standard": Profile(check_interval=0.1, missed_adverts=3, realtime_priority=50),
    "fast": Profile(check_interval=0.02, missed_adverts=3, realtime_priority=50),
    # Nodes apart from each other: six adverts lost in a row on every network, not three.
    "wan": Profile(check_interval=0.5, missed_adverts=6, realtime_priority=50),
}


@dataclass(frozen=True)
class Vip:
    """A virtual IP as it was asked for; without an interface its subnet decides."""

    address: str
    prefix: int
    interface: str = ""

    @property
    def family(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.address).version

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True)
class Keep:
    """How much stays of what synchronization overwrote or removed: so many times, so many bytes."""

    count: int = 200
    bytes: int = 1 << 30


KEEP = Keep()


@dataclass(frozen=True)
class Settings:
    """What was declared, as far as it is sound."""

    name: str
    hosts: t.Tuple[str, ...]
    ips: t.Dict[str, str]
    initial_master: str
    failback: str
    profile: str
    check_interval: float
    vrid: t.Optional[int]
    vips: t.Tuple[Vip, ...]
    sync_paths: t.Tuple[str, ...]
    sync_excludes: t.Tuple[str, ...]
    services: t.Tuple[_services.Service, ...]
    replace_backup: bool
    witnesses: t.Tuple[str, ...] = ()
    master_only: _master_only.MasterOnly = _master_only.NOTHING
    vrid_offset: int = 0
    track_interfaces: t.Tuple[str, ...] = ()
    preempt_delay: float = 0.0
    metrics_dir: str = METRICS_DIR
    sync_keep: Keep = KEEP

    @property
    def all_hosts(self) -> str:
        """The hosts as a finding of the whole cluster names them."""
        return " and ".join(self.hosts)

    @property
    def backup(self) -> str:
        """The host that create makes the backup; empty unless there are two."""
        others = [host for host in self.hosts if host != self.initial_master]
        return others[0] if len(self.hosts) == 2 and others else ""


Declared = t.Mapping[str, t.Mapping[str, t.Any]]


def parse(declared: Declared) -> t.Tuple[Settings, t.Tuple[Finding, ...]]:
    """The settings of all hosts of one cluster (host -> what it says), and the mistakes in them."""
    hosts = tuple(declared)
    reader = _Reader(hosts, declared)
    name = reader.name()
    ips = reader.ips()
    paths = reader.sync_paths()
    profile = reader.profile()
    settings = Settings(
        name=name,
        hosts=hosts,
        ips=ips,
        initial_master=reader.initial_master(),
        failback=str(reader.value("failback") or FAILBACK_DISABLED),
        profile=profile,
        check_interval=reader.check_interval(PROFILES[profile]),
        vrid=reader.vrid(),
        vips=reader.vips(),
        sync_paths=paths,
        sync_excludes=reader.sync_excludes(paths),
        services=reader.services(paths),
        replace_backup=reader.replace_backup(),
        witnesses=reader.witnesses(),
        master_only=reader.master_only(),
        vrid_offset=int(reader.value("vrid_offset") or 0),
        track_interfaces=reader.track_interfaces(),
        preempt_delay=reader.preempt_delay(),
        metrics_dir=reader.metrics_dir(),
        sync_keep=reader.sync_keep(),
    )
    return settings, tuple(reader.mistakes())


class _Reader:
    """Takes the fields one by one and keeps what was wrong with them."""

    def __init__(self, hosts: t.Tuple[str, ...], declared: Declared) -> None:
        self.hosts, self.declared = hosts, declared
        self.where = " and ".join(hosts) or "the inventory"
        self.found: t.List[Finding] = []
        self._check_hosts()
        self._check_agreement()

    def mistakes(self) -> t.List[Finding]:
        return self.found

    def value(self, field: str) -> t.Any:
        """What the first host that was asked says."""
        for said in self.declared.values():
            if said:
                return said.get(field)
        return None

    def name(self) -> str:
        name = self.value("name")
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            self._error(
                "zcluster_name",
                name,
                "The name of the cluster is not usable: 1 to 31 lower-case letters, digits and "
                "hyphens are allowed, beginning with a letter or digit.",
                "Set zcluster_name to a name such as web or lb-1.",
            )
        return str(name or "")

    def ips(self) -> t.Dict[str, str]:
        sound: t.Dict[str, str] = {}
        for host, said in self.declared.items():
            if not said:
                continue
            ip = said.get("ip")
            try:
                address = ipaddress.ip_address(str(ip))
            except ValueError:
                self._error(
                    "zcluster_ip",
                    ip,
                    f"The cluster IP of {host} is not an IP address.",
                    "Set zcluster_ip of this host to its own address on the cluster link; "
                    "`zcluster interfaces` lists what it has.",
                    host,
                )
                continue
            if address.version != 4:
                self._error(
                    "zcluster_ip",
                    ip,
                    "The nodes talk to each other over IPv4; virtual IPs may be IPv6.",
                    "Set zcluster_ip to an IPv4 address of this host.",
                    host,
                )
                continue
            sound[host] = str(address)
        if len(sound) == 2 and len(set(sound.values())) == 1:
            self._error(
                "zcluster_ip",
                next(iter(sound.values())),
                "Both hosts declare the same cluster IP.",
                "Give each host its own zcluster_ip.",
            )
        return sound

    def initial_master(self) -> str:
        wanted = self.value("initial_master")
        if wanted in (None, ""):
            return self.hosts[0] if self.hosts else ""
        if wanted not in self.hosts:
            self._error(
                "zcluster_initial_master",
                wanted,
                f"The initial master is not a host of this cluster; its hosts are {self.where}.",
                "Set zcluster_initial_master to one of them, or leave it out for the first.",
            )
            return self.hosts[0] if self.hosts else ""
        return str(wanted)

    def profile(self) -> str:
        wanted = self.value("profile")
        if wanted in (None, ""):
            return DEFAULT_PROFILE
        if wanted not in PROFILES:
            self._error(
                "zcluster_profile",
                wanted,
                f"There is no such profile; there are {', '.join(PROFILES)}.",
                f"Set zcluster_profile to one of them, or leave it out for {DEFAULT_PROFILE}.",
            )
            return DEFAULT_PROFILE
        return str(wanted)

    def check_interval(self, profile: Profile) -> float:
        low, high = CHECK_INTERVAL
        raw = self.value("check_interval")
        if raw in (None, ""):
            return profile.check_interval
        try:
            seconds = float(raw)
        except (TypeError, ValueError):
            seconds = 0.0
        # "not (low <= x)" also refuses NaN.
        if not low <= seconds <= high:
            self._error(
                "zcluster_check_interval",
                raw,
                f"The check interval must be a number of seconds from {low} to {high}.",
                "Set zcluster_check_interval in this range, for example 0.1.",
            )
            return profile.check_interval
        return round(seconds, 2)

    def preempt_delay(self) -> float:
        raw = self.value("preempt_delay")
        if raw in (None, ""):
            return 0.0
        try:
            seconds = float(raw)
        except (TypeError, ValueError):
            seconds = -1.0
        if not 0 <= seconds <= LONGEST_DELAY:
            self._error(
                "zcluster_preempt_delay",
                raw,
                f"The delay of a failback must be a number of seconds from 0 to {LONGEST_DELAY}.",
                "Set zcluster_preempt_delay in this range, or leave it out.",
            )
            return 0.0
        return seconds

    def vrid(self) -> t.Optional[int]:
        raw = self.value("vrid")
        if raw in (None, ""):
            return None
        number = int(raw) if str(raw).isdigit() else 0
        if not 1 <= number <= 255:
            self._error(
                "zcluster_vrid",
                raw,
                "A virtual router id is a whole number from 1 to 255.",
                "Set zcluster_vrid in this range, or leave it out: a free one is picked.",
            )
            return None
        return number

    def vips(self) -> t.Tuple[Vip, ...]:
        sound: t.List[Vip] = []
        for raw in self._list("vips", "zcluster_vips"):
            vip = self._vip(raw)
            if vip is None:
                continue
            if vip.address in [other.address for other in sound]:
                self._error(
                    "zcluster_vips",
                    vip,
                    "This virtual IP is declared twice.",
                    "Leave one of them out of zcluster_vips.",
                )
                continue
            sound.append(vip)
        if not sound:
            self._error(
                "zcluster_vips",
                None,
                "The cluster has no usable virtual IP: there would be nothing to take over.",
                "Set zcluster_vips to a list of ADDRESS/PREFIX, for example 192.0.2.10/24.",
            )
        return tuple(sound)

    def witnesses(self) -> t.Tuple[str, ...]:
        sound: t.List[str] = []
        for raw in self._list("witnesses", "zcluster_witnesses"):
            try:
                address = ipaddress.ip_address(str(raw))
            except ValueError:
                wrong = "no IP address"
            else:
                wrong = _unusable(address)
            if wrong:
                self._error(
                    "zcluster_witnesses",
                    raw,
                    f"A witness is a machine that both nodes can ask; this is {wrong}.",
                    "Name addresses of other machines on the served networks, such as a router.",
                )
                continue
            sound.append(str(address))
        return tuple(sound)

    def track_interfaces(self) -> t.Tuple[str, ...]:
        sound: t.List[str] = []
        for raw in self._list("track_interfaces", "zcluster_track_interfaces"):
            if not (isinstance(raw, str) and _master_only.INTERFACE.fullmatch(raw)):
                self._error(
                    "zcluster_track_interfaces",
                    raw,
                    "This is no name of an interface: 1 to 15 letters, digits and _ . - are "
                    "allowed.",
                    "Name interfaces as `ip link` does, for example eth1.",
                )
            elif raw not in sound:
                sound.append(raw)
        return tuple(sound)

    def sync_paths(self) -> t.Tuple[str, ...]:
        sound: t.List[str] = []
        for raw in self._list("sync_paths", "zcluster_sync_paths"):
            path = raw.rstrip("/") or "/" if isinstance(raw, str) else ""
            why = _sync_paths.refusal(path) if path else "not a path"
            overlap = [
                p for p in sound if _sync_paths.inside(path, p) or _sync_paths.inside(p, path)
            ]
            if not why and overlap:
                why = f"{overlap[0]} is declared as well, and one contains the other"
            if why:
                self._error(
                    "zcluster_sync_paths",
                    raw,
                    f"This path cannot be synchronized: {why}.",
                    "Name the directories and files of the services themselves, for example "
                    "/etc/haproxy, and nothing that belongs to one node alone.",
                )
                continue
            sound.append(path)
        return tuple(sound)

    def sync_excludes(self, paths: t.Sequence[str]) -> t.Tuple[str, ...]:
        sound: t.List[str] = []
        for raw in self._list("sync_excludes", "zcluster_sync_excludes"):
            if not (isinstance(raw, str) and raw.startswith("/")):
                self._error(
                    "zcluster_sync_excludes",
                    raw,
                    "What is excluded must be an absolute path or pattern.",
                    "Write it from the root, for example /etc/haproxy/local.cfg.",
                )
                continue
            if not any(_sync_paths.inside(raw, path) for path in paths):
                self.found.append(
                    warning(
                        self.where,
                        "zcluster_sync_excludes",
                        raw,
                        "This exclusion is in none of the synchronized paths and excludes nothing.",
                        "Correct it or leave it out.",
                    )
                )
            sound.append(raw)
        return tuple(sound)

    def sync_keep(self) -> Keep:
        raw = self.value("sync_keep")
        if raw in (None, {}):
            return KEEP
        known = {"count": Keep.count, "bytes": Keep.bytes}
        if isinstance(raw, dict) and raw.keys() <= known.keys():
            said = {**known, **raw}
            if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in said.values()):
                return Keep(**said)
        self._error(
            "zcluster_sync_keep",
            raw,
            "What is kept of overwritten files has a count and bytes, whole numbers above 0.",
            f"Set zcluster_sync_keep to such as {{count: {Keep.count}, bytes: {Keep.bytes}}}, or "
            "leave it out for that.",
        )
        return KEEP

    def services(self, paths: t.Sequence[str]) -> t.Tuple[_services.Service, ...]:
        sound: t.List[_services.Service] = []
        for raw in self._list("services", "zcluster_services"):
            try:
                service = _services.read(raw, paths)
                if service.name in [other.name for other in sound]:
                    raise _services.ServiceError(
                        "name", service.name, "This service is declared twice."
                    )
                sound.append(service)
            except _services.ServiceError as wrong:
                self._service_error(wrong)
        if any(finding.field.startswith("zcluster_services") for finding in self.found):
            return tuple(sound)
        try:
            return _services.ordered(sound)
        except _services.ServiceError as wrong:
            self._service_error(wrong)
            return tuple(sound)

    def master_only(self) -> _master_only.MasterOnly:
        found: t.Dict[str, t.List[_master_only.Entry]] = {}
        for field, read in _master_only.READERS.items():
            entries = found.setdefault(field, [])
            for raw in self._list(field, f"zcluster_{field}"):
                try:
                    entries.append(read(raw))
                except _master_only.EntryError as wrong:
                    self._error(
                        f"zcluster_{field}",
                        raw,
                        f"This entry cannot be used: {wrong}.",
                        f"Correct it, or leave it out of zcluster_{field}.",
                    )
        return _master_only.MasterOnly(
            *(tuple(found[field]) for field in _master_only.READERS),
        )

    def replace_backup(self) -> bool:
        raw = self.value("replace_backup")
        if raw in (None, True, False):
            return bool(raw)
        if str(raw).lower() in ("true", "yes", "false", "no"):
            return str(raw).lower() in ("true", "yes")
        self._error(
            "zcluster_replace_backup",
            raw,
            "The consent to replace the backup's configuration must be true or false.",
            "Set zcluster_replace_backup to true or false.",
        )
        return False

    def metrics_dir(self) -> str:
        raw = self.value("metrics_dir")
        if raw in (None, ""):
            return METRICS_DIR
        if isinstance(raw, str) and ABSOLUTE.fullmatch(raw):
            return raw
        self._error(
            "zcluster_metrics_dir",
            raw,
            "The directory for metrics must be an absolute path of letters, digits and - _ . /.",
            "Set zcluster_metrics_dir to the textfile directory of node_exporter, or leave it out "
            f"for {METRICS_DIR}.",
        )
        return METRICS_DIR

    def _check_hosts(self) -> None:
        if len(self.hosts) != 2:
            self._error(
                "zcluster_name",
                self.hosts,
                f"A cluster has exactly two hosts; {len(self.hosts)} declare this name.",
                "Set the same zcluster_name on exactly two hosts of the inventory.",
            )

    def _check_agreement(self) -> None:
        said = {host: values for host, values in self.declared.items() if values}
        fields = sorted({field for values in said.values() for field in values} - set(PER_HOST))
        for field in fields:
            different = [
                host
                for host in said
                if said[host].get(field) != next(iter(said.values())).get(field)
            ]
            if different:
                self._error(
                    f"zcluster_{field}",
                    "; ".join(f"{host}: {said[host].get(field)}" for host in said),
                    "The two hosts declare different values for a setting of the whole cluster.",
                    f"Set zcluster_{field} once, in a group both hosts are in, or alike on both.",
                )

    def _list(self, field: str, variable: str) -> t.List[t.Any]:
        raw = self.value(field)
        if raw in (None, ""):
            return []
        if not isinstance(raw, (list, tuple)):
            self._error(
                variable, raw, f"{variable} must be a list.", f"Write {variable} as a YAML list."
            )
            return []
        return list(raw)

    def _vip(self, raw: t.Any) -> t.Optional[Vip]:
        text = raw.get("address") if isinstance(raw, dict) else raw
        interface = str(raw.get("interface") or "") if isinstance(raw, dict) else ""
        _address, slash, prefix = str(text).partition("/")
        try:
            parsed = ipaddress.ip_interface(str(text))
        except ValueError:
            slash = ""
        if not (isinstance(text, str) and slash and prefix.isdigit()):
            self._error(
                "zcluster_vips",
                text,
                "A virtual IP is written ADDRESS/PREFIX, for example 192.0.2.10/24.",
                "Correct this entry of zcluster_vips.",
            )
            return None
        wrong = _unusable(parsed.ip)
        if wrong:
            self._error(
                "zcluster_vips",
                text,
                f"This is {wrong} and cannot be a virtual IP.",
                "Choose a free address of a network that both nodes are in.",
            )
            return None
        return Vip(str(parsed.ip), int(prefix), interface)

    def _service_error(self, wrong: _services.ServiceError) -> None:
        self._error(f"zcluster_services.{wrong.field}", wrong.found, wrong.message, wrong.way_out)

    def _error(self, field: str, found: object, message: str, way_out: str, node: str = "") -> None:
        self.found.append(error(node or self.where, field, found, message, way_out))


def _unusable(address: t.Union[ipaddress.IPv4Address, ipaddress.IPv6Address]) -> str:
    kinds = (
        (address.is_unspecified, "the unspecified address"),
        (address.is_loopback, "a loopback address"),
        (address.is_multicast, "a multicast address"),
        (address.is_link_local, "a link-local address"),
    )
    return next((name for applies, name in kinds if applies), "")
