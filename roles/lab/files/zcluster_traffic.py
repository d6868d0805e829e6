#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# The lab's traffic: echo servers for the backend, and a client that measures what users notice.
"""``echo`` serves, ``run`` generates traffic and prints one JSON report when it ends.

Method: an outage is the longest time between two successful UDP round trips minus the sending
interval; a TCP connection is alive if it still answers at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import cast

ECHO_PORT = 7000
HTTP_PORT = 8080
PACKET = struct.Struct("!4sQd")
MAGIC = b"zcl1"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
COLD = "cold"
SIOCDARP = 0x8953
RECEIVE_BUFFER = 4 << 20


# --------------------------------------------------------------------------------------------------
# Servers
# --------------------------------------------------------------------------------------------------


def roomy(transport: asyncio.BaseTransport) -> asyncio.DatagramTransport:
    """The transport with room for seconds of datagrams: a pause of this program is no loss."""
    sock = transport.get_extra_info("socket")
    # Beyond net.core.rmem_max for who may (socket(7)), else up to it.
    for option in (getattr(socket, "SO_RCVBUFFORCE", 33), socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, RECEIVE_BUFFER)
            break
    return cast(asyncio.DatagramTransport, transport)


class UdpEcho(asyncio.DatagramProtocol):
    """Sends every datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to send."""
        self.transport = roomy(transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """Send it back."""
        self.transport.sendto(data, addr)


class TcpEcho(asyncio.Protocol):
    """Sends every byte back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to send."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)


async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers any request with the address it arrived at."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        request = await reader.readuntil(b"\r\n\r\n")
        body = f"{writer.get_extra_info('sockname')[0]}\n".encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + (b"" if request.startswith(b"HEAD") else body))
        await writer.drain()
    writer.close()


def own_addresses() -> list[str]:
    """Every address of this machine that a client could use (a UDP answer must leave from it)."""
    addresses = []
    text = Path("/proc/net/fib_trie").read_text(encoding="ascii").splitlines()
    for before, line in pairwise(text):
        if "/32 host LOCAL" in line:
            addresses.append(before.split()[-1])
    for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
        digits, _, _, scope, _, _ = line.split()
        if scope == "00":
            addresses.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    return sorted({a for a in addresses if not a.startswith("127.")})


async def serve() -> None:
    """Echo over UDP and TCP, and a small HTTP, on every address."""
    loop = asyncio.get_running_loop()
    for address in own_addresses():
        await loop.create_datagram_endpoint(UdpEcho, local_addr=(address, ECHO_PORT))
        await loop.create_server(TcpEcho, address, ECHO_PORT, backlog=4096)
        await asyncio.start_server(answer_http, address, HTTP_PORT, backlog=4096)
    print("serving", *own_addresses(), flush=True)
    if name := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.sendto(b"READY=1", name)
    await asyncio.Event().wait()


# --------------------------------------------------------------------------------------------------
# The client
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gap:
    """A time without a successful round trip; start and end are wall-clock seconds."""

    start: float
    end: float
    ms: float


@dataclass(frozen=True)
class Broken:
    """A connection that ended although nobody had closed it, or never was; wall clock."""

    at: float
    port: int
    why: str


@dataclass
class Report:
    """What the client noticed."""

    seconds: float = 0.0
    udp_sent: int = 0
    udp_lost: int = 0
    udp_interval_ms: float = 0.0
    longest_gap_ms: float = 0.0
    gaps: list[Gap] = field(default_factory=list)
    pauses_ms: float = 0.0
    pauses: list[Gap] = field(default_factory=list)
    tcp_wanted: int = 0
    tcp_opened: int = 0
    tcp_alive: int = 0
    tcp_reset: int = 0
    tcp_longest_stall_ms: float = 0.0
    tcp_broken: list[Broken] = field(default_factory=list)
    short_opened: int = 0
    short_failed: int = 0
    short_broken: list[Broken] = field(default_factory=list)
    short_longest_gap_ms: float = 0.0
    http_ok: int = 0
    http_failed: int = 0
    http_refused: int = 0
    http_longest_gap_ms: float = 0.0
    http_servers: dict[str, int] = field(default_factory=dict)
    cold_ok: int = 0
    cold_failed: int = 0
    cold_longest_gap_ms: float = 0.0
    cold_answered_by: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What to send."""

    vip: str
    port: int
    seconds: float
    stop_file: str
    ready_file: str
    interval_ms: float
    connections: int
    message_interval: float
    short_rate: float
    reuse_ports: bool
    http: str
    http_rate: float
    cold: str
    gap_ms: float
    hang: float
    last_word: float


class Successes:
    """The longest time between two things that went well, the time until the end included."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.longest_ms = 0.0

    def note(self) -> None:
        """One went well, or the run has ended."""
        now = time.monotonic()
        self.longest_ms = round(max(self.longest_ms, (now - self.last) * 1000), 2)
        self.last = now


class UdpProbe(asyncio.DatagramProtocol):
    """Paced datagrams with sequence numbers; each answer is one successful round trip.

    A late timer sends what is due at once, so the rate holds on a busy machine; the client's own
    pauses are reported, for a gap that is one of them is nobody's outage.
    """

    def __init__(self, plan: Plan, report: Report) -> None:
        self.interval = plan.interval_ms / 1000
        self.threshold = plan.gap_ms / 1000
        self.report = report
        self.sent = 0
        self.answered: set[int] = set()
        self.last_answered_send = 0.0
        self.wall = time.time() - time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to send."""
        self.transport = roomy(transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """Count an answer, once."""
        del addr
        if len(data) != PACKET.size:
            return
        magic, number, sent_at = PACKET.unpack(data)
        if magic != MAGIC or number in self.answered:
            return
        self.answered.add(number)
        self.note(sent_at)

    def note(self, sent_at: float) -> None:
        """A datagram sent then came through: measure from the previous one that did."""
        if sent_at <= self.last_answered_send:
            return
        if self.last_answered_send:
            silence = sent_at - self.last_answered_send - self.interval
            self.report.longest_gap_ms = max(self.report.longest_gap_ms, silence * 1000)
            if silence >= self.threshold:
                self.report.gaps.append(
                    Gap(
                        round(self.last_answered_send + self.wall, 4),
                        round(sent_at + self.wall, 4),
                        round(silence * 1000, 2),
                    )
                )
        self.last_answered_send = sent_at

    def note_pause(self, since: float, until: float) -> None:
        """Between these two the client itself did not send."""
        pause = until - since - self.interval
        self.report.pauses_ms = max(self.report.pauses_ms, pause * 1000)
        if pause >= self.threshold:
            begin, end = round(since + self.wall, 4), round(until + self.wall, 4)
            self.report.pauses.append(Gap(begin, end, round(pause * 1000, 2)))

    def error_received(self, exc: Exception) -> None:
        """ICMP errors are losses, which are counted anyway."""
        del exc

    async def run(self, stop: asyncio.Event) -> None:
        """Send on time until told to stop, then wait for the last answers."""
        start = previous = time.monotonic()
        while not stop.is_set():
            now = time.monotonic()
            self.note_pause(previous, now)
            previous = now
            due = int((now - start) / self.interval) + 1
            if due - self.sent > 50:
                # The client itself was stopped for long: a burst of old datagrams proves nothing.
                start = now - self.sent * self.interval
                due = self.sent + 1
            while self.sent < due:
                self.sent += 1
                packet = PACKET.pack(MAGIC, self.sent, time.monotonic())
                with contextlib.suppress(OSError):
                    self.transport.sendto(packet)
            await asyncio.sleep(max(0.0, start + self.sent * self.interval - time.monotonic()))
        end = time.monotonic()
        await asyncio.sleep(0.5)
        if end - self.last_answered_send > self.threshold + self.interval + 0.05:
            self.last_answered_send = self.last_answered_send or start
            self.note(end)
        self.report.udp_sent = self.sent
        self.report.udp_lost = self.sent - len(self.answered)
        self.transport.close()


class LongConnection:
    """One connection that sends a little and expects it back, for as long as the run lasts."""

    def __init__(self, plan: Plan, report: Report, number: int) -> None:
        self.plan = plan
        self.report = report
        self.number = number
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.broken = False
        self.messages = 0

    async def open(self) -> None:
        """Connect, with patience."""
        with contextlib.suppress(OSError, TimeoutError):
            self.reader, self.writer = await asyncio.wait_for(
                asyncio.open_connection(self.plan.vip, self.plan.port), 10
            )
            self.report.tcp_opened += 1

    async def exchange(self, timeout: float) -> bool:
        """One message there and back."""
        if self.reader is None or self.writer is None:
            return False
        self.messages += 1
        message = b"%08d" % self.messages
        try:
            self.writer.write(message)
            # What comes first may answer an exchange that was given up.
            await asyncio.wait_for(read_until(self.reader, message), timeout)
            return True
        except ConnectionError as error:
            self.report.tcp_reset += 1
            self._broken(repr(error))
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self._broken(repr(error))
        return False

    def _broken(self, why: str) -> None:
        port = self.writer.get_extra_info("sockname")[1] if self.writer else 0
        self.report.tcp_broken.append(Broken(round(time.time(), 3), port, why))

    async def run(self, stop: asyncio.Event) -> None:
        """Talk until told to stop."""
        if self.writer is None:
            return
        await wait_or_stop(stop, self.number % 100 / 100 * self.plan.message_interval)
        while not stop.is_set() and not self.broken:
            begin = time.monotonic()
            # A stall is no death: only at the end it counts who answers. 60 s: TCP has given up.
            self.broken = not await self.exchange(60)
            stall = (time.monotonic() - begin) * 1000
            self.report.tcp_longest_stall_ms = max(self.report.tcp_longest_stall_ms, stall)
            await wait_or_stop(stop, self.plan.message_interval)

    async def last_word(self) -> None:
        """Alive is who answers at the end."""
        if self.writer is None:
            return
        if not self.broken and await self.exchange(self.plan.last_word):
            self.report.tcp_alive += 1
        self.writer.transport.abort()


async def read_until(reader: asyncio.StreamReader, message: bytes) -> None:
    """Read whole messages until this one comes."""
    while await reader.readexactly(len(message)) != message:
        pass


async def wait_or_stop(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not beyond the end."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def local_address(plan: Plan) -> tuple[int, str]:
    """The family and the own address that reaches the VIP."""
    family = socket.AF_INET6 if ":" in plan.vip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((plan.vip, plan.port))
        return family, str(probe.getsockname()[0])


class PortBusyError(Exception):
    """The client's own kernel has not let go of the port: nothing was sent."""


async def one_short(plan: Plan, family: int, port: int) -> Broken | None:
    """Connect, echo, close; with a reset when the port will be used again at once."""
    loop = asyncio.get_running_loop()
    began, step = time.time(), "connect"
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            if port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                sock.bind(("", port))
            await asyncio.wait_for(loop.sock_connect(sock, (plan.vip, plan.port)), 3)
            step = "echo"
            await loop.sock_sendall(sock, b"ping")
            if await asyncio.wait_for(loop.sock_recv(sock, 16), 3) == b"ping":
                return None
            why = "closed"
        except (OSError, TimeoutError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
                raise PortBusyError from error
            why = repr(error)
        return Broken(round(began, 3), sock.getsockname()[1], f"{step}: {why}")


async def short_stream(plan: Plan, report: Report, stop: asyncio.Event) -> None:
    """A steady stream of short connections."""
    family, _ = local_address(plan)
    ports = [*range(20000, 20100)] if plan.reuse_ports else [0]
    running: set[asyncio.Task[None]] = set()
    successes = Successes()

    async def count(port: int) -> None:
        with contextlib.suppress(PortBusyError):
            if broken := await one_short(plan, family, port):
                report.short_failed += 1
                report.short_broken.append(broken)
            else:
                report.short_opened += 1
                successes.note()
        if plan.reuse_ports:
            ports.append(port)

    while not stop.is_set():
        if ports:
            task = asyncio.create_task(count(ports.pop(0) if plan.reuse_ports else 0))
            running.add(task)
            task.add_done_callback(running.discard)
        await wait_or_stop(stop, 1 / plan.short_rate)
    await asyncio.gather(*running)
    successes.note()
    report.short_longest_gap_ms = successes.longest_ms


async def http_stream(plan: Plan, report: Report, stop: asyncio.Event) -> None:
    """Requests through the proxy, one after the other."""
    host, _, port = plan.http.rpartition(":")
    successes = Successes()
    while not stop.is_set():
        server = await one_request(host.strip("[]"), int(port))
        report.http_refused += server is None
        if server:
            report.http_ok += 1
            successes.note()
            report.http_servers[server] = report.http_servers.get(server, 0) + 1
        else:
            report.http_failed += 1
        await wait_or_stop(stop, 1 / plan.http_rate)
    successes.note()
    report.http_longest_gap_ms = successes.longest_ms


def forget_neighbour(sock: socket.socket, address: str, interface: str) -> None:
    """Delete one entry of the ARP cache, as `ip neighbour flush` does (arp(7), SIOCDARP)."""
    who = struct.pack("=H2x4s8x", socket.AF_INET, socket.inet_aton(address))
    request = who + bytes(16 + 4 + 16) + interface.encode().ljust(16, b"\0")
    with contextlib.suppress(OSError):
        fcntl.ioctl(sock, SIOCDARP, request)


def neighbour(address: str) -> str:
    """The hardware address that last answered for an address; empty when none did."""
    for line in Path("/proc/net/arp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[0] == address and fields[3] != "00:00:00:00:00:00":
            return fields[3]
    return ""


def cold_probe(vip: str, port: int) -> dict[str, object]:
    """Datagrams of a client that has forgotten who the VIP is, each time; until SIGTERM."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stopped.append(n))
    ok = failed = 0
    answered_by: dict[str, int] = {}
    successes = Successes()
    while not stopped:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            forget_neighbour(probe, vip, COLD)
            probe.settimeout(0.3)
            try:
                probe.connect((vip, port))
                probe.send(b"cold")
                probe.recv(16)
            except OSError:
                failed += 1
            else:
                ok += 1
                successes.note()
                mac = neighbour(vip)
                answered_by[mac] = answered_by.get(mac, 0) + 1
        time.sleep(0.05)
    successes.note()
    return {
        "cold_ok": ok,
        "cold_failed": failed,
        "cold_longest_gap_ms": successes.longest_ms,
        "cold_answered_by": answered_by,
    }


def undo_cold() -> None:
    """Take away what start_cold made, also what a killed run left."""
    subprocess.run(["ip", "netns", "delete", COLD], capture_output=True, check=False)


def start_cold(plan: Plan) -> subprocess.Popen[str]:
    """A second client with an ARP cache of its own: a network namespace on a macvlan link."""
    undo_cold()
    interface = (
        subprocess.run(
            ["ip", "-o", "route", "get", plan.vip], capture_output=True, text=True, check=True
        )
        .stdout.split(" dev ")[1]
        .split()[0]
    )
    link = ["ip", "link", "add", COLD, "link", interface, "netns", COLD, "type", "macvlan"]
    for command in (
        ["ip", "netns", "add", COLD],
        [*link, "mode", "bridge"],
        ["ip", "-n", COLD, "address", "add", plan.cold, "dev", COLD],
        ["ip", "-n", COLD, "link", "set", COLD, "up"],
    ):
        subprocess.run(command, check=True)
    return subprocess.Popen(
        ["ip", "netns", "exec", COLD, sys.executable, __file__, "cold", plan.vip, str(plan.port)],
        stdout=subprocess.PIPE,
        text=True,
    )


async def cold_client(plan: Plan, report: Report, stop: asyncio.Event) -> None:
    """Run the second client beside this one, and take over what it says."""
    process = start_cold(plan)
    await stop.wait()
    process.terminate()
    loop = asyncio.get_running_loop()
    said = await loop.run_in_executor(None, lambda: process.communicate(timeout=20)[0])
    for name, value in json.loads(said).items():
        setattr(report, name, value)
    undo_cold()


async def one_request(host: str, port: int) -> str | None:
    """Which server answered; empty if none did, None if not even the connection was accepted."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 3)
    except (OSError, TimeoutError):
        return None
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        text = (await asyncio.wait_for(reader.read(), 3)).decode(errors="replace")
    except (OSError, TimeoutError):
        return ""
    finally:
        writer.transport.abort()
    return text.rpartition("\r\n\r\n")[2].strip() if text.startswith("HTTP/1.1 200") else ""


async def generate(plan: Plan) -> Report:
    """Everything at once, until the time is over, a signal comes or the stop file appears."""
    report = Report(udp_interval_ms=plan.interval_ms, tcp_wanted=plan.connections)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connections = [LongConnection(plan, report, n) for n in range(plan.connections)]
    for begin in range(0, len(connections), 50):
        await asyncio.gather(*(c.open() for c in connections[begin : begin + 50]))
    started = time.monotonic()
    tasks = [asyncio.create_task(c.run(stop)) for c in connections]
    if plan.interval_ms:
        _, probe = await loop.create_datagram_endpoint(
            lambda: UdpProbe(plan, report), remote_addr=(plan.vip, plan.port)
        )
        tasks.append(asyncio.create_task(probe.run(stop)))
    if plan.short_rate:
        tasks.append(asyncio.create_task(short_stream(plan, report, stop)))
    if plan.http:
        tasks.append(asyncio.create_task(http_stream(plan, report, stop)))
    if plan.cold:
        tasks.append(asyncio.create_task(cold_client(plan, report, stop)))
    if plan.ready_file:
        Path(plan.ready_file).write_text(f"{os.getpid()}\n", encoding="ascii")
    while not stop.is_set():
        if plan.seconds and time.monotonic() - started >= plan.seconds:
            stop.set()
        if plan.stop_file and Path(plan.stop_file).exists():
            stop.set()
        await wait_or_stop(stop, 0.1)
    report.seconds = round(time.monotonic() - started, 2)
    _, hanging = await asyncio.wait(tasks, timeout=plan.hang)
    for task in hanging:
        # It hangs in an exchange: nobody else may read its stream while it does.
        task.cancel()
    await asyncio.wait(tasks, timeout=5)
    await asyncio.gather(*(c.last_word() for c in connections))
    report.longest_gap_ms = round(report.longest_gap_ms, 2)
    report.pauses_ms = round(report.pauses_ms, 2)
    report.tcp_longest_stall_ms = round(report.tcp_longest_stall_ms, 2)
    return report


def parse() -> argparse.Namespace:
    """The two verbs."""
    parser = argparse.ArgumentParser(prog="zcluster_traffic.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("echo", help="serve UDP and TCP echo and a small HTTP")
    cold = verbs.add_parser("cold", help="the second client of run --cold, in a namespace")
    cold.add_argument("vip")
    cold.add_argument("port", type=int)
    run = verbs.add_parser("run", help="generate traffic, print one JSON report")
    run.add_argument("--vip", required=True)
    run.add_argument("--port", type=int, default=ECHO_PORT)
    run.add_argument("--seconds", type=float, default=0.0, help="0: until SIGTERM or stop file")
    run.add_argument("--stop-file", default="")
    run.add_argument("--ready-file", default="", help="written when all connections are open")
    run.add_argument("--interval-ms", type=float, default=2.0, help="UDP probe; 0: none")
    run.add_argument("--connections", type=int, default=200)
    run.add_argument("--message-interval", type=float, default=0.3, help="seconds, per connection")
    run.add_argument("--short-rate", type=float, default=0.0, help="short connections a second")
    run.add_argument("--reuse-ports", action="store_true")
    run.add_argument("--http", default="", metavar="ADDRESS:PORT")
    run.add_argument("--http-rate", type=float, default=20.0)
    run.add_argument("--cold", default="", metavar="ADDRESS/BITS", help="a client that asks ARP")
    run.add_argument("--gap-ms", type=float, default=20.0, help="list gaps from this length on")
    run.add_argument("--hang", type=float, default=30.0, help="seconds for what hangs at the end")
    run.add_argument("--last-word", type=float, default=10.0, help="seconds, then it is dead")
    return parser.parse_args()


def main() -> int:
    """Serve, or run and report."""
    # Each connection is an open file.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options = vars(parse())
    verb = options.pop("verb")
    if verb == "echo":
        asyncio.run(serve())
        return 0
    if verb == "cold":
        print(json.dumps(cold_probe(options["vip"], options["port"])))
        return 0
    print(json.dumps(asdict(asyncio.run(generate(Plan(**options))))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
