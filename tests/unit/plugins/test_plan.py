# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what follows from two nodes and their settings, and what stays when they change."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _plan


def hear(node: dict[str, Any], *vrids: int) -> None:
    node["adverts"] = [
        {"interface": "eth0", "vrid": vrid, "source": "198.18.10.1", "version": 2, "priority": 1}
        for vrid in vrids
    ]


def test_plan_of_two_bare_nodes(pair: Any) -> None:
    assert pair.plan() == {
        "name": "web",
        "revision": 1,
        "initial_master": "n1",
        "failback": "disabled",
        "profile": "standard",
        "check_interval": 0.1,
        "missed_adverts": 3,
        "realtime_priority": 50,
        "nodes": [
            {"hostname": "n1", "inventory_hostname": "lb1", "ip": "198.18.30.11",
             "interface": "eth2", "priority": 254},
            {"hostname": "n2", "inventory_hostname": "lb2", "ip": "198.18.30.12",
             "interface": "eth2", "priority": 253},
        ],
        "networks": [
            {"interface": "eth2", "vrid": 51, "lead": "169.254.51.1", "kind": "link",
             "addresses": {"n1": "198.18.30.11", "n2": "198.18.30.12"}},
            {"interface": "eth0", "vrid": 51, "lead": "169.254.51.2", "kind": "served",
             "addresses": {"n1": "198.18.10.11", "n2": "198.18.10.12"}},
        ],
        "vips": [{"address": "198.18.10.100", "prefix": 24, "interface": "eth0"}],
        "witnesses": ["198.18.10.1", "198.18.20.1", "198.18.30.1"],
        "sync": {"paths": ["/etc/haproxy"], "excludes": [],
                 "keep": {"count": 200, "bytes": 1073741824}},
        "services": [
            {"name": "haproxy", "unit": "haproxy.service", "paths": ["/etc/haproxy"],
             "validate": "haproxy -c -f /etc/haproxy/haproxy.cfg", "standby": "hot",
             "on_change": "reload", "command": None, "on_promotion": None, "check": None,
             "after": [], "critical": False, "auto_apply": False, "validate_seconds": 30.0,
             "change_seconds": 30.0, "start_seconds": 30.0, "stop_seconds": 30.0}
        ],
        "preempt_delay": 0.0,
        "master_only": {"routes": [], "rules": [], "addresses": []},
        "metrics_dir": "/var/lib/prometheus/node-exporter",
        "track_interfaces": [],
    }  # fmt: skip


def test_failback_gives_its_node_the_higher_priority(pair: Any) -> None:
    pair.declare(failback="lb2")
    assert {n["hostname"]: n["priority"] for n in pair.plan()["nodes"]} == {"n1": 253, "n2": 254}


@pytest.mark.parametrize("delay", ["soon", -1, 3601])
def test_delay_of_a_failback_has_bounds(pair: Any, delay: object) -> None:
    pair.declare(preempt_delay=delay)
    assert "zcluster_preempt_delay" in {finding["field"] for finding in pair.findings()}


def test_a_profile_sets_the_pace_and_an_explicit_check_interval_wins(pair: Any) -> None:
    def pace(**declared: Any) -> tuple[float, int]:
        pair.declare(**declared)
        plan = pair.plan()
        return plan["check_interval"], plan["missed_adverts"]

    assert pace(check_interval="") == (0.1, 3)
    assert pace(profile="fast") == (0.02, 3)
    assert pace(profile="wan") == (0.5, 6)
    assert pace(profile="wan", check_interval=2) == (2.0, 6)


def test_the_same_input_gives_the_same_plan(pair: Any) -> None:
    assert pair.plan() == pair.plan()


def test_the_initial_master_has_the_higher_priority(pair: Any) -> None:
    pair.declare(initial_master="lb2")
    plan = pair.plan()
    assert plan["initial_master"] == "n2"
    assert [node["priority"] for node in plan["nodes"]] == [253, 254]


def test_ipv6_vips_ride_on_the_instance_of_their_interface(pair: Any) -> None:
    pair.declare(vips=["198.18.20.100/24", "2001:db8:10::100/64"])
    plan = pair.plan()
    assert [n["interface"] for n in plan["networks"]] == ["eth2", "eth0", "eth1"]
    assert plan["vips"][1] == {"address": "2001:db8:10::100", "prefix": 64, "interface": "eth0"}
    assert plan["networks"][1]["addresses"] == {"n1": "198.18.10.11", "n2": "198.18.10.12"}


def test_a_vip_on_the_link_needs_no_second_instance(pair: Any) -> None:
    pair.declare(vips=["198.18.30.100/24"])
    assert [(n["interface"], n["kind"]) for n in pair.plan()["networks"]] == [("eth2", "link")]


def test_the_link_has_the_cluster_ips_even_beside_others(pair: Any) -> None:
    for node, number in zip(pair.both(), (21, 22), strict=True):
        first = node["interfaces"][2]["addresses"][0]
        node["interfaces"][2]["addresses"].insert(0, {**first, "address": f"198.18.30.{number}"})
    assert pair.plan()["networks"][0]["addresses"] == {"n1": "198.18.30.11", "n2": "198.18.30.12"}


def test_a_named_interface_decides(pair: Any) -> None:
    for node, number in zip(pair.both(), (13, 14), strict=True):
        node["interfaces"][1]["addresses"][0]["address"] = f"198.18.10.{number}"
    pair.declare(vips=[{"address": "198.18.10.100/24", "interface": "eth1"}])
    assert pair.plan()["vips"][0]["interface"] == "eth1"


@pytest.mark.parametrize(
    ("heard", "picked"),
    [((), 51), ((51,), 52), ((51, 52, 54), 53), (tuple(range(51, 256)), 1)],
)
def test_a_free_vrid_is_picked(pair: Any, heard: tuple[int, ...], picked: int) -> None:
    hear(pair.n2, *heard)
    assert {n["vrid"] for n in pair.plan()["networks"]} == {picked}


def test_clusters_made_at_the_same_time_pick_different_vrids(pair: Any) -> None:
    picks = []
    for offset in range(3):
        pair.declare(vrid_offset=offset)
        picks.append(pair.plan()["networks"][0]["vrid"])
    assert picks == [51, 52, 53]


def test_an_asked_vrid_is_taken(pair: Any) -> None:
    pair.declare(vrid=7)
    plan = pair.plan()
    assert plan["networks"][0]["vrid"] == 7
    assert plan["networks"][0]["lead"] == "169.254.7.1"


def test_an_existing_vrid_is_kept(pair: Any) -> None:
    hear(pair.n1, 51)
    pair.install(pair.plan())
    pair.n1["adverts"] = []
    pair.declare(check_interval=0.5)
    assert pair.plan()["networks"][0]["vrid"] == 52


def test_unchanged_settings_keep_their_revision(pair: Any) -> None:
    pair.install({**pair.plan(), "revision": 4})
    assert pair.plan()["revision"] == 4


def test_changed_settings_get_the_next_revision(pair: Any) -> None:
    pair.install({**pair.plan(), "revision": 4})
    pair.declare(check_interval=0.2)
    assert pair.plan()["revision"] == 5


def test_the_newer_of_two_revisions_counts(pair: Any) -> None:
    pair.install({**pair.plan(), "revision": 4})
    pair.n2["cluster"]["revision"] = 6
    pair.n2["cluster"]["check_interval"] = 3.0
    assert pair.plan()["revision"] == 7


def test_a_wiped_node_gets_the_revision_of_the_other(pair: Any) -> None:
    pair.install({**pair.plan(), "revision": 4})
    pair.n1["cluster"] = None
    assert pair.plan()["revision"] == 4


def test_settings_of_another_cluster_do_not_count(pair: Any) -> None:
    pair.install({**pair.plan(), "name": "mail", "revision": 9})
    assert pair.plan()["revision"] == 1


def test_networks_keep_their_lead_address_as_others_come_and_go(pair: Any) -> None:
    pair.declare(vips=["198.18.20.100/24"])
    pair.install(pair.plan())
    pair.declare(vips=["198.18.10.100/24", "198.18.20.100/24"])
    leads = {n["interface"]: n["lead"] for n in pair.plan()["networks"]}
    assert leads == {"eth2": "169.254.51.1", "eth1": "169.254.51.2", "eth0": "169.254.51.3"}


def test_lead_addresses_never_collide(pair: Any) -> None:
    vips = ["198.18.10.100/24", "198.18.20.100/24", "198.18.30.100/24"]
    chosen = [list(c) for size in (1, 2, 3) for c in itertools.permutations(vips, size)]
    for first, second in itertools.product(chosen, repeat=2):
        pair.n1["cluster"] = pair.n2["cluster"] = None
        pair.declare(vips=first)
        pair.install(pair.plan())
        pair.declare(vips=second)
        leads = [n["lead"] for n in pair.plan()["networks"]]
        assert len(set(leads)) == len(leads)


def test_no_plan_without_both_nodes(pair: Any) -> None:
    pair.refused["lb2"] = {"unreachable": True, "msg": "timed out"}
    with pytest.raises(_plan.PlanError, match=r"a plan needs two nodes that were seen"):
        pair.plan()


def test_no_plan_for_a_vip_in_no_network(pair: Any) -> None:
    pair.declare(vips=["203.0.113.1/24"])
    with pytest.raises(_plan.PlanError, match=r"contains the virtual IP 203\.0\.113\.1/24"):
        pair.plan()


def test_services_are_planned_in_the_order_in_which_they_start(pair: Any) -> None:
    two = {"name": "two", "after": ["three"]}
    pair.declare(services=["haproxy", {"name": "one"}, two, {"name": "three"}])
    assert [s["name"] for s in pair.plan()["services"]] == ["haproxy", "one", "three", "two"]


def test_a_preset_is_overridden_key_by_key(pair: Any) -> None:
    pair.declare(services=[{"name": "lb", "preset": "haproxy", "standby": "cold"}, "haproxy"])
    own, plain = pair.plan()["services"]
    assert own == {**plain, "name": "lb", "standby": "cold"}
