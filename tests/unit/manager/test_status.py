# SPDX-License-Identifier: GPL-3.0-or-later
# The status of a node: one decision, and the message says why.
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import activation, addresses, conntrack, keepalived, receive, reconcile
from zclustermanager import settings as declared_settings
from zclustermanager.conntrack import Conntrackd, Traffic
from zclustermanager.keepalived import Instance, Keepalived, State
from zclustermanager.reconcile import Action, Role
from zclustermanager.settings import Cluster, SettingsError
from zclustermanager.status import Links, Observation, Peer, Sync, Tables, decide

VIPS = frozenset({"198.18.10.100", "2001:db8:10::100", "169.254.51.2"})


def vrrp(state: State) -> Keepalived:
    """A running keepalived with one instance."""
    return Keepalived(True, (Instance("eth0", state, 254),))


HEALTHY_MASTER = Observation(
    maintenance=False,
    keepalived=vrrp(State.MASTER),
    held=VIPS,
    conntrackd=Conntrackd(True, True),
    daemon=True,
    guard=True,
    peer=Peer(True, True, master=False),
    sync=Sync("in sync", sending=True),
    rejected={},
)
HEALTHY_BACKUP = replace(
    HEALTHY_MASTER,
    keepalived=vrrp(State.BACKUP),
    held=frozenset(),
    peer=Peer(True, True, master=True),
    sync=Sync("in sync"),
)


def test_healthy_master_and_backup_are_green_in_zevenets_words(cluster: Cluster) -> None:
    for seen, role, message in (
        (HEALTHY_MASTER, "master", "Node online and active"),
        (HEALTHY_BACKUP, "backup", "Node online and passive"),
    ):
        answer = decide(cluster, seen)
        assert (answer["role"], answer["status"], answer["message"]) == (role, "ok", message)
    assert decide(cluster, HEALTHY_MASTER)["vips_held"] == ["198.18.10.100", "2001:db8:10::100"]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(HEALTHY_MASTER, conntrackd=Conntrackd(False)), "Failed services: conntrackd"),
        (replace(HEALTHY_MASTER, daemon=False), "Failed services: zclustermanager"),
        (
            replace(HEALTHY_BACKUP, keepalived=Keepalived(False, why="not running")),
            "Failed services: keepalived",
        ),
        (
            replace(HEALTHY_BACKUP, conntrackd=Conntrackd(False), daemon=False),
            "Failed services: conntrackd, zclustermanager",
        ),
        (replace(HEALTHY_MASTER, guard=False), "table inet zcluster is missing"),
        (
            replace(HEALTHY_BACKUP, kernel=("nf_conntrack_tcp_loose is 1, not 0",)),
            "would be reset at a takeover: nf_conntrack_tcp_loose is 1, not 0",
        ),
        (
            replace(HEALTHY_BACKUP, no_carrier=("eth1",)),
            "the tracked interface eth1 has no carrier",
        ),
        (replace(HEALTHY_MASTER, held=frozenset({"198.18.10.100"})), "VIP missing: 2001:db8"),
        (replace(HEALTHY_BACKUP, held=VIPS), "holds 169.254.51.2"),
        (replace(HEALTHY_MASTER, sync=Sync("in sync")), "the master is not sending"),
        (
            replace(HEALTHY_MASTER, peer=Peer(True, True, master=True)),
            "both nodes are master",
        ),
        (
            replace(HEALTHY_MASTER, peer=Peer(True, trusted=False, why="Permission denied")),
            "peer: Permission denied",
        ),
        (
            replace(HEALTHY_BACKUP, conntrackd=Conntrackd(True, False)),
            "connection tracking hears no peer",
        ),
        (
            replace(HEALTHY_BACKUP, rejected={"haproxy": "rejected by haproxy: line 3"}),
            "rejected by haproxy: line 3",
        ),
        (
            replace(HEALTHY_MASTER, sync=Sync("diverged", "both changed", sending=True)),
            "synchronization diverged: both changed",
        ),
        (
            replace(HEALTHY_BACKUP, sync=Sync("diverged", "both changed")),
            "synchronization diverged: both changed",
        ),
        (
            replace(HEALTHY_MASTER, sync=Sync("pending", "n2: no answer", sending=True, lag=61)),
            "synchronization pending for 61 s: n2: no answer",
        ),
        (
            replace(HEALTHY_BACKUP, tables=Tables(here=250_000, room=262_144)),
            "no room for connections: 250000 of 262144",
        ),
        (
            replace(HEALTHY_MASTER, tables=Tables(here=950, room=5000, peer_room=1000)),
            "950 connections do not fit on n2, which has room for 1000",
        ),
        (
            replace(HEALTHY_BACKUP, path=Links({"eth1": {"198.18.20.1": "silent"}}, ("eth1",))),
            "no witness answers on eth1 (198.18.20.1)",
        ),
        (replace(HEALTHY_MASTER, peer_silent=6.0), "no report of n2 arrives"),
        (
            replace(HEALTHY_MASTER, restarts={"keepalived.service": 4}),
            "keepalived.service was restarted 4 times in a minute",
        ),
        (
            replace(HEALTHY_BACKUP, stale="settings are revision 3, n2 has 4"),
            "settings are revision 3, n2 has 4",
        ),
        (
            replace(HEALTHY_BACKUP, keepalived=vrrp(State.FAULT)),
            "heartbeat in fault: eth0 FAULT",
        ),
    ],
)
def test_whatever_is_wrong_is_red_and_named(
    cluster: Cluster, seen: Observation, words: str
) -> None:
    answer = decide(cluster, seen)
    assert answer["status"] == "failure"
    assert words in answer["message"]


def test_what_waits_for_a_moment_is_green_and_an_edit_on_the_backup_is_named(
    cluster: Cluster,
) -> None:
    sending = replace(HEALTHY_MASTER, sync=Sync("pending", "sending", sending=True, lag=2.0))
    assert decide(cluster, sending)["status"] == "ok"
    edited = replace(HEALTHY_BACKUP, sync=Sync("pending", "edited here (/etc/x)"))
    answer = decide(cluster, edited)
    assert answer["status"] == "ok"
    assert answer["message"] == "Node online and passive; edited here (/etc/x)"
    late = "changes are found late: see fs.inotify.max_user_watches"
    answer = decide(cluster, replace(HEALTHY_MASTER, sync=Sync("in sync", late, sending=True)))
    assert answer["status"] == "ok"
    assert answer["message"] == f"Node online and active; {late}"


def test_pause_is_orange_on_either_node_with_who_and_why(cluster: Cluster) -> None:
    for healthy in (HEALTHY_MASTER, HEALTHY_BACKUP):
        answer = decide(
            cluster, replace(healthy, sync=Sync("paused", "paused by ann: racks", True))
        )
        assert answer["status"] == "maintenance"
        assert answer["message"].endswith("; synchronization paused by ann: racks")


def test_dead_peer_is_said_but_does_not_make_the_survivor_red(cluster: Cluster) -> None:
    alone = replace(
        HEALTHY_MASTER,
        peer=Peer(False),
        conntrackd=Conntrackd(True, False),
        sync=Sync("pending", sending=True),
    )
    answer = decide(cluster, alone)
    assert answer["status"] == "ok"
    assert answer["message"] == "Node online and active; n2 is unreachable"


def test_addresses_of_the_service_belong_on_the_master_and_nowhere_else(
    declared: dict[str, Any],
) -> None:
    declared["master_only"] = {"addresses": [{"words": "2001:DB8::7/128 dev lo", "family": 6}]}
    cluster = declared_settings.parse(declared)
    here = frozenset({"2001:db8::7"})
    for seen, words in (
        (replace(HEALTHY_MASTER, master_addresses=here), "Node online and active"),
        (HEALTHY_MASTER, "address missing: 2001:db8::7"),
        (replace(HEALTHY_BACKUP, master_addresses=here), "holds 2001:db8::7"),
        (HEALTHY_BACKUP, "Node online and passive"),
    ):
        assert decide(cluster, seen)["message"] == words


def test_service_that_is_on_its_way_up_is_said(cluster: Cluster) -> None:
    starting = ({"name": "batch", "state": "starting", "why": ""},)
    said = decide(cluster, replace(HEALTHY_MASTER, services=starting))
    assert said["message"] == "Node online and active; starting: batch"


def test_peer_that_lives_behind_a_dead_cluster_link_is_red_on_both(cluster: Cluster) -> None:
    for seen in (HEALTHY_MASTER, HEALTHY_BACKUP):
        answer = decide(cluster, replace(seen, peer=Peer(False), peer_heard=True))
        assert answer["status"] == "failure"
        assert "n2 lives, but does not answer on the cluster link" in answer["message"]


def test_maintenance_is_orange_only_while_nothing_is_wrong(cluster: Cluster) -> None:
    seen = replace(HEALTHY_BACKUP, maintenance=True, keepalived=vrrp(State.FAULT))
    assert decide(cluster, seen)["status"] == "maintenance"
    broken = replace(seen, conntrackd=Conntrackd(False))
    assert decide(cluster, broken)["status"] == "failure"


@pytest.mark.parametrize("applied", list(Role))
@pytest.mark.parametrize("serving", [True, False])
def test_applied_role_always_ends_where_the_kernel_is(applied: Role, serving: bool) -> None:
    step = reconcile.transition(applied, serving=serving)
    reached = step.to if step else applied
    assert reached is (Role.MASTER if serving else Role.BACKUP)
    assert reconcile.transition(reached, serving=serving) is None


def test_a_node_sends_only_after_its_term_is_open_and_stops_before_it_is_closed() -> None:
    to_master, to_backup = reconcile.TO_MASTER, reconcile.TO_BACKUP
    assert to_master.index(Action.OPEN_TERM) < to_master.index(Action.START_SENDER)
    assert to_backup.index(Action.STOP_SENDER) < to_backup.index(Action.CLOSE_TERM)


def test_missing_field_in_the_settings_is_named(declared: dict[str, Any]) -> None:
    del declared["check_interval"]
    with pytest.raises(SettingsError, match="check_interval"):
        declared_settings.parse(declared)


def test_node_without_settings_is_in_no_cluster(tmp_path: Path) -> None:
    assert declared_settings.load(tmp_path / "cluster.json") is None


def test_keepalived_dumps_of_both_layouts_are_read() -> None:
    entry = {"data": {"iname": "eth0", "state": 2, "effective_priority": 254}}
    for document in ([entry], {"vrrp": [entry]}):
        (instance,) = keepalived.parse(json.dumps(document))
        assert instance == Instance("eth0", State.MASTER, 254)


def test_group_in_disagreement_is_no_role_and_any_fault_is_fault() -> None:
    def group(*states: State) -> State | None:
        return Keepalived(True, tuple(Instance("x", s, 1) for s in states)).state

    assert group(State.MASTER, State.BACKUP) is State.INIT
    assert group(State.MASTER, State.FAULT) is State.FAULT
    assert group() is None


def test_conntrackd_counters_are_read() -> None:
    text = """
    network statistics:
        recv messages:          3

    UDP traffic (active device=eth2):
                12345 Bytes sent               678 Bytes recv
                   10 Pckts sent                 9 Pckts recv
    """
    assert conntrack.parse(text) == Traffic(12345, 678)
    assert conntrack.parse("no such thing") is None


CACHES = """\
cache internal:
current active connections:\t          12
connections created:\t\t           2\tfailed:\t           0

cache external:
current active connections:\t         340
connections created:\t\t           0\tfailed:\t           0

message tracking:
                   0 Malformed msgs                    7 Lost msgs
"""
QUEUES = """\
queue txqueue:
current elements:\t\t           1

queue rsqueue:
current elements:\t\t          56
maximum elements:\t\t      131072
"""


def test_how_far_behind_the_peer_is_is_read_from_conntrackds_own_counters() -> None:
    assert conntrack.parse_figures(CACHES, QUEUES) == conntrack.Figures(12, 340, 56, 7)
    assert conntrack.parse_figures("", "") is None


def test_services_that_depend_on_a_changed_path_are_found(cluster: Cluster) -> None:
    def names(*paths: str) -> list[str]:
        return [s.name for s in activation.depending(cluster.services, paths)]

    assert names("/etc/haproxy/certs/a.pem") == ["haproxy"]
    assert names("/etc/nftables.conf", "/etc/haproxy") == ["haproxy", "nftables"]
    assert names("/etc/haproxy2", "/etc/nftables.conf.bak") == []


def test_addresses_of_the_cluster_are_told_from_the_nodes_own(cluster: Cluster) -> None:
    held = addresses.held(cluster, {"198.18.10.11", "198.18.10.100", "169.254.51.2"})
    assert held == ["198.18.10.100", "169.254.51.2"]


TOKEN = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("command", "parsed"),
    [
        ("ping", ("ping", "")),
        ("offer", ("offer", "")),
        (f"commit {TOKEN}", ("commit", TOKEN)),
        (f"rsync --server -rSWe.LsfxCIvu . {TOKEN}/", ("rsync", TOKEN)),
    ],
)
def test_gate_lets_in_what_the_peer_asks(command: str, parsed: tuple[str, str]) -> None:
    assert receive.parse(command) == parsed


@pytest.mark.parametrize(
    "command",
    [
        "",
        "id",
        "ping ",
        "ping\nid",
        f"commit {TOKEN}\n",
        "commit ../../etc",
        f"commit {TOKEN.upper()}",
        "rsync --server -e.LsfxCIvu . /etc/",
        f"rsync --server --sender -e.LsfxCIvu . {TOKEN}/",
        f"rsync --server --daemon . {TOKEN}/",
        f"rsync --server -s . {TOKEN}/",
        f"rsync --server -rSWse.LsfxCIvu . {TOKEN}/",
        f"rsync --server -rlKe.LsfxCIvu . {TOKEN}/",
        f"rsync --server -rSWDe.LsfxCIvu . {TOKEN}/",
        f"rsync --server -rSWe.LsfxCIvu --log-file=/etc/x . {TOKEN}/",
        f"rsync --server -rSWe.LsfxCIvu . {TOKEN}/../",
        f"rsync --server -rSWe.LsfxCIvu . /{TOKEN}/",
        f"rsync --server -rSWe.LsfxCIvu . {TOKEN}/ /etc/",
    ],
)
def test_gate_refuses_everything_else(command: str) -> None:
    with pytest.raises(receive.RequestError, match="is not allowed"):
        receive.parse(command)


@pytest.mark.parametrize(
    ("interval", "realtime", "said"),
    [(0.02, False, True), (0.02, True, False), (0.02, None, False), (0.1, False, False)],
)
def test_fast_heartbeat_without_real_time_priority_is_said_and_not_red(
    cluster: Cluster, interval: float, realtime: bool | None, said: bool
) -> None:
    heartbeat = replace(vrrp(State.MASTER), realtime=realtime)
    seen = replace(HEALTHY_MASTER, keepalived=heartbeat)
    answer = decide(replace(cluster, check_interval=interval), seen)
    assert answer["status"] == "ok"
    assert ("no real-time priority" in answer["message"]) is said
    assert answer["realtime"] is realtime


@pytest.mark.parametrize(
    ("priorities", "found"), [((0, 50), True), ((0,), False), ((), None), (("x",), None)]
)
def test_priority_is_that_of_keepalived_s_children(
    tmp_path: Path, priorities: tuple[object, ...], found: bool | None
) -> None:
    (tmp_path / "7/task/7").mkdir(parents=True)
    numbers = range(8, 8 + len(priorities))
    (tmp_path / "7/task/7/children").write_text("".join(f"{n} " for n in numbers))
    for number, priority in zip(numbers, priorities, strict=True):
        (tmp_path / str(number)).mkdir()
        # proc(5): pid, name and state come first, rt_priority is the 40th.
        before = " ".join(["1"] * 36)
        text = f"{number} (keep (a) live) S {before} {priority} 2 0\n"
        (tmp_path / str(number) / "stat").write_text(text)
    assert keepalived.realtime(7, tmp_path) is found
    assert keepalived.realtime(6, tmp_path) is None


def test_versions_that_differ_are_shown_and_not_red(cluster: Cluster) -> None:
    old, new = {"keepalived": "2.2.7", "zcluster": "0.1"}, {"keepalived": "2.2.8"}
    seen = replace(HEALTHY_MASTER, versions=old, peer=Peer(True, True, False, versions=new))
    answer = decide(cluster, seen)
    assert answer["status"] == "ok"
    assert answer["message"].endswith("versions differ: keepalived 2.2.7 here, 2.2.8 there")
