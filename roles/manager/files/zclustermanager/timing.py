# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast the cluster link and this machine are: what a check interval must leave room for."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from .settings import Cluster

ECHOES, SLEEPS = 40, 100
PAUSE = 0.01
ECHO_REQUEST, ECHO_REPLY = 8, 0
# keepalived's adverts are sent with this priority, where the machine allows it.
PRIORITY = 50


def nearly_worst(samples: list[float]) -> float:
    """The value that 95 % of the samples do not exceed; 0 for none."""
    return sorted(samples)[int(len(samples) * 0.95) - 1] if samples else 0.0


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo(identity: int, number: int) -> bytes:
    """One echo request (RFC 792)."""
    blank = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, identity, number)
    return struct.pack("!BBHHH", ECHO_REQUEST, 0, checksum(blank), identity, number)


def round_trips(source: str, target: str) -> list[float]:
    """Seconds that echoes to the peer took; one without an answer within a second is left out."""
    identity, took = os.getpid() & 0xFFFF, []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as link:
        link.bind((source, 0))
        for number in range(ECHOES):
            sent = time.monotonic()
            link.sendto(echo(identity, number), (target, 0))
            while (left := sent + 1.0 - time.monotonic()) > 0:
                link.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    answer = link.recv(1024)
                    head = (answer[0] & 0x0F) * 4
                    kind, _, _, whose, which = struct.unpack("!BBHHH", answer[head : head + 8])
                    if (kind, whose, which) == (ECHO_REPLY, identity, number):
                        took.append(time.monotonic() - sent)
                        break
            time.sleep(PAUSE)
    return took


def delays() -> list[float]:
    """Seconds by which this machine woke a sleeping process too late."""
    late = []
    for _ in range(SLEEPS):
        began = time.monotonic()
        time.sleep(PAUSE / 2)
        late.append(time.monotonic() - began - PAUSE / 2)
    return late


def measure(cluster: Cluster) -> dict[str, float | None]:
    """Seconds: round trip to the peer (None: no answer), and delay of the scheduler."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    trips = round_trips(cluster.local.ip, cluster.peer.ip)
    return {
        "round_trip": round(nearly_worst(trips), 6) if trips else None,
        "scheduling": round(nearly_worst(delays()), 6),
    }
