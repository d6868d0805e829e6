# SPDX-License-Identifier: GPL-3.0-or-later
"""The path prober: asks witnesses (ARP, NDP), tells the peer, and takes this node out of service.

A thread of the daemon. No process is started for a probe; what is decided, paths.py decides.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import selectors
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from . import journal, paths, witnesses
from .settings import RUNTIME_DIR, Cluster, Network

# keepalived tracks this file: a number other than 0 is FAULT (keepalived.conf(5), track_file).
PATH_FILE = RUNTIME_DIR / "path"
PORT = 3781
# Probes more often than this would only be noise on the wire; more seldom, a link could be dead for
# long, however slow the heartbeat is.
FASTEST, SLOWEST = 0.1, 0.5
DISCOVERY = 60.0
ETH_P_ARP = 0x0806
ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
BROADCAST = b"\xff" * 6
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
ICMP6_FILTER = 1
IPV6_SENDING = 255
IP_RECVTTL = 12  # ip(7); the module does not name it
COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
ROOM = Path("/proc/sys/net/netfilter/nf_conntrack_max")


class ArpProbe:
    """ARP requests for the witnesses of one interface (RFC 826)."""

    def __init__(self, interface: str, source: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
        self.socket.setblocking(False)
        self.socket.bind((interface, ETH_P_ARP))
        self._mac: bytes = self.socket.getsockname()[4]
        self._source = socket.inet_aton(source)
        self._known: dict[str, bytes] = {}

    def send(self, address: str) -> None:
        """Ask; the one that answered before is asked alone, the others are called for."""
        to = self._known.pop(address, BROADCAST)
        target = socket.inet_aton(address)
        frame = ARP.pack(
            to, self._mac, ETH_P_ARP, 1, 0x0800, 6, 4, 1, self._mac, self._source, bytes(6), target
        )
        self.socket.send(frame)

    def receive(self) -> str | None:
        """The witness whose answer to us is next; None for anything else."""
        frame = self.socket.recv(2048)
        if len(frame) < ARP.size:
            return None
        fields = ARP.unpack_from(frame)
        operation, mac, sender, to = fields[7], fields[8], fields[9], fields[10]
        if operation != 2 or to != self._mac:
            return None
        address = socket.inet_ntoa(sender)
        self._known[address] = mac
        return address


class NdpProbe:
    """Neighbour solicitations for the witnesses of one interface (RFC 4861 section 4.3)."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        wanted = [0xFFFFFFFF] * 8
        wanted[NEIGHBOUR_ADVERTISEMENT >> 5] &= ~(1 << (NEIGHBOUR_ADVERTISEMENT & 31))
        self.socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("8I", *wanted))
        for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
            self.socket.setsockopt(socket.IPPROTO_IPV6, option, IPV6_SENDING)
        self._index = socket.if_nametoindex(interface)
        link = Path(f"/sys/class/net/{interface}/address").read_text(encoding="ascii").strip()
        self._option = b"\x01\x01" + bytes.fromhex(link.replace(":", ""))

    def send(self, address: str) -> None:
        """Ask at the address's own multicast group (RFC 4291 section 2.7.1)."""
        target = ipaddress.IPv6Address(address).packed
        group = str(ipaddress.IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + target[13:]))
        message = struct.pack("!BBHI", NEIGHBOUR_SOLICITATION, 0, 0, 0) + target + self._option
        self.socket.sendto(message, (group, 0, 0, self._index))

    def receive(self) -> str | None:
        """The witness whose advertisement is next."""
        message = self.socket.recv(2048)
        solicited = len(message) >= 24 and message[4] & 0x40
        return str(ipaddress.IPv6Address(message[8:24])) if solicited else None


Probe = TypeVar("Probe", ArpProbe, NdpProbe)


class Voice:
    """Reports to and from the peer over one network: directly connected or not the peer's."""

    def __init__(self, network: Network, local: str, peer: str) -> None:
        self.peer = (network.addresses[peer], PORT)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_BINDTODEVICE, network.interface.encode()
        )
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        self.socket.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        self.socket.bind((network.addresses[local], PORT))

    def send(self, message: bytes) -> None:
        """Say it; a link that is down says nothing."""
        with contextlib.suppress(OSError):
            self.socket.sendto(message, self.peer)

    def receive(self) -> paths.Report | None:
        """The next report; None when it is not one of the peer's."""
        data, extra, _, source = self.socket.recvmsg(16384, 64)
        ttl = next((struct.unpack("i", d[:4])[0] for _, k, d in extra if k == socket.IP_TTL), 0)
        if source != self.peer or ttl != 255:
            return None
        try:
            return paths.undump(json.loads(data))
        except (KeyError, TypeError, ValueError):
            return None


class Prober(threading.Thread):
    """Probes, reports, decides, and writes the file that keepalived tracks."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        able: Callable[[], bool],
        serving: Callable[[], bool],
        wake: Callable[[], None],
    ) -> None:
        super().__init__(name="prober", daemon=True)
        self._cluster = cluster
        self._able, self._serving, self._wake = able, serving, wake
        self.interval = pace(cluster.check_interval)
        self._nonce = uuid.uuid4().hex
        self._watch = paths.Watch(cluster.missed_adverts)
        self._peer = paths.Peer(self._nonce, max(1.0, 10 * self.interval))
        self._verdict = paths.Verdict()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._found: dict[str, tuple[str, ...]] | None = None
        self._arp: dict[str, ArpProbe] = {}
        self._ndp: dict[str, NdpProbe] = {}
        self._voices: dict[str, Voice] = {}
        self._selector = selectors.DefaultSelector()
        self._peer_master = False

    # -- what the daemon asks, from its own thread --------------------------------------------

    def peer(self) -> paths.Report | None:
        """The peer's report that still counts."""
        with self._lock:
            return self._peer.latest(time.monotonic())

    def blind(self) -> tuple[str, ...]:
        """Networks on which only the peer has seen a witness."""
        with self._lock:
            return paths.blind(self._watch, self._peer, time.monotonic())

    def told(self) -> dict[str, object]:
        """For status: each witness, the dead networks, and whether the node is out for them."""
        with self._lock:
            return {
                "witnesses": self._watch.told(),
                "deaf": list(self._watch.deaf_networks()),
                "out": self._verdict.why,
            }

    def stop(self) -> None:
        """End the thread; without a prober a node is not kept from service."""
        self._stopping.set()
        if self.is_alive():
            self.join(2.0)
        clear()

    # -- the thread ----------------------------------------------------------------------------

    def run(self) -> None:
        """Until told to stop."""
        clear()
        threading.Thread(target=self._discover, name="witnesses", daemon=True).start()
        due = time.monotonic()
        while not self._stopping.is_set():
            self._drain(max(0.0, due - time.monotonic()))
            if time.monotonic() < due:
                continue
            # What came while this thread did not run was in time: read it before judging.
            self._drain(0.0)
            self._tick()
            due = time.monotonic() + self.interval

    def _discover(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(OSError, ValueError, KeyError):
                found = witnesses.look(self._cluster)
                with self._lock:
                    self._found = found
            self._stopping.wait(DISCOVERY)

    def _drain(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            try:
                key.data(key.fileobj)
            except BlockingIOError:
                continue
            except OSError:
                self._close(key.fileobj)

    def _tick(self) -> None:
        now = time.monotonic()
        with self._lock:
            found, self._found = self._found, None
            if found is not None:
                self._watch.watch(found)
            asked = [(i, a) for i, known in self._watch.networks.items() for a in known]
            for interface, address in asked:
                self._watch.probe(interface, address, now)
            before = self._verdict.why
            why = self._verdict.step(self._watch, self._peer, now)
        for interface, address in asked:
            self._ask(interface, address)
        if why != before:
            write(why)
        self._speak(now)
        latest = self.peer()
        master = latest is not None and latest.master
        if master != self._peer_master:
            self._peer_master = master
            self._wake()

    def _ask(self, interface: str, address: str) -> None:
        # A link that is down cannot be asked: the probe counts as missed.
        with contextlib.suppress(OSError):
            if ":" in address:
                if interface not in self._ndp:
                    self._ndp[interface] = self._open(NdpProbe(interface), interface)
                self._ndp[interface].send(address)
            else:
                if interface not in self._arp:
                    source = self._network(interface).addresses[self._cluster.local.hostname]
                    self._arp[interface] = self._open(ArpProbe(interface, source), interface)
                self._arp[interface].send(address)

    def _network(self, interface: str) -> Network:
        return next(n for n in self._cluster.networks if n.interface == interface)

    def _open(self, probe: Probe, interface: str) -> Probe:
        def heard(_: object) -> None:
            while True:
                address = probe.receive()
                if address is not None:
                    with self._lock:
                        self._watch.answer(interface, address)

        self._selector.register(probe.socket, selectors.EVENT_READ, heard)
        return probe

    def _speak(self, now: float) -> None:
        self._join()
        with self._lock:
            deaf = self._watch.deaf_networks()
            nonce, echo, hold = self._peer.echo(now)
            ages = self._watch.ages(now)
        report = paths.Report(
            self._nonce, now, nonce, echo, hold,
            able=not deaf and self._able(),
            master=self._serving(),
            ages=ages,
            connections=number(COUNT),
            room=number(ROOM),
            revision=self._cluster.revision,
        )  # fmt: skip
        message = json.dumps(paths.dump(report)).encode()
        for voice in self._voices.values():
            voice.send(message)

    def _join(self) -> None:
        """Open what is not open yet: at boot an interface may come late."""
        local, peer = self._cluster.local.hostname, self._cluster.peer.hostname
        for network in self._cluster.networks:
            if network.interface in self._voices:
                continue
            with contextlib.suppress(OSError):
                voice = Voice(network, local, peer)
                self._voices[network.interface] = voice
                self._selector.register(voice.socket, selectors.EVENT_READ, self._hear(voice))

    def _hear(self, voice: Voice) -> Callable[[object], None]:
        def heard(_: object) -> None:
            while True:
                report = voice.receive()
                if report is not None:
                    with self._lock:
                        self._peer.receive(report, time.monotonic(), self._watch)

        return heard

    def _close(self, broken: object) -> None:
        """Forget a socket that failed (its interface went away); it is opened again."""
        tables: tuple[dict[str, Any], ...] = (self._arp, self._ndp, self._voices)
        for table in tables:
            for name in [n for n, held in table.items() if held.socket is broken]:
                held = table.pop(name)
                self._selector.unregister(held.socket)
                held.socket.close()


def pace(check_interval: float) -> float:
    """Seconds between two probes, for this pace of the heartbeat."""
    return min(max(FASTEST, check_interval), SLOWEST)


def write(why: str, path: Path = PATH_FILE) -> None:
    """Tell keepalived, and the journal, that this node is out of service, or may serve again."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, b"1\n" if why else b"0\n")
    finally:
        os.close(descriptor)
    journal.record("path", out=bool(why), why=why)


def clear(path: Path = PATH_FILE) -> None:
    """Make sure that nothing keeps this node from service."""
    with contextlib.suppress(OSError):
        if path.exists() and path.read_text(encoding="ascii").strip() not in ("", "0"):
            write("", path)


def number(file: Path) -> int:
    """A number the kernel shows; 0 when it does not."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
