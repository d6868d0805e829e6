# SPDX-License-Identifier: GPL-3.0-or-later
"""Every finding of preflight: what has to be wrong, and the words in which it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _preflight

BOTH = "lb1 and lb2"


@dataclass(frozen=True)
class Case:
    """A situation and what must be said about it."""

    arrange: Callable[[Any], None]
    check: str
    node: str
    field: str
    found: str
    message: str
    way_out: str
    severity: str
    beside: tuple[str, ...]  # other checks that rightly speak up in this situation


CASES: list[Case] = []


def case(
    check: str,
    node: str,
    field: str,
    found: str,
    message: str,
    way_out: str = "",
    severity: str = "error",
    beside: tuple[str, ...] = (),
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a situation; found, message and way_out are parts of what is said."""

    def register(arrange: Callable[[Any], None]) -> Callable[[Any], None]:
        CASES.append(Case(arrange, check, node, field, found, message, way_out, severity, beside))
        return arrange

    return register


def test_two_healthy_nodes_give_no_finding(pair: Any) -> None:
    assert pair.findings() == []


# --- the settings


@case("settings", BOTH, "zcluster_name", "Web Farm", "The name of the cluster is not usable")
def name_with_a_space(pair: Any) -> None:
    pair.declare(name="Web Farm")


@case("settings", "lb1", "zcluster_name", "lb1", "A cluster has exactly two hosts; 1 declare")
def one_host_only(pair: Any) -> None:
    del pair.settings["lb2"]


@case(
    "settings",
    "lb1 and lb2 and lb3",
    "zcluster_name",
    "lb1, lb2, lb3",
    "A cluster has exactly two hosts; 3 declare",
    beside=("reachable",),
)
def three_hosts(pair: Any) -> None:
    pair.settings["lb3"] = {**pair.settings["lb2"], "ip": "198.18.30.13"}


@case("settings", "lb2", "zcluster_ip", "n2", "The cluster IP of lb2 is not an IP address.")
def cluster_ip_is_a_name(pair: Any) -> None:
    pair.settings["lb2"]["ip"] = "n2"


@case("settings", "lb2", "zcluster_ip", "2001:db8:30::12", "The nodes talk to each other over IPv4")
def cluster_ip_is_ipv6(pair: Any) -> None:
    pair.settings["lb2"]["ip"] = "2001:db8:30::12"


@case(
    "settings",
    BOTH,
    "zcluster_ip",
    "198.18.30.11",
    "Both hosts declare the same cluster IP.",
    beside=("cluster_ip",),
)
def one_cluster_ip_for_both(pair: Any) -> None:
    pair.declare(ip="198.18.30.11")


@case(
    "settings",
    BOTH,
    "zcluster_check_interval",
    "lb1: 0.1; lb2: 0.5",
    "The two hosts declare different values for a setting of the whole cluster.",
)
def hosts_disagree(pair: Any) -> None:
    pair.settings["lb2"]["check_interval"] = 0.5


@case(
    "settings", BOTH, "zcluster_initial_master", "lb9", "The initial master is not a host of this"
)
def stranger_as_master(pair: Any) -> None:
    pair.declare(initial_master="lb9")


@case(
    "settings",
    BOTH,
    "zcluster_check_interval",
    "0.005",
    "The check interval must be a number of seconds from 0.01 to 40.95.",
)
def check_interval_too_short(pair: Any) -> None:
    pair.declare(check_interval=0.005)


@case("settings", BOTH, "zcluster_profile", "turbo", "there are standard, fast, wan")
def profile_that_is_none(pair: Any) -> None:
    pair.declare(profile="turbo")


@case("settings", BOTH, "zcluster_check_interval", "41", "from 0.01 to 40.95.")
def check_interval_too_long(pair: Any) -> None:
    pair.declare(check_interval=41)


@case("settings", BOTH, "zcluster_check_interval", "nan", "from 0.01 to 40.95.")
def check_interval_is_no_number(pair: Any) -> None:
    pair.declare(check_interval="nan")


@case("settings", BOTH, "zcluster_vrid", "256", "A virtual router id is a whole number from 1 to")
def vrid_too_large(pair: Any) -> None:
    pair.declare(vrid=256)


@case("settings", BOTH, "zcluster_vips", "", "The cluster has no usable virtual IP")
def no_vip(pair: Any) -> None:
    pair.declare(vips=[])


@case("settings", BOTH, "zcluster_vips", "198.18.10.101", "A virtual IP is written ADDRESS/PREFIX")
def vip_without_prefix(pair: Any) -> None:
    pair.declare(vips=["198.18.10.100/24", "198.18.10.101"])


@case("settings", BOTH, "zcluster_vips", "224.0.0.5/24", "This is a multicast address and cannot")
def vip_is_multicast(pair: Any) -> None:
    pair.declare(vips=["198.18.10.100/24", "224.0.0.5/24"])


@case("settings", BOTH, "zcluster_vips", "198.18.10.100/24", "This virtual IP is declared twice.")
def vip_twice(pair: Any) -> None:
    pair.declare(vips=["198.18.10.100/24", {"address": "198.18.10.100/24"}])


@case(
    "settings",
    BOTH,
    "zcluster_vips",
    "198.18.10.100/24",
    "zcluster_vips must be a list.",
    beside=(),
)
def vips_are_one_string(pair: Any) -> None:
    pair.declare(vips="198.18.10.100/24")


@case(
    "settings",
    BOTH,
    "zcluster_sync_paths",
    "etc/haproxy",
    "This path cannot be synchronized: not an absolute path.",
)
def relative_sync_path(pair: Any) -> None:
    pair.declare(sync_paths=["/etc/haproxy", "etc/haproxy"])


@case(
    "settings",
    BOTH,
    "zcluster_sync_paths",
    "/etc/ssh",
    "This path cannot be synchronized: /etc/ssh holds the host keys of this node.",
)
def host_keys_to_synchronize(pair: Any) -> None:
    pair.declare(sync_paths=["/etc/haproxy", "/etc/ssh"])


@case(
    "settings",
    BOTH,
    "zcluster_metrics_dir",
    "metrics",
    "The directory for metrics must be an absolute path of letters, digits and - _ . /.",
)
def relative_directory_for_metrics(pair: Any) -> None:
    pair.declare(metrics_dir="metrics")


@case(
    "settings",
    BOTH,
    "zcluster_sync_keep",
    "{'count': 0}",
    "What is kept of overwritten files has a count and bytes, whole numbers above 0.",
)
def nothing_kept_of_overwritten_files(pair: Any) -> None:
    pair.declare(sync_keep={"count": 0})


@case("settings", BOTH, "zcluster_sync_paths", "/etc", "it contains /etc/zcluster")
def all_of_etc_to_synchronize(pair: Any) -> None:
    pair.declare(sync_paths=["/etc"])


@case(
    "settings",
    BOTH,
    "zcluster_sync_paths",
    "/etc/haproxy/errors",
    "/etc/haproxy is declared as well, and one contains the other",
)
def overlapping_sync_paths(pair: Any) -> None:
    pair.declare(sync_paths=["/etc/haproxy", "/etc/haproxy/errors"])


@case(
    "settings",
    BOTH,
    "zcluster_sync_excludes",
    "local.cfg",
    "What is excluded must be an absolute path or pattern.",
)
def relative_exclude(pair: Any) -> None:
    pair.declare(sync_excludes=["local.cfg"])


@case(
    "settings",
    BOTH,
    "zcluster_sync_excludes",
    "/etc/nginx/local",
    "This exclusion is in none of the synchronized paths",
    severity="warning",
)
def exclude_that_excludes_nothing(pair: Any) -> None:
    pair.declare(sync_excludes=["/etc/nginx/local"])


def service_case(field: str, found: str, message: str, *services: Any) -> None:
    """One entry of zcluster_services that is refused, with its field and its value."""
    name = f"service_with_{field}_{found}".replace(" ", "_")

    def declare(pair: Any) -> None:
        pair.declare(services=list(services))

    declare.__name__ = name
    case("settings", BOTH, f"zcluster_services.{field}", found, message)(declare)


service_case("preset", "squid", "There is no such preset; presets are: haproxy, nginx", "squid")
service_case(
    "paths",
    "/etc/nginx",
    "Service haproxy depends on this path, but it is in none of the synchronized paths",
    {"name": "haproxy", "paths": ["/etc/nginx"]},
)
service_case(
    "unit",
    "../evil.service",
    "The unit of service haproxy is not the name of a systemd unit.",
    {"name": "haproxy", "unit": "../evil.service"},
)
service_case(
    "stand_by", "cold", "allowed are: name, preset, unit", {"name": "x", "stand_by": "cold"}
)
service_case("standby", "warm", "must be one of: hot, cold.", {"name": "x", "standby": "warm"})
service_case("on_change", "kill", "reload, restart, command", {"name": "x", "on_change": "kill"})
service_case("command", "", "and none is given", {"name": "x", "on_change": "command"})
service_case("standby", "cold", "no unit", {"name": "x", "command": "true", "standby": "cold"})
service_case("start_seconds", "0", "must be above 0", {"name": "x", "start_seconds": 0})
service_case("validate", "'", "must be one command line", {"name": "x", "validate": "'"})
service_case("critical", "perhaps", "must be true or false", {"name": "x", "critical": "perhaps"})
service_case("standby", "cold", "runs on both", {"name": "ipvs", "paths": [], "standby": "cold"})
service_case(
    "on_change", "restart", "a takeover", {"name": "ipvs", "paths": [], "on_change": "restart"}
)
service_case("name", "x", "This service is declared twice.", {"name": "x"}, {"name": "x"})
service_case("after", "z", "not declared; declared are: x", {"name": "x", "after": ["z"]})
service_case(
    "after",
    "a -> b -> c -> a",
    "none could ever be first",
    {"name": "first"},
    {"name": "a", "after": ["first", "b"]},
    {"name": "b", "after": ["c"]},
    {"name": "c", "after": ["a"]},
)


@case(
    "settings",
    BOTH,
    "zcluster_master_routes",
    "default dev eth0 mtu 9",
    "'mtu' is not known here; allowed are: via, src, dev, table, metric, scope",
)
def route_with_a_word_nobody_knows(pair: Any) -> None:
    pair.declare(master_routes=["default dev eth0 mtu 9"])


@case("settings", BOTH, "zcluster_master_routes", "default", "needs `via ADDRESS` or `dev")
def route_that_leads_nowhere(pair: Any) -> None:
    pair.declare(master_routes=["default"])


@case("settings", BOTH, "zcluster_master_rules", "from 198.18.10.100 table 9", "`priority N`")
def rule_that_could_not_be_found_again(pair: Any) -> None:
    pair.declare(master_rules=["from 198.18.10.100 table 9"])


@case("settings", BOTH, "zcluster_master_addresses", "203.0.113.7 dev lo", "no prefix length")
def address_without_a_prefix(pair: Any) -> None:
    pair.declare(master_addresses=["203.0.113.7 dev lo"])


@case("settings", BOTH, "zcluster_master_routes", "via 2001:db8::1", "IPv4 and IPv6 are mixed")
def route_of_two_families(pair: Any) -> None:
    pair.declare(master_routes=["192.0.2.0/24 via 2001:db8::1"])


@case(
    "master_only", "lb1", "zcluster_master_routes", "dev eth7", "This node has no interface eth7."
)
def route_over_an_interface_that_is_not_there(pair: Any) -> None:
    pair.n2["interfaces"].append({**pair.n2["interfaces"][0], "name": "eth7", "addresses": []})
    pair.declare(master_routes=["192.0.2.0/24 dev eth7"])


@case("settings", BOTH, "zcluster_replace_backup", "perhaps", "must be true or false.")
def consent_is_no_boolean(pair: Any) -> None:
    pair.declare(replace_backup="perhaps")


# --- the way in


@case("reachable", "lb2", "ansible_host", "timed out", "The host cannot be reached over SSH.")
def node_is_off(pair: Any) -> None:
    pair.refused["lb2"] = {
        "unreachable": True,
        "msg": "Failed to connect to the host via ssh: ssh: connect to host 198.18.10.12 port 22: "
        "Connection timed out",
    }


@case(
    "reachable", "lb2", "ansible_host", "to 198.18.10.12 timed", "The host cannot be reached over"
)
def node_behind_a_program_is_off(pair: Any) -> None:
    for host, address in (("lb1", "198.18.10.11"), ("lb2", "198.18.10.12")):
        pair.settings[host]["address"] = address
    pair.refused["lb2"] = {
        "unreachable": True,
        "msg": "Failed to connect to the host via ssh: Connection to UNKNOWN port 65535 timed out",
    }


@case(
    "reachable",
    "lb2",
    "ansible_user",
    "Permission denied (publickey,password)",
    "this sshd forbids root by password (PermitRootLogin",
    "PermitRootLogin yes in",
)
def root_by_password_is_refused(pair: Any) -> None:
    pair.refused["lb2"] = {
        "unreachable": True,
        "msg": "Task failed: Data could not be sent to remote host: root@198.18.10.12: "
        "Permission denied (publickey,password).",
    }


@case(
    "reachable",
    "lb2",
    "host key",
    "Host key verification failed",
    "another machine may answer there",
    "ssh-keygen -R",
)
def host_key_changed(pair: Any) -> None:
    pair.refused["lb2"] = {
        "unreachable": True,
        "msg": "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @ Host key verification failed.",
    }


@case("reachable", "lb2", "ansible_host", "resolve", "The name of this host cannot be resolved")
def name_is_unknown(pair: Any) -> None:
    pair.refused["lb2"] = {
        "unreachable": True,
        "msg": "ssh: Could not resolve hostname n2: Name or service not known",
    }


@case(
    "reachable",
    "lb2",
    "become",
    "Missing sudo password",
    "The login works, but not the way to root.",
    "--ask-become-pass",
)
def no_way_to_root(pair: Any) -> None:
    pair.refused["lb2"] = {"failed": True, "msg": "Missing sudo password"}


@case("reachable", "lb2", "ansible_python_interpreter", "not found", "No usable Python was found")
def no_python(pair: Any) -> None:
    pair.refused["lb2"] = {
        "failed": True,
        "msg": "The module interpreter '/usr/bin/python3' was not found.",
    }


@case("reachable", "lb2", "ansible-playbook --limit", "", "the run was limited to other hosts")
def run_limited_to_one_host(pair: Any) -> None:
    pair.refused["lb2"] = {}
    pair.settings["lb2"] = {}


@case("reachable", "lb2", "ansible_host", "MODULE FAILURE", "The host could not be looked at.")
def something_unheard_of(pair: Any) -> None:
    pair.refused["lb2"] = {"failed": True, "msg": "MODULE FAILURE: out of cheese"}


@case("root", "lb2", "become", "not root", "The node was looked at without root's rights.")
def not_root(pair: Any) -> None:
    pair.n2["system"]["root"] = False


@case(
    "complete",
    "lb2",
    "firewall",
    "nft list ruleset: netlink error",
    "Preflight could not look at this: firewall.",
    severity="warning",
)
def a_probe_failed(pair: Any) -> None:
    pair.n2["errors"] = {"firewall": "nft list ruleset: netlink error"}


# --- the system


@case(
    "operating_system",
    "lb2",
    "operating system",
    "ubuntu 24.04",
    "This operating system is not supported; Debian 12 and 13 are.",
)
def ubuntu(pair: Any) -> None:
    pair.n2["system"].update(os_id="ubuntu", os_version="24.04")


@case("operating_system", "lb2", "operating system", "debian 11", "is not supported")
def debian_11(pair: Any) -> None:
    pair.n2["system"]["os_version"] = "11"


@case("operating_system", "lb2", "systemd", "not running", "are run by systemd")
def no_systemd(pair: Any) -> None:
    pair.n2["system"]["systemd"] = False


@case("operating_system", "lb2", "python", "3.9.2", "zclustermanager needs Python 3.11 or newer.")
def old_python(pair: Any) -> None:
    pair.n2["system"]["python"] = "3.9.2"


@case(
    "versions",
    BOTH,
    "keepalived",
    "lb1: 1:2.2.7-1+b2, lb2: 1:3.0.0-1",
    "The nodes have different major versions of keepalived",
)
def other_major_version_of_keepalived(pair: Any) -> None:
    pair.n2["packages"]["keepalived"]["candidate"] = "1:3.0.0-1"


@case(
    "versions",
    BOTH,
    "zcluster",
    "lb1: 1.4.0, lb2: 2.0.0",
    "different major versions of zcluster",
    "zcluster update --zcluster",
    severity="warning",
)
def other_major_version_of_zcluster(pair: Any) -> None:
    pair.n1["zcluster"], pair.n2["zcluster"] = "1.4.0", "2.0.0"


@case(
    "versions",
    "lb2",
    "conntrackd",
    "no version",
    "apt's present lists do not offer it",
    severity="warning",
)
def package_is_not_offered(pair: Any) -> None:
    pair.n2["packages"]["conntrackd"] = {}


@case("hostnames", BOTH, "hostname", "n1", "Both nodes have the same hostname")
def both_are_called_n1(pair: Any) -> None:
    pair.n2["system"]["hostname"] = "n1"


@case("hostnames", "lb2", "hostname", "localhost", "This is no hostname that tells a node from")
def called_localhost(pair: Any) -> None:
    pair.n2["system"]["hostname"] = "localhost"


@case("failback", BOTH, "zcluster_failback", "n3", "allowed are disabled, n1, n2, lb1, lb2.")
def failback_to_a_stranger(pair: Any) -> None:
    pair.declare(failback="n3")


@case(
    "clocks",
    BOTH,
    "clock",
    "5.0 s",
    "The clocks of the nodes differ; lb2 is ahead.",
    severity="warning",
)
def clocks_differ(pair: Any) -> None:
    pair.n2["clock"]["start"] += 5.0


@case("disks", "lb2", "disk /var/lib/zcluster", "10 MiB free", "There is too little room: 32 MiB")
def full_disk(pair: Any) -> None:
    pair.n2["disks"][1]["free_bytes"] = 10 * 1024 * 1024


@case("disks", "lb2", "disk /etc/haproxy", "95 MiB free", "There is too little room: 398 MiB")
def no_room_for_a_second_copy(pair: Any) -> None:
    pair.n1["trees"][0]["bytes"] = 390 * 1024 * 1024
    pair.n2["disks"][2]["free_bytes"] = 95 * 1024 * 1024


@case("disks", "lb2", "disk /", "12 inodes free", "There are too few inodes left")
def no_inodes(pair: Any) -> None:
    pair.n2["disks"][0]["free_inodes"] = 12


@case(
    "inotify",
    "lb2",
    "fs.inotify.max_user_watches",
    "8192",
    "20064 are needed",
    "fs.inotify.max_user_watches = 40128",
)
def too_few_watches(pair: Any) -> None:
    pair.n1["trees"][0]["directories"] = 20000
    pair.n2["inotify"]["max_user_watches"] = 8192


@case(
    "realtime",
    "lb2",
    "real-time priority",
    "refused",
    "the virtual IPs would flap",
    "zcluster_profile",
    severity="warning",
)
def no_realtime_priority_at_a_fast_pace(pair: Any) -> None:
    pair.declare(profile="fast", check_interval="")
    pair.n2["realtime"] = {"scheduling": False}


@case("realtime", "lb1", "locked memory", "refused", "very busy machine", severity="warning")
def no_locked_memory(pair: Any) -> None:
    pair.n1["realtime"] = {"capabilities": ["sys_nice", "sys_resource"]}


@case("realtime", "lb1", "CAP_SYS_RESOURCE", "missing", "At a reload", severity="warning")
def no_way_to_raise_a_limit(pair: Any) -> None:
    pair.n1["realtime"] = {"capabilities": ["sys_nice", "ipc_lock"]}


@case("settings", BOTH, "zcluster_witnesses", "router", "this is no IP address", "such as a router")
def witness_is_a_name(pair: Any) -> None:
    pair.declare(witnesses=["198.18.10.1", "router"])


@case("witnesses", BOTH, "zcluster_witnesses", "192.0.2.1", "in no network of both nodes")
def witness_is_far_away(pair: Any) -> None:
    pair.declare(witnesses=["198.18.10.1", "192.0.2.1"])


@case(
    "witnesses",
    BOTH,
    "zcluster_witnesses",
    "none on eth0",
    "No gateway and no configured witness is on eth0",
    severity="warning",
)
def network_without_a_witness(pair: Any) -> None:
    pair.declare(witnesses=[])


@case("settings", BOTH, "zcluster_track_interfaces", "eth 1", "no name of an interface")
def tracked_interface_is_no_name(pair: Any) -> None:
    pair.declare(track_interfaces=["eth1", "eth 1"])


@case(
    "track_interfaces",
    "lb2",
    "zcluster_track_interfaces",
    "eth1",
    "This node has no such interface.",
    "here: eth0, eth2.",
)
def tracked_interface_is_on_one_node_only(pair: Any) -> None:
    pair.declare(track_interfaces=["eth1"])
    pair.n2["interfaces"] = [i for i in pair.n2["interfaces"] if i["name"] != "eth1"]


@case(
    "track_interfaces",
    "lb2",
    "zcluster_track_interfaces",
    "eth1",
    "no carrier: the node would be out of service at once",
)
def tracked_interface_has_no_carrier(pair: Any) -> None:
    pair.declare(track_interfaces=["eth1"])
    pair.n2["interfaces"][1]["carrier"] = False


@case(
    "track_interfaces",
    BOTH,
    "zcluster_track_interfaces",
    "eth2",
    "its death would take both nodes out of service",
)
def tracked_interface_is_the_cluster_link(pair: Any) -> None:
    pair.declare(track_interfaces=["eth2"])


@case("membership", "lb2", "zcluster_name", "mail", "The node is already in another cluster, mail.")
def in_another_cluster(pair: Any) -> None:
    pair.n2["cluster"] = {"name": "mail", "nodes": [{"hostname": "n2"}, {"hostname": "m1"}]}


@case(
    "membership",
    "lb2",
    "zcluster_name",
    "n2, n9",
    "in a cluster of this name, but with another partner: n9.",
)
def in_a_cluster_of_this_name_with_another_partner(pair: Any) -> None:
    pair.n2["cluster"] = {"name": "web", "nodes": [{"hostname": "n2"}, {"hostname": "n9"}]}


@case(
    "membership",
    "lb2",
    "hostname",
    "new",
    "The cluster knows this node by the hostname n2.",
    "hostnamectl set-hostname n2",
)
def new_machine_has_another_hostname_than_the_one_it_replaces(pair: Any) -> None:
    pair.install(pair.plan())
    pair.n2["cluster"] = None
    pair.n2["system"]["hostname"] = "new"


@case(
    "membership",
    "lb2",
    "/etc/zcluster/cluster.json",
    "not JSON",
    "The node has settings of a cluster that cannot be read.",
)
def unreadable_settings(pair: Any) -> None:
    pair.n2["errors"] = {"cluster": "/etc/zcluster/cluster.json: not JSON"}


@case("membership", "lb2", "user zcluster", "/home/zcluster", "that create did not make")
def user_of_our_name(pair: Any) -> None:
    pair.n2["peer_home"] = "/home/zcluster"


@case("other_software", "lb2", "corosync.service", "active", "Corosync runs on this node")
def corosync_runs(pair: Any) -> None:
    pair.n2["units"].append({"name": "corosync.service", "load": "loaded", "active": "active"})


@case(
    "other_software",
    "lb2",
    "/etc/keepalived/keepalived.conf",
    "not written by zcluster",
    "keepalived is already configured here, for something else",
)
def keepalived_of_somebody_else(pair: Any) -> None:
    pair.n2["foreign_configs"] = ["/etc/keepalived/keepalived.conf"]


@case("other_software", "lb2", "UDP port 3780", "syncthing", "in use by another program")
def port_is_taken(pair: Any) -> None:
    pair.n2["ports"].append(
        {"protocol": "udp", "address": "*", "port": 3780, "process": "syncthing"}
    )


@case("sshd", "lb2", "sshd", "not installed", "this node has no sshd")
def no_sshd(pair: Any) -> None:
    pair.n2["sshd"] = {}


@case("sshd", "lb2", "sshd", "Bad configuration option", "does not accept its own configuration")
def broken_sshd_config(pair: Any) -> None:
    pair.n2["sshd"] = {"present": True, "error": "line 3: Bad configuration option: Prot"}


@case("sshd", "lb2", "PubkeyAuthentication", "no", "sshd refuses keys")
def sshd_refuses_keys(pair: Any) -> None:
    pair.n2["sshd"]["pubkeyauthentication"] = "no"


@case(
    "sshd",
    "lb2",
    "ListenAddress",
    "198.18.10.12:22",
    "sshd does not listen on the cluster IP 198.18.30.12.",
)
def sshd_listens_elsewhere(pair: Any) -> None:
    pair.n2["sshd"]["listen"] = ["198.18.10.12:22"]


@case("sshd", "lb2", "Port", "2222", "where sshd does not listen")
def sshd_at_another_port(pair: Any) -> None:
    pair.n2["sshd"]["ports"] = [2222]


@case("sshd", "lb2", "HostKey", "no ed25519 key", "which this node lacks")
def sshd_without_the_host_key(pair: Any) -> None:
    pair.n2["sshd"]["host_key"] = False


@case("sshd", "lb2", "AuthorizedKeysFile", "/etc/ssh/keys/%u", "would not read the keys")
def sshd_reads_keys_elsewhere(pair: Any) -> None:
    pair.n2["sshd"]["authorizedkeysfile"] = ["/etc/ssh/keys/%u"]


@case("sshd", "lb2", "AllowUsers", "admin, ops", "sshd would refuse user zcluster")
def sshd_admits_others_only(pair: Any) -> None:
    pair.n2["sshd"]["allowusers"] = ["admin", "ops"]


@case(
    "services",
    "lb2",
    "zcluster_services",
    "haproxy.service: not-found",
    "The unit of service haproxy cannot be started on this node",
)
def service_is_not_installed(pair: Any) -> None:
    pair.n2["units"][0]["load"] = "not-found"


@case(
    "services",
    "lb2",
    "zcluster_services",
    "haproxy-check",
    "A command of service haproxy starts this program, which is not on this node.",
)
def validate_does_not_exist(pair: Any) -> None:
    pair.declare(services=[{"name": "haproxy", "validate": "haproxy-check -c"}])
    pair.n2["missing_programs"] = ["haproxy-check"]


# --- the network


@case(
    "cluster_ip",
    "lb2",
    "zcluster_ip",
    "198.18.30.99",
    "No interface of this node has this",
    "198.18.10.12 (eth0), 198.18.20.12 (eth1), 198.18.30.12 (eth2)",
)
def cluster_ip_is_not_on_the_node(pair: Any) -> None:
    pair.settings["lb2"]["ip"] = "198.18.30.99"


@case(
    "cluster_ip",
    "lb2",
    "zcluster_ip",
    "198.18.30.12 on eth2",
    "A cluster cannot be built on a virtual address: this is an alias address (eth2:1).",
)
def cluster_ip_is_an_alias(pair: Any) -> None:
    pair.n2["interfaces"][2]["addresses"][0]["virtual"] = "an alias address (eth2:1)"


@case(
    "cluster_ip",
    "lb2",
    "zcluster_ip",
    "198.18.30.12 on eth2",
    "this is not a real NIC, bond or VLAN but a bridge interface.",
)
def cluster_ip_is_on_a_bridge(pair: Any) -> None:
    pair.n2["interfaces"][2].update(
        kind="bridge", virtual="not a real NIC, bond or VLAN but a bridge interface"
    )


@case(
    "cluster_ip",
    "lb2",
    "zcluster_ip",
    "198.18.30.12 on eth2",
    "The link of the cluster IP is not up: the link has no carrier.",
)
def cable_is_out(pair: Any) -> None:
    pair.n2["interfaces"][2]["carrier"] = False


@case(
    "cluster_link",
    BOTH,
    "zcluster_ip",
    "on eth2, lb2: 198.18.30.12/24 on eth3",
    "The cluster IPs are on interfaces of different names.",
)
def interfaces_have_different_names(pair: Any) -> None:
    pair.n2["interfaces"][2]["name"] = "eth3"


@case("cluster_link", BOTH, "zcluster_ip", "198.18.30.12/25", "are not in one subnet.")
def subnets_differ(pair: Any) -> None:
    pair.n2["interfaces"][2]["addresses"][0]["prefix"] = 25


@case(
    "reachability",
    "lb1",
    "zcluster_ip",
    "no answer from 198.18.30.12",
    "lb1 does not reach lb2 over the cluster link.",
)
def peer_does_not_answer(pair: Any) -> None:
    pair.n1["peer"].update(ping=False, answered_by=[])


@case(
    "reachability",
    "lb1",
    "zcluster_ip",
    "answers ARP but no ping",
    "a firewall is in the way",
    severity="warning",
)
def peer_drops_pings(pair: Any) -> None:
    pair.n1["peer"]["ping"] = False


@case(
    "reachability",
    "lb1",
    "zcluster_ip",
    "is answered by 02:ff:ff:ff:ff:ff",
    "Another machine than lb2 answers for the cluster IP of lb2.",
)
def peer_address_belongs_to_a_stranger(pair: Any) -> None:
    pair.n1["peer"]["answered_by"].append("02:ff:ff:ff:ff:ff")


@case(
    "vip_networks",
    BOTH,
    "zcluster_vips",
    "203.0.113.10/24",
    "Such networks: 198.18.10.0/24 on eth0, 2001:db8:10::/64 on eth0, 198.18.20.0/24 on eth1",
)
def vip_in_no_network(pair: Any) -> None:
    pair.declare(vips=["203.0.113.10/24"])


@case(
    "vip_networks",
    BOTH,
    "zcluster_vips",
    "198.18.10.100/24 on eth1",
    "The virtual IP is in no subnet on eth1 that both nodes are in",
)
def vip_on_the_wrong_interface(pair: Any) -> None:
    pair.declare(vips=[{"address": "198.18.10.100/24", "interface": "eth1"}])


@case("vip_networks", BOTH, "zcluster_vips", "198.18.10.255/24", "This is the broadcast address")
def vip_is_the_broadcast_address(pair: Any) -> None:
    pair.declare(vips=["198.18.10.255/24"])


@case("vip_networks", BOTH, "zcluster_vips", "198.18.10.0/24", "This is the network address of")
def vip_is_the_network_address(pair: Any) -> None:
    pair.declare(vips=["198.18.10.0/24"])


@case("vip_networks", BOTH, "zcluster_vips", "2001:db8:10::/64", "subnet-router anycast address")
def vip_is_the_routers_anycast_address(pair: Any) -> None:
    pair.declare(vips=["2001:db8:10::/64"])


@case(
    "vip_networks",
    BOTH,
    "zcluster_vips",
    "198.18.10.100/16",
    "The prefix of the virtual IP is",
    "198.18.10.100/24",
    severity="warning",
)
def vip_with_another_prefix(pair: Any) -> None:
    pair.declare(vips=["198.18.10.100/16"])


@case(
    "vip_networks",
    BOTH,
    "zcluster_vips",
    "198.18.10.100/24",
    "More than one interface is in",
    "interface: eth0",
    beside=("witnesses",),
)
def two_interfaces_in_one_subnet(pair: Any) -> None:
    for node, number in zip(pair.both(), (13, 14), strict=True):
        node["interfaces"][1]["addresses"][0]["address"] = f"198.18.10.{number}"


@case(
    "vip_networks",
    BOTH,
    "zcluster_vips",
    "2001:db8:10::100/64 on eth0",
    "The nodes have no IPv4 addresses in one subnet on this interface",
    beside=("witnesses",),
)
def ipv6_vip_without_ipv4_nodes(pair: Any) -> None:
    pair.declare(vips=["2001:db8:10::100/64"])
    for node in pair.both():
        del node["interfaces"][0]["addresses"][0]


@case("vip_free", "lb2", "zcluster_vips", "198.18.10.12/24", "This is an address of lb2 itself")
def vip_is_a_nodes_address(pair: Any) -> None:
    pair.declare(vips=["198.18.10.12/24"])
    pair.n2["interfaces"][0]["addresses"][0]["virtual"] = "a virtual IP of a cluster"


@case(
    "vip_free",
    "lb2",
    "zcluster_vips",
    "198.18.30.12/24",
    "This is an address of lb2 itself",
    beside=("cluster_ip",),
)
def vip_is_a_cluster_ip(pair: Any) -> None:
    pair.declare(vips=["198.18.30.12/24"])
    pair.n2["interfaces"][2]["addresses"][0]["virtual"] = "a virtual IP of a cluster"


@case(
    "vip_free",
    BOTH,
    "zcluster_vips",
    "answered by 02:ff:ff:ff:ff:ff on eth0",
    "Another machine has this address.",
)
def vip_is_taken(pair: Any) -> None:
    for node in pair.both():
        node["addresses"][0]["answered_by"] = ["02:ff:ff:ff:ff:ff"]


def _give(node: dict[str, Any], address: str) -> None:
    name = node["interfaces"][0]["name"]
    node["interfaces"][0]["addresses"].append(
        {
            "address": address,
            "prefix": 24,
            "family": 4,
            "scope": "global",
            "label": name,
            "flags": ["secondary"],
            "virtual": "a virtual IP of a cluster",
        }
    )
    node["addresses"][0]["on_interface"] = name


@case(
    "vip_free",
    "lb2",
    "zcluster_vips",
    "198.18.10.100/24 on eth0",
    "The future backup has this address",
    "zcluster_initial_master: lb2",
)
def vip_is_on_the_future_backup(pair: Any) -> None:
    _give(pair.n2, "198.18.10.100")
    pair.n1["addresses"][0]["answered_by"] = ["02:00:00:00:00:12"]


@case("vip_free", BOTH, "zcluster_vips", "198.18.10.100/24", "Both nodes have this address already")
def vip_is_on_both(pair: Any) -> None:
    _give(pair.n1, "198.18.10.100")
    _give(pair.n2, "198.18.10.100")


def _hear(node: dict[str, Any], vrid: int, source: str = "198.18.10.1") -> None:
    node.setdefault("adverts", []).append(
        {"interface": "eth0", "vrid": vrid, "source": source, "version": 3, "priority": 100}
    )


@case(
    "vrid",
    "lb1",
    "zcluster_vrid",
    "77 from 198.18.10.1 on eth0 (VRRPv3, priority 100)",
    "The virtual router id 77 is in use by another cluster on this network.",
    "for example 51, or leave it out",
)
def vrid_is_taken(pair: Any) -> None:
    pair.declare(vrid=77)
    _hear(pair.n1, 77)


@case(
    "vrid", BOTH, "zcluster_vrid", "all in use", "All virtual router ids from 1 to 255 were heard"
)
def every_vrid_is_taken(pair: Any) -> None:
    for number in range(1, 256):
        _hear(pair.n1, number)


def _ruleset(*statements: list[dict[str, Any]], policy: str = "drop") -> list[dict[str, Any]]:
    where = {"family": "inet", "table": "filter"}
    chain = {**where, "name": "input", "type": "filter", "hook": "input", "policy": policy}
    rules = [{"rule": {**where, "chain": "input", "expr": list(expr)}} for expr in statements]
    return [{"chain": chain}, *rules]


@case(
    "firewall",
    "lb2",
    "nftables chain inet filter input (hook input, policy drop)",
    "drops VRRP in on eth2, VRRP in on eth0, conntrackd in (UDP 3780)",
    "The ruleset of this node drops what the nodes tell each other",
    'iifname "eth2" ip saddr 198.18.30.11 ip protocol vrrp accept',
)
def ruleset_drops_the_peer(pair: Any) -> None:
    ssh = {
        "match": {
            "op": "==",
            "left": {"payload": {"protocol": "tcp", "field": "dport"}},
            "right": 22,
        }
    }
    pair.n2["firewall"]["objects"] = _ruleset([ssh, {"accept": None}])


@case(
    "firewall",
    "lb2",
    "nftables chain inet filter input (hook input, policy drop)",
    "cannot tell about",
    "The ruleset is too intricate to tell",
    severity="warning",
)
def ruleset_is_intricate(pair: Any) -> None:
    pair.n2["firewall"]["objects"] = _ruleset([{"xt": None}, {"accept": None}])


@case(
    "firewall",
    "lb2",
    "iptables-legacy",
    "-P INPUT DROP",
    "Old iptables rules are loaded",
    severity="warning",
)
def old_iptables_rules(pair: Any) -> None:
    pair.n2["firewall"]["legacy"] = ["-P INPUT DROP", "-A INPUT -p vrrp -j ACCEPT"]


# --- what is synchronized


@case("sync_paths", "lb1", "zcluster_sync_paths", "/etc/haproxy", "not there on the future master")
def path_is_missing_on_the_master(pair: Any) -> None:
    pair.n1["trees"][0] = {"path": "/etc/haproxy", "kind": "missing"}


@case(
    "sync_paths",
    "lb2",
    "zcluster_sync_paths",
    "/etc/haproxy -> /srv/haproxy",
    "This path is a symbolic link",
    "Declare /srv/haproxy instead.",
)
def path_is_a_symlink(pair: Any) -> None:
    pair.n2["trees"][0] = {"path": "/etc/haproxy", "kind": "symlink", "target": "/srv/haproxy"}


@case("sync_paths", "lb2", "zcluster_sync_paths", "/etc/haproxy", "neither a directory nor a file")
def path_is_a_socket(pair: Any) -> None:
    pair.n2["trees"][0] = {"path": "/etc/haproxy", "kind": "other"}


@case(
    "sync_paths",
    "lb2",
    "zcluster_sync_paths",
    "/etc/haproxy",
    "This file is a mount point of its own",
    beside=(),
)
def path_is_a_mounted_file(pair: Any) -> None:
    for node in pair.both():
        node["trees"][0]["kind"] = "file"
    pair.n2["trees"][0]["mount_point"] = True


@case(
    "sync_paths",
    BOTH,
    "zcluster_sync_paths",
    "is a directory on lb1 and a file on lb2",
    "The path is not the same kind of thing on both nodes.",
)
def path_is_of_different_kinds(pair: Any) -> None:
    pair.n2["trees"][0]["kind"] = "file"


@case(
    "sync_paths",
    "lb1",
    "zcluster_sync_paths",
    "/etc/haproxy: more than 200000 entries",
    "This path was not looked through to its end",
    severity="warning",
)
def path_is_huge(pair: Any) -> None:
    pair.n1["trees"][0].update(truncated="more than 200000 entries", digest="")


@case(
    "owners",
    "lb2",
    "owner",
    "varnish is missing",
    "belong to owner varnish, which lb2 does not",
    "adduser --system varnish",
)
def owner_is_missing_on_the_backup(pair: Any) -> None:
    pair.n1["trees"][0]["owners"] = ["root", "varnish"]


@case(
    "owners",
    "lb1",
    "group",
    "ssl is missing",
    "belong to group ssl, which lb1 does not have",
    severity="warning",
)
def group_is_missing_on_the_master(pair: Any) -> None:
    pair.n2["trees"][0]["groups"] = ["root", "ssl"]


@case("owners", "lb1", "owner", "1234", "belong to a number without a name")
def owner_has_no_name(pair: Any) -> None:
    pair.n1["trees"][0]["owners"] = ["1234", "root"]


def _edit(node: dict[str, Any], path: str, digest: str) -> None:
    tree = node["trees"][0]
    tree["digest"] = f"edited {digest}"
    tree["files"] = [{"path": path, "digest": digest, "origin": "modified"}]


@case(
    "replaced",
    "lb2",
    "zcluster_replace_backup",
    "/etc/haproxy/haproxy.cfg",
    "The future backup has configuration of its own under /etc/haproxy",
    "zcluster_replace_backup: true",
)
def backup_was_edited(pair: Any) -> None:
    _edit(pair.n2, "/etc/haproxy/haproxy.cfg", "theirs")


@case("replaced", "lb2", "zcluster_replace_backup", "and 5 more", "configuration of its own")
def backup_has_many_files(pair: Any) -> None:
    _edit(pair.n2, "/etc/haproxy/haproxy.cfg", "theirs")
    pair.n2["trees"][0]["files"] = [
        {"path": f"/etc/haproxy/{n}.cfg", "digest": "x", "origin": "local"} for n in range(15)
    ]


@case(
    "replaced",
    "lb2",
    "zcluster_replace_backup",
    "/etc/haproxy (more than 512 MiB)",
    "configuration of its own",
    beside=("sync_paths",),
)
def backup_is_too_large_to_compare(pair: Any) -> None:
    pair.n2["trees"][0].update(digest="", truncated="more than 512 MiB")


@pytest.mark.parametrize("situation", CASES, ids=[case.arrange.__name__ for case in CASES])
def test_finding(situation: Case, pair: Any) -> None:
    situation.arrange(pair)
    findings = pair.findings()
    said = [f for f in findings if f["check"] == situation.check]
    fitting = [
        f
        for f in said
        if (f["severity"], f["node"], f["field"])
        == (situation.severity, situation.node, situation.field)
        and situation.found in f["found"]
        and situation.message in f["message"]
        and situation.way_out in f["way_out"]
    ]
    assert len(fitting) == 1, said or findings
    assert {f["check"] for f in findings} == {situation.check, *situation.beside}, findings
    assert all(f["way_out"].endswith((".", "accept", "}", ")")) for f in findings), findings


def test_every_check_has_a_situation() -> None:
    assert {case.check for case in CASES} == set(_preflight.CHECKS)


# --- what is no finding


def test_several_findings_come_at_once_errors_first(pair: Any) -> None:
    clocks_differ(pair)
    debian_11(pair)
    vip_is_taken(pair)
    assert [f["check"] for f in pair.findings()] == ["operating_system", "vip_free", "clocks"]


def test_consent_lets_the_backup_be_replaced(pair: Any) -> None:
    backup_was_edited(pair)
    pair.declare(replace_backup=True)
    assert pair.findings() == []


def test_equal_edits_on_both_nodes_replace_nothing(pair: Any) -> None:
    for node in pair.both():
        _edit(node, "/etc/haproxy/haproxy.cfg", "the same")
    assert pair.findings() == []


def test_packaged_configuration_of_the_backup_may_be_replaced(pair: Any) -> None:
    _edit(pair.n1, "/etc/haproxy/haproxy.cfg", "ours")
    pair.n2["trees"][0]["digest"] = "as packaged"
    assert pair.findings() == []


def test_a_member_is_not_asked_about_its_tree_again(pair: Any) -> None:
    pair.install(pair.plan())
    backup_was_edited(pair)
    assert pair.findings() == []


def test_new_machine_never_replaces_what_serves_were_it_the_initial_master(pair: Any) -> None:
    pair.install(pair.plan())
    pair.n1["cluster"] = None
    pair.n2["addresses"][0]["on_interface"] = "eth0"
    _edit(pair.n1, "/etc/haproxy/haproxy.cfg", "an old disk's")
    (found,) = pair.findings()
    assert (found["check"], found["node"]) == ("replaced", "lb1")


def test_a_vip_on_the_future_master_is_adopted(pair: Any) -> None:
    _give(pair.n1, "198.18.10.100")
    pair.n2["addresses"][0]["answered_by"] = ["02:00:00:00:00:11"]
    assert pair.findings() == []


def test_a_vip_on_the_other_node_of_a_live_cluster_stays(pair: Any) -> None:
    pair.install(pair.plan())
    _give(pair.n2, "198.18.10.100")
    pair.n1["addresses"][0]["answered_by"] = ["02:00:00:00:00:12"]
    assert pair.findings() == []


def test_own_adverts_of_a_live_cluster_are_not_foreign(pair: Any) -> None:
    pair.install(pair.plan())
    _hear(pair.n2, 51, source="198.18.10.11")
    assert pair.findings() == []


def test_a_foreign_router_with_the_id_of_a_live_cluster_is_found(pair: Any) -> None:
    pair.install(pair.plan())
    _hear(pair.n2, 51, source="198.18.10.1")
    (finding,) = pair.findings()
    assert finding["check"] == "vrid"
    assert "for example 52." in finding["way_out"]


def test_adverts_of_a_node_without_a_cluster_are_foreign(pair: Any) -> None:
    pair.declare(vrid=51)
    _hear(pair.n2, 51, source="198.18.10.11")
    assert [f["check"] for f in pair.findings()] == ["vrid"]


def test_half_a_cluster_after_a_killed_create_is_no_finding(pair: Any) -> None:
    pair.n1["cluster"] = {**pair.plan(), "local": "n1"}
    assert pair.findings() == []


def test_a_slow_answer_is_not_a_wrong_clock(pair: Any) -> None:
    pair.n2["clock"].update(controller=1003.0, start=1004.5)
    assert pair.findings() == []


def test_failback_may_name_the_inventory_host(pair: Any) -> None:
    pair.declare(failback="lb2")
    assert pair.findings() == []
    assert pair.plan()["failback"] == "n2"
