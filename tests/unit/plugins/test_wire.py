# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets as they are on the wire: VRRP adverts, ARP, NDP, ping."""

from __future__ import annotations

import socket
import struct

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _wire
from ansible_collections.zcluster.ha.plugins.module_utils._wire import Advert

VRRPV3 = bytes.fromhex("31336401006400000a000064")
VRRPV2 = bytes.fromhex("21336401000100000a000064")


def ipv4(
    payload: bytes, source: str = "198.18.10.1", protocol: int = 112, options: int = 0
) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + options // 4, 0, 20 + options + len(payload), 0, 0, 255, protocol,
        0, socket.inet_aton(source), socket.inet_aton("224.0.0.18"),
    )  # fmt: skip
    return head + bytes(options) + payload


def ipv6(payload: bytes, protocol: int = 112) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, "fe80::1") + socket.inet_pton(
        socket.AF_INET6, "ff02::12"
    )
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + addresses + payload


@pytest.mark.parametrize(
    ("packet", "version", "source"),
    [
        (ipv4(VRRPV2), 2, "198.18.10.1"),
        (ipv4(VRRPV3), 3, "198.18.10.1"),
        (ipv4(VRRPV3, options=8), 3, "198.18.10.1"),
        (ipv6(VRRPV3), 3, "fe80::1"),
    ],
    ids=["v2", "v3", "with IP options", "v3 over IPv6"],
)
def test_adverts_are_read(packet: bytes, version: int, source: str) -> None:
    assert _wire.parse_advert("eth0", packet) == Advert("eth0", 51, source, version, 100)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        ipv4(VRRPV3[:4]),
        ipv4(VRRPV3, protocol=17),
        ipv6(VRRPV3, protocol=58),
        ipv4(bytes.fromhex("41336401006400000a000064")),
        ipv4(bytes.fromhex("32336401006400000a000064")),
        b"\x75" + ipv4(VRRPV3)[1:],
    ],
    ids=["empty", "short", "cut", "UDP", "ICMPv6", "version 4", "type 2", "IP version 7"],
)
def test_what_is_no_advert_is_left_out(packet: bytes) -> None:
    assert _wire.parse_advert("eth0", packet) is None


def test_adverts_of_one_router_are_counted() -> None:
    heard = [Advert("eth0", 51, "198.18.10.1", 3, 100)] * 3 + [
        Advert("eth0", 52, "198.18.10.1", 3, 90)
    ]
    assert _wire.merge(heard) == (
        Advert("eth0", 51, "198.18.10.1", 3, 100, 3),
        Advert("eth0", 52, "198.18.10.1", 3, 90, 1),
    )


def test_an_arp_probe_claims_no_address() -> None:
    probe = _wire.arp_probe("02:00:00:00:00:01", "198.18.10.100")
    assert len(probe) == 28
    assert probe[14:18] == bytes(4)
    assert probe[24:28] == socket.inet_aton("198.18.10.100")
    assert _wire.parse_arp(probe) is None


def test_an_arp_reply_tells_who_has_the_address() -> None:
    reply = struct.pack(
        "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, bytes.fromhex("02aabbccddee"),
        socket.inet_aton("198.18.10.100"), bytes(6), bytes(4),
    )  # fmt: skip
    assert _wire.parse_arp(reply) == ("198.18.10.100", "02:aa:bb:cc:dd:ee")
    assert _wire.parse_arp(reply[:20]) is None


def test_a_neighbour_advertisement_tells_who_has_the_address() -> None:
    target = socket.inet_pton(socket.AF_INET6, "2001:db8::100")
    advert = struct.pack("!BBHI16s", 136, 0, 0, 0x60000000, target)
    option = struct.pack("!BB6s", 2, 1, bytes.fromhex("02aabbccddee"))
    assert _wire.parse_neighbour_advert(advert + option) == ("2001:db8::100", "02:aa:bb:cc:dd:ee")
    assert _wire.parse_neighbour_advert(advert) == ("2001:db8::100", "")
    assert _wire.parse_neighbour_advert(advert + b"\x02\x00" + bytes(6)) == ("2001:db8::100", "")


def test_a_solicitation_is_not_an_answer() -> None:
    asked = _wire.neighbour_solicitation("02:00:00:00:00:01", "2001:db8::100")
    assert len(asked) == 32
    assert _wire.parse_neighbour_advert(asked) is None


def test_only_our_own_echo_counts() -> None:
    identity = b"12345678"
    request = _wire.echo_request(1, identity)
    assert _wire._checksum(request) == 0
    reply = ipv4(b"\x00" + request[1:], source="198.18.30.12", protocol=1)
    assert _wire.is_echo_reply(reply, "198.18.30.12", identity)
    assert not _wire.is_echo_reply(reply, "198.18.30.13", identity)
    assert not _wire.is_echo_reply(reply, "198.18.30.12", b"87654321")
    assert not _wire.is_echo_reply(reply[:20], "198.18.30.12", identity)
