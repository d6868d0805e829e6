# SPDX-License-Identifier: GPL-3.0-or-later
"""Rulesets as people write them (rulesets/*.nft) and as nft tells them (the .json beside them)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _ruleset
from ansible_collections.zcluster.ha.plugins.module_utils._ruleset import Answer, Packet

RULESETS = Path(__file__).parent / "rulesets"
US, PEER = "198.18.30.11", "198.18.30.12"
PACKETS = {
    "vrrp in": Packet("in", "eth2", PEER, US, 112),
    "vrrp out": Packet("out", "eth2", US, PEER, 112),
    "vrrp in on eth0": Packet("in", "eth0", "198.18.10.12", "198.18.10.11", 112),
    "vrrp out on eth0": Packet("out", "eth0", "198.18.10.11", "198.18.10.12", 112),
    "conntrackd in": Packet("in", "eth2", PEER, US, 17, 3780),
    "conntrackd out": Packet("out", "eth2", US, PEER, 17, 3780),
    "ssh in": Packet("in", "eth2", PEER, US, 6, 22),
    "ssh out": Packet("out", "eth2", US, PEER, 6, 22),
}
IN = {name for name in PACKETS if " in" in name}
OUT = set(PACKETS) - IN
# Ruleset -> the packets it drops, and those about which one cannot tell; all others pass.
EXPECTED: dict[str, tuple[set[str], set[str]]] = {
    "accept_by_policy": (set(), set()),
    "drop_by_policy": (IN - {"ssh in"}, set()),
    "admits_the_peer": (set(), set()),
    "admits_the_link": ({"vrrp in on eth0"}, set()),
    "drops_in_output": ({"vrrp out", "conntrackd out"}, set()),
    "drops_early": ({"vrrp in", "conntrackd in"}, set()),
    "by_reverse_path": (set(), IN),
    "rate_limited": (set(), IN),
    "ours": (set(), set()),
    "goto_and_return": ({"conntrackd in"}, set()),
    "nat_only": (set(), set()),
    "dynamic_and_bits": (set(), {"ssh in"}),
}


def load(name: str) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads((RULESETS / f"{name}.json").read_text())
    return objects


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_ruleset_does_to_the_peers_packets(name: str) -> None:
    dropped, unknown = EXPECTED[name]
    objects = _ruleset.relevant(load(name))
    answers = {what: _ruleset.judge(objects, packet).answer for what, packet in PACKETS.items()}
    assert {what for what, answer in answers.items() if answer is Answer.DROPPED} == dropped
    assert {what for what, answer in answers.items() if answer is Answer.UNKNOWN} == unknown


def test_every_ruleset_is_judged() -> None:
    assert {path.stem for path in RULESETS.glob("*.json")} == set(EXPECTED)


def test_the_chain_that_drops_is_named() -> None:
    verdict = _ruleset.judge(load("drops_early"), PACKETS["vrrp in"])
    assert verdict.chain == "ip raw prerouting (hook prerouting, policy accept)"


def test_only_what_decides_about_the_nodes_own_packets_travels() -> None:
    assert _ruleset.relevant(load("nat_only")) == ()
    kept = _ruleset.relevant(load("admits_the_link"))
    assert {o["chain"]["name"] for o in kept if "chain" in o} == {"input", "web"}


def test_a_large_set_is_cut_and_then_unknown() -> None:
    objects = load("admits_the_peer")
    for item in objects:
        if "set" in item:
            item["set"]["elem"] = [f"10.0.{n // 256}.{n % 256}" for n in range(2000)]
    kept = _ruleset.relevant(objects)
    assert all("elem" not in item["set"] for item in kept if "set" in item)
    assert _ruleset.judge(kept, PACKETS["vrrp in"]).answer is Answer.UNKNOWN


def test_chains_that_jump_in_circles_end() -> None:
    where = {"family": "ip", "table": "t"}
    jump = {"rule": {**where, "chain": "a", "expr": [{"jump": {"target": "a"}}]}}
    chain = {**where, "name": "a", "type": "filter", "hook": "input", "policy": "accept"}
    verdict = _ruleset.judge([{"chain": chain}, jump], PACKETS["vrrp in"])
    assert verdict.answer is Answer.UNKNOWN
