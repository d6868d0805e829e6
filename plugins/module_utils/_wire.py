# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""What is heard on the wire: VRRP adverts, who answers for an address (ARP, NDP), ping."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import selectors
import socket
import struct
import time
import typing as t
from dataclasses import dataclass

ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD
SO_ATTACH_FILTER = 26
IPPROTO_VRRP = 112
VRRP_GROUPS = {4: "224.0.0.18", 6: "ff02::12"}  # RFC 5798 §5.1
ARPHRD_ETHER = 1
BROADCAST = b"\xff" * 6


@dataclass(frozen=True)
class Advert:
    """A VRRP router that was heard: where, who, and with which virtual router id."""

    interface: str
    vrid: int
    source: str
    version: int
    priority: int
    count: int = 1


@dataclass(frozen=True)
class Question:
    """Who answers for this address on this interface?"""

    interface: str
    index: int
    mac: str
    address: str


def parse_advert(interface: str, packet: bytes) -> t.Optional[Advert]:
    """The advert in an IP packet (RFC 3768 §5, RFC 5798 §5), if it is one."""
    if not packet:
        return None
    if packet[0] >> 4 == 4:
        header = (packet[0] & 0x0F) * 4
        if len(packet) < 20 or packet[9] != IPPROTO_VRRP:
            return None
        source = str(ipaddress.IPv4Address(packet[12:16]))
    elif packet[0] >> 4 == 6:
        header = 40
        if len(packet) < header or packet[6] != IPPROTO_VRRP:
            return None
        source = str(ipaddress.IPv6Address(packet[8:24]))
    else:
        return None
    body = packet[header:]
    if len(body) < 8 or body[0] & 0x0F != 1 or body[0] >> 4 not in (2, 3):
        return None
    return Advert(interface, body[1], source, body[0] >> 4, body[2])


def merge(adverts: t.Iterable[Advert]) -> t.Tuple[Advert, ...]:
    """One entry per router and virtual router id, with how often it was heard."""
    seen: t.Dict[t.Tuple[str, int, str, int], t.Tuple[int, int]] = {}
    for advert in adverts:
        key = (advert.interface, advert.vrid, advert.source, advert.version)
        seen[key] = (advert.priority, seen.get(key, (0, 0))[1] + advert.count)
    return tuple(Advert(*key, *value) for key, value in sorted(seen.items()))


def listen(interfaces: t.Mapping[str, int], seconds: float) -> t.Tuple[Advert, ...]:
    """Adverts that arrive on these interfaces (name -> index), before any firewall sees them."""
    heard: t.List[Advert] = []
    opened: t.List[socket.socket] = []
    try:
        with selectors.DefaultSelector() as selector:
            for name, index in interfaces.items():
                opened += _join_groups(index)
                for protocol, offset in ((ETH_P_IP, 9), (ETH_P_IPV6, 6)):
                    tap = _tap(name, protocol, offset)
                    opened.append(tap)
                    selector.register(tap, selectors.EVENT_READ, name)
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                for key, _mask in selector.select(left):
                    advert = parse_advert(key.data, t.cast(socket.socket, key.fileobj).recv(2048))
                    if advert:
                        heard.append(advert)
    finally:
        for item in opened:
            item.close()
    return merge(heard)


def _join_groups(index: int) -> t.List[socket.socket]:
    # Membership makes the card, and a snooping switch, let the multicast adverts through.
    member4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    member6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    group4, group6 = socket.inet_aton(VRRP_GROUPS[4]), VRRP_GROUPS[6]
    try:
        member4.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            struct.pack("=4s4si", group4, bytes(4), index),
        )
        member6.setsockopt(
            socket.IPPROTO_IPV6,
            socket.IPV6_JOIN_GROUP,
            struct.pack("=16sI", socket.inet_pton(socket.AF_INET6, group6), index),
        )
    except OSError:
        # IPv6 switched off, or no IPv4 there: what arrives is heard all the same.
        pass
    return [member4, member6]


def _tap(interface: str, protocol: int, offset: int) -> socket.socket:
    # Protocol 0 until the filter is attached: a busy node must not hand us its whole traffic.
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        program = b"".join(
            struct.pack("=HBBI", *instruction)
            for instruction in (
                (0x30, 0, 0, offset),  # load the byte with the protocol number
                (0x15, 0, 1, IPPROTO_VRRP),  # equal?
                (0x06, 0, 0, 0xFFFF),  # keep
                (0x06, 0, 0, 0),  # drop
            )
        )
        buffer = ctypes.create_string_buffer(program)
        tap.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(buffer))
        )
        tap.bind((interface, protocol))
    except BaseException:
        tap.close()
        raise
    return tap


def arp_probe(mac: str, address: str) -> bytes:
    """An ARP probe (RFC 5227 §2.1.1): asks, and claims nothing."""
    return struct.pack(
        "!HHBBH6s4s6s4s",
        ARPHRD_ETHER,
        ETH_P_IP,
        6,
        4,
        1,
        _mac_bytes(mac),
        bytes(4),
        bytes(6),
        socket.inet_aton(address),
    )


def parse_arp(packet: bytes) -> t.Optional[t.Tuple[str, str]]:
    """(address, MAC) of the sender of an ARP packet; None for probes."""
    if len(packet) < 28:
        return None
    _hw, _proto, _hl, _pl, _op, sender, source = struct.unpack("!HHBBH6s4s", packet[:18])
    if source == bytes(4):
        return None
    return socket.inet_ntoa(source), _mac_text(sender)


def neighbour_solicitation(mac: str, address: str) -> bytes:
    """An NDP neighbour solicitation (RFC 4861 §4.3); the kernel adds the checksum."""
    target = socket.inet_pton(socket.AF_INET6, address)
    return struct.pack("!BBHI16sBB6s", 135, 0, 0, 0, target, 1, 1, _mac_bytes(mac))


def parse_neighbour_advert(packet: bytes) -> t.Optional[t.Tuple[str, str]]:
    """(address, MAC) in an NDP neighbour advertisement (RFC 4861 §4.4)."""
    if len(packet) < 24 or packet[0] != 136:
        return None
    address = socket.inet_ntop(socket.AF_INET6, packet[8:24])
    options = packet[24:]
    while len(options) >= 8 and options[1]:
        if options[0] == 2:
            return address, _mac_text(options[2:8])
        options = options[options[1] * 8 :]
    return address, ""


def who_answers(
    questions: t.Sequence[Question], seconds: float = 1.2, rounds: int = 3
) -> t.Dict[str, t.Tuple[str, ...]]:
    """Address -> MACs of those who answer for it (nobody: empty)."""
    answers: t.Dict[str, t.Set[str]] = {question.address: set() for question in questions}
    opened: t.Dict[t.Tuple[str, int], socket.socket] = {}
    try:
        with selectors.DefaultSelector() as selector:
            for question in questions:
                family = ipaddress.ip_address(question.address).version
                if (question.interface, family) not in opened:
                    asked = _asking_socket(question, family)
                    opened[(question.interface, family)] = asked
                    selector.register(asked, selectors.EVENT_READ, family)
            pause = seconds / rounds
            for _round in range(rounds):
                for question in questions:
                    _ask(question, opened)
                deadline = time.monotonic() + pause
                while (left := deadline - time.monotonic()) > 0:
                    for key, _mask in selector.select(left):
                        packet = t.cast(socket.socket, key.fileobj).recv(2048)
                        found = (
                            parse_arp(packet) if key.data == 4 else parse_neighbour_advert(packet)
                        )
                        if found and found[0] in answers:
                            answers[found[0]].add(found[1])
    finally:
        for item in opened.values():
            item.close()
    return {address: tuple(sorted(macs)) for address, macs in answers.items()}


def _asking_socket(question: Question, family: int) -> socket.socket:
    if family == 4:
        asked = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        asked.bind((question.interface, ETH_P_ARP))
        return asked
    asked = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    asked.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, question.interface.encode())
    # RFC 4861 §7.1.1: a hop limit below 255 is ignored by the other side.
    asked.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    asked.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, question.index)
    # A VIP of our own must not make us answer ourselves.
    asked.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    return asked


def _ask(question: Question, opened: t.Dict[t.Tuple[str, int], socket.socket]) -> None:
    address = ipaddress.ip_address(question.address)
    asked = opened[(question.interface, address.version)]
    if address.version == 4:
        asked.sendto(
            arp_probe(question.mac, question.address),
            (question.interface, ETH_P_ARP, 0, ARPHRD_ETHER, BROADCAST),
        )
        return
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:]
    asked.sendto(
        neighbour_solicitation(question.mac, question.address),
        (str(ipaddress.IPv6Address(group)), 0, 0, question.index),
    )


def ping(source: str, target: str, tries: int = 3, seconds: float = 1.0) -> bool:
    """Whether the target answers an ICMP echo (IPv4) sent from this source address."""
    identity = os.urandom(8)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as asked:
        asked.bind((source, 0))
        for number in range(tries):
            asked.sendto(echo_request(number, identity), (target, 0))
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                asked.settimeout(left)
                try:
                    packet = asked.recv(2048)
                except OSError:
                    break
                if is_echo_reply(packet, target, identity):
                    return True
    return False


def echo_request(number: int, identity: bytes) -> bytes:
    """An ICMP echo request (RFC 792); the payload tells our replies from others'."""
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number)
    return struct.pack("!BBHHH", 8, 0, _checksum(head + identity), os.getpid() & 0xFFFF, number) + (
        identity
    )


def is_echo_reply(packet: bytes, target: str, identity: bytes) -> bool:
    """Whether this IP packet is the target's answer to our echo request."""
    if len(packet) < 28:
        return False
    body = packet[(packet[0] & 0x0F) * 4 :]
    return (
        socket.inet_ntoa(packet[12:16]) == target
        and len(body) >= 16
        and body[0] == 0
        and body[8:16] == identity
    )


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _mac_text(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)
