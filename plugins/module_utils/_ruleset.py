# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Would a ruleset of nftables let a packet pass? Three answers: yes, no, and cannot tell."""

from __future__ import annotations

import enum
import ipaddress
import typing as t
from dataclasses import dataclass

Json = t.Dict[str, t.Any]
HOOKS = {"in": ("prerouting", "input"), "out": ("output", "postrouting")}
FAMILIES = ("ip", "inet")
OWN_TABLES = ("zcluster",)
SET_LIMIT = 1000
# Statements that neither match nor decide.
PASSING = (
    "counter", "log", "comment", "mangle", "notrack", "meter", "ct helper", "ct timeout",
    "ct expectation", "flow", "last",
)  # fmt: skip
VERDICTS = ("accept", "drop", "reject", "return", "continue", "jump", "goto", "queue")
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58}
PROTOCOLS.update({"ipv6-icmp": 58, "vrrp": 112, "sctp": 132, "udplite": 136, "dccp": 33})
SERVICES = {"ssh": 22}
VRRP, TCP, UDP = PROTOCOLS["vrrp"], PROTOCOLS["tcp"], PROTOCOLS["udp"]
CONNTRACKD_PORT = 3780
REPORTS_PORT = 3781


class Answer(enum.Enum):
    """Whether the packet passes."""

    PASSES = "passes"
    DROPPED = "dropped"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Packet:
    """The first packet of a flow between the nodes (IPv4, connection state new)."""

    direction: str  # "in" or "out", seen from the node that has the ruleset
    interface: str
    source: str
    target: str
    protocol: int
    port: t.Optional[int] = None


@dataclass(frozen=True)
class Wire:
    """A network of both nodes: the node's interface on it, both addresses."""

    interface: str
    here: str
    there: str


@dataclass(frozen=True)
class Judgement:
    """The answer, and the chain that gave it."""

    answer: Answer
    chain: str = ""


def relevant(objects: object) -> t.Tuple[Json, ...]:
    """The part of `nft -j list ruleset` that decides about packets to and from the node itself."""
    items = [o for o in objects if isinstance(o, dict)] if isinstance(objects, list) else []
    chains = {_name(o["chain"]): o["chain"] for o in items if "chain" in o}
    rules: t.Dict[t.Tuple[str, str, str], t.List[Json]] = {}
    for item in items:
        if "rule" in item:
            rule = item["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
    maps = [item["map"] for item in items if "map" in item]
    wanted = [key for key, chain in chains.items() if _decides(chain)]
    reached: t.Set[t.Tuple[str, str, str]] = set()
    while wanted:
        key = wanted.pop()
        if key in reached:
            continue
        reached.add(key)
        nearby = [m.get("elem", []) for m in maps if (m["family"], m["table"]) == key[:2]]
        targets = _targets([r.get("expr", []) for r in rules.get(key, [])] + nearby)
        wanted += [(key[0], key[1], target) for target in targets]
    kept: t.List[Json] = [{"chain": chain} for key, chain in chains.items() if key in reached]
    kept += [{"rule": rule} for key, group in rules.items() if key in reached for rule in group]
    tables = {key[:2] for key in reached}
    for kind in ("set", "map"):
        for item in items:
            if kind in item and (item[kind]["family"], item[kind]["table"]) in tables:
                kept.append({kind: _short(item[kind])})
    return tuple(kept)


def judge(objects: t.Sequence[Json], packet: Packet) -> Judgement:
    """Walk the packet through every base chain it meets; each has to let it pass."""
    return _Ruleset(objects).judge(packet)


def flows(
    heartbeats: t.Iterable[Wire], link: Wire, *, ssh_here: int = 22, ssh_there: int = 22
) -> t.Iterator[t.Tuple[str, Packet]]:
    """What the nodes say to each other, as first packets seen from this node, each with a name."""
    for direction in ("in", "out"):
        ssh = ssh_here if direction == "in" else ssh_there
        for wire in heartbeats:
            yield f"VRRP {direction} on {wire.interface}", _packet(direction, wire, VRRP)
        yield (
            f"conntrackd {direction} (UDP {CONNTRACKD_PORT})",
            _packet(direction, link, UDP, CONNTRACKD_PORT),
        )
        yield f"SSH {direction} (TCP {ssh})", _packet(direction, link, TCP, ssh)


def reports(link: Wire) -> t.List[Packet]:
    """What the nodes report about their links, both ways; without it they still fail over."""
    return [_packet(direction, link, UDP, REPORTS_PORT) for direction in ("in", "out")]


def _packet(direction: str, wire: Wire, protocol: int, port: t.Optional[int] = None) -> Packet:
    ends = (wire.there, wire.here) if direction == "in" else (wire.here, wire.there)
    return Packet(direction, wire.interface, *ends, protocol=protocol, port=port)


def _name(chain: Json) -> t.Tuple[str, str, str]:
    return chain["family"], chain["table"], chain["name"]


def _decides(chain: Json) -> bool:
    return (
        chain.get("type") == "filter"
        and chain.get("hook") in HOOKS["in"] + HOOKS["out"]
        and chain["family"] in FAMILIES
        and chain["table"] not in OWN_TABLES
    )


def _targets(value: object) -> t.Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("jump", "goto") and isinstance(item, dict):
                yield item.get("target", "")
            else:
                yield from _targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item)


def _short(named: Json) -> Json:
    if len(named.get("elem", [])) <= SET_LIMIT:
        return named
    return {**{k: v for k, v in named.items() if k != "elem"}, "cut": True}


class _UnknownError(Exception):
    """An expression that is not understood, or that depends on more than the packet."""


class _Ruleset:
    def __init__(self, objects: t.Sequence[Json]) -> None:
        self.chains = {_name(o["chain"]): o["chain"] for o in objects if "chain" in o}
        self.rules: t.Dict[t.Tuple[str, str, str], t.List[Json]] = {}
        self.sets: t.Dict[t.Tuple[str, str, str], Json] = {}
        for item in objects:
            if "rule" in item:
                rule = item["rule"]
                key = (rule["family"], rule["table"], rule["chain"])
                self.rules.setdefault(key, []).append(rule)
            for kind in ("set", "map"):
                if kind in item:
                    self.sets[_name(item[kind])] = item[kind]

    def judge(self, packet: Packet) -> Judgement:
        doubt = Judgement(Answer.PASSES)
        for key, chain in self.chains.items():
            if not _decides(chain) or chain["hook"] not in HOOKS[packet.direction]:
                continue
            policy = "drop" if chain.get("policy") == "drop" else "accept"
            ends = self._walk(key, packet, 0)
            verdicts = {policy if verdict in ("end", "return") else verdict for verdict in ends}
            name = f"{key[0]} {key[1]} {key[2]} (hook {chain['hook']}, policy {policy})"
            if verdicts == {"drop"}:
                return Judgement(Answer.DROPPED, name)
            if verdicts != {"accept"} and doubt.answer is Answer.PASSES:
                doubt = Judgement(Answer.UNKNOWN, name)
        return doubt

    def _walk(self, key: t.Tuple[str, str, str], packet: Packet, depth: int) -> t.Set[str]:
        """The verdicts with which a walk through this chain may end."""
        if depth > 16:  # NFT_JUMP_STACK_SIZE
            return {"unknown"}
        possible: t.Set[str] = set()
        for rule in self.rules.get(key, []):
            certain, verdicts = self._rule(key, rule.get("expr", []), packet, depth)
            goes_on = "end" in verdicts or not certain
            possible |= verdicts - {"end"}
            if not goes_on:
                return possible
        return possible | {"end"}

    def _rule(
        self, key: t.Tuple[str, str, str], statements: t.Sequence[Json], packet: Packet, depth: int
    ) -> t.Tuple[bool, t.Set[str]]:
        """(whether the rule surely applies, how the walk goes on if it does: "end" = next rule)."""
        certain = True
        for statement in statements:
            (name, body), *_more = statement.items()
            if name in VERDICTS:
                return certain, self._verdict(key, name, body, packet, depth)
            if name == "vmap":
                known, verdicts = self._verdict_map(key, body, packet, depth)
                return certain and known, verdicts
            if name in PASSING:
                continue
            matched = self._match(key, body, packet) if name == "match" else None
            if matched is False:
                return True, {"end"}
            if matched is None:
                certain = False
        return certain, {"end"}

    def _verdict(
        self, key: t.Tuple[str, str, str], name: str, body: t.Any, packet: Packet, depth: int
    ) -> t.Set[str]:
        if name == "accept":
            return {"accept"}
        if name in ("drop", "reject"):
            return {"drop"}
        if name == "continue":
            return {"end"}
        if name in ("jump", "goto"):
            ends = self._walk((key[0], key[1], body["target"]), packet, depth + 1)
            back = "end" if name == "jump" else "return"
            return {back if end in ("end", "return") else end for end in ends}
        return {"return"} if name == "return" else {"unknown"}

    def _verdict_map(
        self, key: t.Tuple[str, str, str], body: Json, packet: Packet, depth: int
    ) -> t.Tuple[bool, t.Set[str]]:
        """Verdicts that the map may give; the packet whose key is not in it goes on."""
        ends: t.Set[str] = {"end"}
        try:
            value = self._left(body["key"], packet)
            for wanted, verdict in self._elements(key, body["data"]):
                (name, inner), *_more = verdict.items()
                if self._is(value, wanted, key):
                    return True, self._verdict(key, name, inner, packet, depth)
            return True, {"end"}
        except (_UnknownError, ValueError, KeyError, TypeError):
            return False, ends | {"unknown"}

    def _elements(
        self, key: t.Tuple[str, str, str], data: t.Any
    ) -> t.Sequence[t.Tuple[t.Any, Json]]:
        if isinstance(data, str) and data.startswith("@"):
            named = self.sets.get((key[0], key[1], data[1:]), {})
            if "elem" not in named and named.get("cut"):
                raise _UnknownError
            return [(e[0], e[1]) for e in named.get("elem", [])]
        return [(e[0], e[1]) for e in data["set"]]

    def _match(self, key: t.Tuple[str, str, str], body: Json, packet: Packet) -> t.Optional[bool]:
        try:
            value = self._left(body["left"], packet)
            found = value is not None and self._is(value, body["right"], key)
        except (_UnknownError, ValueError, KeyError, TypeError):
            return None
        if value is None:
            return False  # a header the packet does not have
        if body.get("op", "==") in ("==", "in"):
            return found
        if body["op"] == "!=":
            return not found
        return None

    def _left(self, left: Json, packet: Packet) -> t.Union[str, int, None]:
        """The packet's value of the expression; None when it has no such header."""
        (kind, body), *_more = left.items()
        if kind == "meta":
            return _meta(body["key"], packet)
        if kind == "ct" and body.get("key") == "state":
            return "new"
        if kind == "payload" and "protocol" in body:
            return _payload(body["protocol"], body["field"], packet)
        # Bits of a header that the packet does not have are not there either.
        if kind == "&" and self._left(body[0], packet) is None:
            return None
        raise _UnknownError

    def _is(
        self, value: t.Union[str, int, None], right: t.Any, key: t.Tuple[str, str, str]
    ) -> bool:
        if isinstance(right, str) and right.startswith("@"):
            named = self.sets.get((key[0], key[1], right[1:]))
            if named is None or named.get("cut") or isinstance(named.get("type"), list):
                raise _UnknownError
            return any(self._is(value, item, key) for item in named.get("elem", []))
        if isinstance(right, list):
            return any(self._is(value, item, key) for item in right)
        if isinstance(right, dict):
            (kind, body), *_more = right.items()
            if kind == "set":
                return any(self._is(value, item, key) for item in body)
            if kind == "elem":
                return self._is(value, body["val"], key)
            if kind == "prefix":
                network = ipaddress.ip_network(f"{body['addr']}/{body['len']}", strict=False)
                return ipaddress.ip_address(str(value)) in network
            if kind == "range":
                return _in_range(value, body[0], body[1])
            raise _UnknownError
        if isinstance(value, int):
            return value == _number(right)
        text = str(right)
        if text.endswith("*"):
            return str(value).startswith(text[:-1])
        return str(value) == text


def _meta(key: str, packet: Packet) -> t.Union[str, int, None]:
    inside = packet.direction == "in"
    if key in ("iifname", "iif"):
        return packet.interface if inside else None
    if key in ("oifname", "oif"):
        return None if inside else packet.interface
    table: t.Dict[str, t.Union[str, int]] = {
        "l4proto": packet.protocol, "nfproto": "ipv4", "protocol": "ip", "pkttype": "host",
    }  # fmt: skip
    if key not in table:
        raise _UnknownError
    return table[key]


def _payload(protocol: str, field: str, packet: Packet) -> t.Union[str, int, None]:
    if protocol in ("ip6", "arp", "icmp", "icmpv6"):
        return None
    if protocol == "ip":
        table: t.Dict[str, t.Union[str, int]] = {
            "saddr": packet.source, "daddr": packet.target, "protocol": packet.protocol,
            "version": 4, "ttl": 255 if packet.protocol == PROTOCOLS["vrrp"] else 64,
        }  # fmt: skip
        if field not in table:
            raise _UnknownError
        return table[field]
    if protocol == "th" or PROTOCOLS.get(protocol) == packet.protocol:
        if packet.port is None:
            return None
        if field == "dport":
            return packet.port
        raise _UnknownError  # a source port is any; flags of a first segment are not modelled
    if protocol in PROTOCOLS:
        return None
    raise _UnknownError


def _in_range(value: t.Union[str, int, None], low: t.Any, high: t.Any) -> bool:
    if isinstance(value, int):
        return _number(low) <= value <= _number(high)
    address = ipaddress.ip_address(str(value))
    first, last = ipaddress.ip_address(low), ipaddress.ip_address(high)
    return int(first) <= int(address) <= int(last)


def _number(value: t.Any) -> int:
    if isinstance(value, str) and not value.isdigit():
        known = {**PROTOCOLS, **SERVICES}
        if value not in known:
            raise _UnknownError
        return known[value]
    return int(value)
