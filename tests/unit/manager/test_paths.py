# SPDX-License-Identifier: GPL-3.0-or-later
# Who gives its service away when a link is silently dead: two nodes, their witnesses, a clock.
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from zclustermanager import paths, prober, witnesses
from zclustermanager.paths import Peer, Report, Verdict, Watch

STEP = 0.1
WITNESS = {"eth0": ("198.18.10.1",), "eth1": ("198.18.20.60", "198.18.20.61")}


@dataclass
class Node:
    """One node as prober.py runs it, with what its links and witnesses do."""

    name: str
    offset: float
    silent: set[str] = field(default_factory=set)
    able: bool = True
    talks: bool = True
    watch: Watch = field(default_factory=lambda: Watch(3))
    verdict: Verdict = field(default_factory=Verdict)

    def __post_init__(self) -> None:
        self.watch.watch(WITNESS)
        self.peer = Peer(self.name, 1.0)

    def tick(self, now: float, dead: set[str]) -> str:
        """Judge, decide, probe; what answers answers at once."""
        asked = [(i, a) for i, known in self.watch.networks.items() for a in known]
        for interface, address in asked:
            self.watch.probe(interface, address, now + self.offset)
        why = self.verdict.step(self.watch, self.peer, now + self.offset)
        for interface, address in asked:
            if interface not in self.silent and address not in dead:
                self.watch.answer(interface, address)
        return why

    def report(self, now: float) -> Report:
        local = now + self.offset
        nonce, echo, hold = self.peer.echo(local)
        return Report(
            self.name, local, nonce, echo, hold,
            able=self.able and not self.watch.deaf_networks(),
            master=False,
            ages=self.watch.ages(local),
        )  # fmt: skip


class Pair:
    """Two nodes with clocks of their own; the second ticks half a step after the first."""

    def __init__(self) -> None:
        self.one, self.two = Node("n1", 1000.0), Node("n2", 5.0)
        self.now = 0.0
        self.dead: set[str] = set()
        self.out: list[tuple[bool, bool]] = []

    def run(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds / STEP)):
            for node, other, shift in ((self.one, self.two, 0.0), (self.two, self.one, STEP / 2)):
                now = self.now + shift
                node.tick(now, self.dead)
                if node.talks:
                    report = node.report(now)
                    other.peer.receive(report, now + 0.001 + other.offset, other.watch)
            self.now += STEP
            self.out.append((bool(self.one.verdict.why), bool(self.two.verdict.why)))

    @property
    def anybody_out(self) -> tuple[bool, bool]:
        """Whether each node ever left service."""
        return any(one for one, _ in self.out), any(two for _, two in self.out)


@pytest.fixture
def pair() -> Pair:
    """Two healthy nodes that have seen their witnesses."""
    made = Pair()
    made.run(1.0)
    assert made.anybody_out == (False, False)
    return made


@pytest.mark.parametrize(
    ("check_interval", "pace"), [(0.02, 0.1), (0.1, 0.1), (0.5, 0.5), (40.0, 0.5)]
)
def test_links_are_probed_more_than_once_a_second_however_slow_the_heartbeat_is(
    check_interval: float, pace: float
) -> None:
    assert prober.pace(check_interval) == pace


def test_node_with_a_silent_link_leaves_service_within_a_second(pair: Pair) -> None:
    pair.one.silent = {"eth1"}
    pair.run(0.8)
    assert pair.anybody_out == (True, False)
    assert "eth1 is dead" in pair.one.verdict.why


def test_witness_that_dies_for_both_moves_nothing(pair: Pair) -> None:
    pair.dead = {"198.18.10.1"}
    pair.run(5.0)
    pair.dead = set()
    pair.run(5.0)
    assert pair.anybody_out == (False, False)


@pytest.mark.parametrize("moment", [0.0, 0.03, 0.06])
def test_witness_that_reboots_again_and_again_moves_nothing(pair: Pair, moment: float) -> None:
    pair.now += moment
    for _ in range(5):
        pair.dead = {"198.18.10.1", "198.18.20.60", "198.18.20.61"}
        pair.run(1.3)
        pair.dead = set()
        pair.run(0.7)
    assert pair.anybody_out == (False, False)


def test_one_of_two_witnesses_is_enough(pair: Pair) -> None:
    pair.dead = {"198.18.20.60"}
    pair.run(3.0)
    assert pair.anybody_out == (False, False)
    assert pair.one.watch.told()["eth1"]["198.18.20.60"] == "silent"


def test_each_with_another_dead_link_stays(pair: Pair) -> None:
    pair.one.silent, pair.two.silent = {"eth0"}, {"eth1"}
    pair.run(3.0)
    assert (bool(pair.one.verdict.why), bool(pair.two.verdict.why)) == (False, False)


def test_no_node_leaves_for_a_peer_that_cannot_take_over(pair: Pair) -> None:
    pair.two.able = False
    pair.one.silent = {"eth0"}
    pair.run(3.0)
    assert pair.anybody_out == (False, False)


def test_node_out_of_service_comes_back_when_its_peer_falls_silent(pair: Pair) -> None:
    pair.one.silent = {"eth0"}
    pair.run(1.0)
    assert pair.one.verdict.why
    pair.two.talks = False
    pair.run(1.5)
    assert not pair.one.verdict.why


def test_healed_link_counts_only_after_it_was_calm(pair: Pair) -> None:
    pair.one.silent = {"eth0"}
    pair.run(1.0)
    pair.one.silent = set()
    pair.run(0.5)
    assert pair.one.verdict.why
    pair.run(1.0)
    assert not pair.one.verdict.why


def test_witness_never_seen_means_nothing() -> None:
    pair = Pair()
    pair.one.silent = {"eth0"}
    pair.run(3.0)
    assert pair.anybody_out == (False, False)
    assert pair.one.watch.told()["eth0"]["198.18.10.1"] == "never seen"


def test_node_that_boots_with_a_dead_link_knows_that_only_its_peer_sees_a_witness() -> None:
    pair = Pair()
    pair.one.silent = {"eth0"}
    pair.run(1.0)
    now = pair.now + pair.one.offset
    assert paths.blind(pair.one.watch, pair.one.peer, now) == ("eth0",)
    pair.one.silent = set()
    pair.run(0.5)
    now = pair.now + pair.one.offset
    assert paths.blind(pair.one.watch, pair.one.peer, now) == ()


def test_late_and_repeated_reports_are_discarded(pair: Pair) -> None:
    now = pair.now
    fresh = pair.two.report(now)
    one = pair.one
    assert one.peer.receive(fresh, now + 0.001 + one.offset, one.watch)
    assert not one.peer.receive(fresh, now + 0.002 + one.offset, one.watch)
    late = replace(pair.two.report(now), hold=fresh.hold + 0.01)
    assert not one.peer.receive(late, now + 1.5 + one.offset, one.watch)
    stranger = replace(pair.two.report(now), echo_nonce="another life", hold=fresh.hold + 0.02)
    assert not one.peer.receive(stranger, now + 0.003 + one.offset, one.watch)


def test_what_the_peer_heard_before_our_own_miss_proves_nothing(pair: Pair) -> None:
    pair.one.silent = {"eth0"}
    # The peer's probes of the witness stop, its reports go on: its success grows old.
    pair.two.silent = {"eth0"}
    pair.two.watch.allowed = 1000
    pair.run(3.0)
    assert pair.anybody_out == (False, False)


def test_reports_travel_as_json() -> None:
    report = Report("a", 1.0, "b", 2.0, 0.1, True, False, {"198.18.10.1": 0.05}, 10, 100, 3)
    assert paths.undump(paths.dump(report)) == report
    for broken in (None, [], {}, {**paths.dump(report), "ages": {"x": "y"}}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            paths.undump(broken)


LINKS: list[dict[str, Any]] = [
    {
        "ifname": "eth0",
        "addr_info": [
            {"local": "198.18.10.11", "prefixlen": 24, "scope": "global"},
            {"local": "198.18.99.100", "prefixlen": 24, "scope": "global"},
            {"local": "2001:db8:10::11", "prefixlen": 64, "scope": "global"},
            {"local": "fe80::1", "prefixlen": 64, "scope": "link"},
        ],
    },
    {
        "ifname": "eth1",
        "addr_info": [{"local": "198.18.20.11", "prefixlen": 24, "scope": "global"}],
    },
]


def test_witnesses_are_configured_ones_then_gateways_then_backends() -> None:
    chosen = witnesses.choose(
        ["eth0", "eth1"],
        witnesses.subnets(LINKS, ["198.18.99.100"]),
        ["198.18.10.50", "2001:db8:10::50", "198.18.99.1"],
        witnesses.gateways(
            [
                {"dst": "192.0.2.0/24", "gateway": "198.18.20.1", "dev": "eth1"},
                {"dst": "default", "gateway": "198.18.10.1", "dev": "eth0"},
            ]
        ),
        ["198.18.20.60", "198.18.10.12"],
        ["198.18.10.12"],
    )
    assert chosen == {
        "eth0": ("198.18.10.50", "2001:db8:10::50", "198.18.10.1"),
        "eth1": ("198.18.20.1", "198.18.20.60"),
    }


def test_backends_are_found_in_rules_and_in_the_maps_they_use() -> None:
    ruleset = {
        "nftables": [
            {"map": {"name": "farm", "elem": [[0, "198.18.20.60"], [1, "198.18.20.61"]]}},
            {"map": {"name": "other", "elem": [[0, "198.18.20.99"]]}},
            {"rule": {"expr": [{"match": {"right": "198.18.10.100"}},
                               {"dnat": {"addr": {"map": {"key": {}, "data": "@farm"}}}}]}},
            {"rule": {"expr": [{"dnat": {"addr": "198.18.20.62", "port": 80}}]}},
        ]
    }  # fmt: skip
    assert witnesses.dnat_targets(ruleset) == ["198.18.20.60", "198.18.20.61", "198.18.20.62"]


def test_servers_of_haproxy_are_found_by_address() -> None:
    text = """
    backend web
        server a 198.18.20.60:80 check
        server b ipv6@[2001:db8:20::60]:80
        server c web.example.org:80
        # server d 198.18.20.99:80
    """
    assert witnesses.servers(text) == ["198.18.20.60", "2001:db8:20::60"]
