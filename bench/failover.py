#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# The benchmark of a failover: keepalived as shipped, tuned by hand, and zcluster, side by side.
"""What clients notice when the master loses power, measured on the lab.

The systems take turns: each turn is of the one that has been measured least so far, begins with its
pair as it was made, and cuts the power of whoever is master a few times, at random moments. Each
measurement is one line of .cache/bench/failover.jsonl, a failed one too, so that a run can be ended
and gone on with at any time. Lines carry the version of the product (its content): ``report`` turns
those of the newest one into docs/failover.md and docs/failover.svg.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/lab"), str(ROOT / "roles/lab/files")]

from product import (  # noqa: E402
    LAB_NAME,
    LAB_VARS,
    content_id,
    create_cluster,
    eventually,
    node_status,
    run_playbook,
    wait_settled,
)
from traffic import traffic  # noqa: E402
from zcluster_lab import (  # noqa: E402
    BALANCERS,
    BARE,
    Lab,
    LabError,
    podman,
    runtime_arguments,
)

RESULTS = ROOT / ".cache/bench/failover.jsonl"
DOCS = ROOT / "docs"
ESTABLISHED = 200
MANY = 10_000
BUSY_SECONDS = 120
# Seconds after which ten thousand connections have been established for a while.
SETTLES = 3.0
# So many measurements begin with the same pair; the node that was cut off returns in between.
PER_TURN = {"outage": 5, "many": 1, "false": 1, "http": 5}
# After so many failures in a row a system is left out for the rest of the run.
GIVEN_UP = 6
# The client's own pauses are listed from so many ms on; a gap of which it slept for longer is not
# the system's.
SLEPT = 5.0
# A new request every 5 ms, whatever became of the ones before; when each began and was answered.
REQUESTS = """
import asyncio, json, sys, time
answers = []
async def ask():
    began = time.time()
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(sys.argv[1], 8080), 1)
        writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
        good = b" 200 " in await asyncio.wait_for(reader.readline(), 1)
        writer.close()
    except (OSError, TimeoutError, asyncio.TimeoutError):
        good = False
    if good:
        answers.append((began, time.time()))
async def main():
    asked = []
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        asked.append(asyncio.ensure_future(ask()))
        await asyncio.sleep(0.005)
    await asyncio.gather(*asked)
asyncio.run(main())
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class System:
    """One way to make a pair; `profile` is ours, else keepalived with `advert_int` seconds.

    `haproxy`: hot (it runs on both), cold (started by zcluster on promotion), or script (started by
    a notify script written by hand).
    """

    name: str
    label: str
    interval: float
    missed: int = 3
    profile: str = ""
    reference: str = ""
    kinds: tuple[str, ...] = ("outage", "many", "false")
    haproxy: str = "hot"

    @property
    def detection(self) -> float:
        """Seconds until a silent master is given up, at most (skew time left out)."""
        return self.interval * self.missed


SYSTEMS = {
    system.name: system
    for system in (
        System("stock", "keepalived, stock: VRRPv2, 1 s", 1.0),
        System("tuned-0.1", "keepalived, tuned by hand, 0.1 s", 0.1),
        System(
            "standard",
            "zcluster, profile standard (0.1 s)",
            0.1,
            profile="standard",
            reference="tuned-0.1",
            kinds=("outage", "many", "false", "http"),
        ),
        System("tuned-0.02", "keepalived, tuned by hand, 0.02 s", 0.02),
        System("fast", "zcluster, profile fast (0.02 s)", 0.02, 3, "fast", "tuned-0.02"),
        System("tuned-0.5", "keepalived, tuned by hand, 0.5 s, 6 missed", 0.5, 6),
        System("wan", "zcluster, profile wan (0.5 s, 6 missed)", 0.5, 6, "wan", "tuned-0.5"),
        System(
            "cold",
            "zcluster, profile standard, haproxy cold",
            0.1,
            profile="standard",
            kinds=("http",),
            haproxy="cold",
        ),
        System(
            "script",
            "keepalived, 0.1 s, notify script starts haproxy",
            0.1,
            kinds=("http",),
            haproxy="script",
        ),
    )
}


# --------------------------------------------------------------------------------------------------
# Preparing
# --------------------------------------------------------------------------------------------------


def keepalived_conf(lab: Lab, system: System, number: int) -> str:
    """keepalived.conf of a node (0 or 1), as the manual pages lead one to write it."""
    settings = lab.settings
    lines = []
    if system.name != "stock":
        lines += [
            "global_defs {",
            "    script_user root",
            "    vrrp_version 3",
            "    vrrp_rt_priority 50",
            "    vrrp_rlimit_rttime 100000",
            "    vrrp_no_swap",
            "}",
        ]
    lines += [
        "vrrp_sync_group pair {",
        "    group {",
        "        front",
        "        back",
        "    }",
    ]
    if system.haproxy == "script":
        lines += [
            '    notify_master "/usr/bin/systemctl start haproxy"',
            '    notify_backup "/usr/bin/systemctl stop haproxy"',
        ]
    lines.append("}")
    own, peer = BALANCERS[number], BALANCERS[1 - number]
    for network, vips in (("front", (100, 101)), ("back", (100,))):
        lines += [
            f"vrrp_instance {network} {{",
            f"    interface {own.interface(network)}",
            "    virtual_router_id 51",
        ]
        if system.name == "stock":
            state, priority = ("MASTER", 150) if number == 0 else ("BACKUP", 100)
            lines += [f"    state {state}", f"    priority {priority}", "    advert_int 1"]
        else:
            lines += [
                "    state BACKUP",
                "    nopreempt",
                f"    priority {254 - number}",
                f"    advert_int {system.interval}",
                f"    down_timer_adverts {system.missed}",
                f"    unicast_src_ip {settings.address(network, own.networks[network])}",
                "    unicast_peer {",
                f"        {settings.address(network, peer.networks[network])}",
                "    }",
            ]
        lines.append("    virtual_ipaddress {")
        bits = settings.prefix(network).rpartition("/")[2]
        lines += [f"        {settings.address(network, vip)}/{bits}" for vip in vips]
        lines += ["    }", "}"]
    return "\n".join(lines) + "\n"


def make_base(lab: Lab, name: str) -> None:
    """Two nodes with the same packages and the same service, no zcluster, no heartbeat yet."""
    lab.restore(BARE)
    first, second = (node.name for node in BALANCERS)
    for path in ("/etc/nftables.conf", "/etc/haproxy/haproxy.cfg"):
        text = lab.exec(first, "cat", path).stdout
        lab.exec(second, "sh", "-c", f"cat > {path}; chmod 755 {path}", stdin=text)
    for node in (first, second):
        install = "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y keepalived >/dev/null"
        lab.exec(node, "sh", "-c", install, timeout=300)
        lab.exec(node, "systemctl", "enable", "-q", "nftables", "haproxy", "keepalived")
    lab.snapshot(name)


def make_by_hand(lab: Lab, inventory: Path, system: System) -> None:
    """A pair of keepalived alone."""
    made = hashlib.sha256((inventory / "hosts.yml").read_bytes() + lab.image.name.encode())
    base = f"bench-hand-{made.hexdigest()[:12]}"
    if base not in lab.snapshots():
        forget(lab, "bench-hand-")
        make_base(lab, base)
    lab.real_time = True
    lab.restore(base)
    for number, node in enumerate(BALANCERS):
        conf = keepalived_conf(lab, system, number)
        lab.exec(node.name, "sh", "-c", "cat > /etc/keepalived/keepalived.conf", stdin=conf)
        if system.haproxy == "script":
            lab.exec(node.name, "systemctl", "disable", "--now", "-q", "haproxy")
        else:
            lab.exec(node.name, "systemctl", "start", "haproxy")
        lab.exec(node.name, "systemctl", "restart", "nftables", "keepalived")


def make_cluster(lab: Lab, inventory: Path, system: System) -> None:
    """A cluster of ours, made once for each version of the product."""
    name = f"bench-{system.name}-{content_id(lab, inventory)}"
    if name not in lab.snapshots():
        forget(lab, f"bench-{system.name}-")
        # The heartbeat may be reloaded while it is made (see Lab.real_time).
        lab.real_time = lab.machine.sys_resource
        lab.restore(BARE)
        services = ["nftables", {"name": "haproxy", "standby": system.haproxy}]
        settings = {"zcluster_profile": system.profile, "zcluster_services": services}
        run = create_cluster(lab, inventory, "-e", json.dumps(settings))
        if run.returncode:
            raise UnusableError(run.output[-2000:])
        wait_settled(lab)
        lab.snapshot(name)
    lab.real_time = True
    lab.restore(name)


def forget(lab: Lab, beginning: str) -> None:
    """What was made of an earlier version."""
    for old in lab.snapshots():
        if old.startswith(beginning):
            lab.forget(old)


def make(lab: Lab, inventory: Path, system: System) -> None:
    """The pair of a system, as after it was made."""
    (make_cluster if system.profile else make_by_hand)(lab, inventory, system)


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------


def serving(lab: Lab, *nodes: str) -> list[str]:
    """The nodes, of these or of both, that have the virtual IP."""
    vip = f" {lab.settings.address('front', 100)}/"
    names = nodes or [node.name for node in BALANCERS]
    return [name for name in names if vip in lab.exec(name, "ip", "-o", "address").stdout]


class UnusableError(Exception):
    """A measurement that says nothing of the system."""


class SleptError(UnusableError):
    """The client itself slept; the pair is as good as before."""


def require_real_time(lab: Lab, system: System) -> None:
    """A heartbeat that asks for a real-time priority must have it where the machine can give it."""
    if system.name == "stock" or lab.status()["nodes"]["n1"].get("real_time") == "refused":
        return
    for node in BALANCERS:
        script = "chrt -p $(pgrep -P $(systemctl show -P MainPID keepalived))"
        policy = lab.exec(node.name, "sh", "-c", script).stdout
        if "SCHED_RR" not in policy:
            raise UnusableError(f"keepalived of {node.name} has no real-time priority: {policy}")


def ready(lab: Lab, system: System) -> str:
    """The master, once the pair has been at rest for some intervals."""
    end = time.monotonic() + 120
    since, last = time.monotonic(), [""]
    while True:
        now = serving(lab)
        if now != last or len(now) != 1:
            since, last = time.monotonic(), now
        elif time.monotonic() - since > 1.5 + 1.5 * system.detection:
            break
        if time.monotonic() > end:
            raise UnusableError(f"nobody serves, or both: {now}")
        time.sleep(0.1)
    master = now[0]
    require_real_time(lab, system)
    if system.profile:
        wait_settled(lab)
        other = other_than(master)
        eventually(f"{other} is ready", lambda: node_status(lab, other).get("ready") is True)
    return master


def other_than(node: str) -> str:
    """The other one of the pair."""
    return next(other.name for other in BALANCERS if other.name != node)


def put_first(lab: Lab, *, first: bool) -> None:
    """Whether the client goes before the nodes on the machine that they share (cgroups(7)).

    It measures; with ten thousand connections it would take from them what they need.
    """
    shares = str(1 << 17 if first else 1 << 10)
    client = lab.settings.container("client")
    podman(*runtime_arguments(lab.machine), "update", "--cpu-shares", shares, client)


def measure_outage(lab: Lab, system: System, connections: int) -> dict[str, Any]:
    """Cut the power of the master at a random time; what the clients noticed."""
    master = ready(lab, system)
    other = other_than(master)
    many = connections > ESTABLISHED
    words = {
        "interval-ms": 2,
        "message-interval": max(0.3, connections / 1000),
        "gap-ms": SLEPT,
        # Together they are longer than the longest pause of TCP after these outages.
        "hang": 3,
        # A client with ten thousand is slow itself; what was reset does not wait for it.
        "last-word": 60 if many else 5,
    }
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    put_first(lab, first=not many)
    with traffic(lab, *options, connections=connections) as noticed:
        # Ten thousand that open are a burst of their own; established is what they are to be.
        time.sleep(random.uniform(0.5, 0.5 + 2 * system.interval) + (SETTLES if many else 0))
        cut = lab.power_off(master)
        # Nothing is asked of the node that takes over before it must have done so.
        time.sleep(1 + 1.4 * system.detection)
        if other not in serving(lab, other):
            raise UnusableError(f"{other} did not take over")
    if noticed.tcp_opened != connections:
        raise UnusableError(
            f"only {noticed.tcp_opened} of {connections} connections could be opened"
        )
    after = [gap for gap in noticed.gaps if gap["end"] > cut]
    if not after or (after[0]["start"] > cut and not many):
        raise UnusableError(f"no gap where the power was cut: {noticed.gaps}")
    # Who has ten thousand connections makes small gaps of his own.
    outage = max(after, key=lambda gap: gap["ms"]) if many else after[0]
    slept = 1000 * sum(
        max(0.0, min(outage["end"], pause["end"]) - max(outage["start"], pause["start"]))
        for pause in noticed.pauses
    )
    # Who has ten thousand connections sleeps often, and counts the survivors all the same.
    if not many and slept > max(SLEPT, outage["ms"] / 20):
        raise SleptError(f"the client itself slept {slept:.0f} of {outage['ms']:.0f} ms")
    return {
        "outage_ms": outage["ms"],
        "slept_ms": round(slept, 1),
        "opened": noticed.tcp_opened,
        "alive": noticed.tcp_alive,
        "reset": noticed.tcp_reset,
        "stall_ms": noticed.tcp_longest_stall_ms,
    }


def takeovers(lab: Lab) -> int:
    """How often the two became master since they booted, by keepalived's own log.

    One instance speaks for its group: by hand it is `front`, ours has its interface's name.
    """
    line = re.compile(rf"\((?:front|{BALANCERS[0].interface('front')})\) Entering MASTER STATE")
    logs = (
        lab.exec(node.name, "journalctl", "--boot", "--output=cat", "--unit=keepalived").stdout
        for node in BALANCERS
    )
    return sum(len(line.findall(log)) for log in logs)


def measure_false(lab: Lab, system: System, _: int) -> dict[str, Any]:
    """All cores busy, nothing broken: each change of master is a false one."""
    ready(lab, system)
    before = takeovers(lab)
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(2 * (os.cpu_count() or 2))
    ]
    try:
        time.sleep(BUSY_SECONDS)
    finally:
        for loop in loops:
            loop.kill()
    return {"takeovers": takeovers(lab) - before, "seconds": BUSY_SECONDS}


def promoted_at(lab: Lab, node: str) -> float:
    """When a node last became master, by keepalived's own log (Unix time: all share one clock)."""
    shown = lab.exec(node, "journalctl", "--boot", "--output=json", "--unit=keepalived").stdout
    lines = [json.loads(line) for line in shown.splitlines()]
    times = [x["__REALTIME_TIMESTAMP"] for x in lines if "Entering MASTER STATE" in x["MESSAGE"]]
    return int(times[-1]) / 1e6 if times else 0.0


def measure_http(lab: Lab, system: System, _: int) -> dict[str, Any]:
    """Cut the power of the master; from the promotion of the other to the first good answer."""
    master = ready(lab, system)
    other = other_than(master)
    vip = lab.settings.address("front", 101)
    asking = lab.start_process("client", "python3", "-c", REQUESTS, vip, "8")
    time.sleep(random.uniform(0.5, 0.5 + 2 * system.interval))
    cut = lab.power_off(master)
    answers = json.loads(asking.communicate(timeout=60)[0])
    promoted = promoted_at(lab, other)
    if promoted < cut or not any(end < cut for _, end in answers):
        raise UnusableError("no takeover, or no service before the cut")
    # A SYN that the dead one never got is sent again a second later: only who begins afterwards.
    first = min((end for began, end in answers if began > cut and end > promoted), default=None)
    return {"http_ms": round((first - promoted) * 1000, 1) if first else None}


# What makes one measurement fail, and not the run.
FAILURES = (
    *(UnusableError, LabError, AssertionError, subprocess.SubprocessError),
    *(OSError, ValueError, KeyError, AttributeError),
)
KINDS: dict[str, tuple[Callable[[Lab, System, int], dict[str, Any]], int]] = {
    "outage": (measure_outage, ESTABLISHED),
    "many": (measure_outage, MANY),
    "false": (measure_false, 0),
    "http": (measure_http, 0),
}


def load() -> list[dict[str, Any]]:
    """All measurements there are; a line that was not finished is none."""
    rows = []
    if RESULTS.exists():
        for line in RESULTS.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return rows


def of_version(rows: Sequence[dict[str, Any]], content: str) -> list[dict[str, Any]]:
    """The measurements beside one version of the product, the failed ones left out."""
    return [row for row in rows if row.get("content") == content and "failed" not in row]


def next_due(rows: Sequence[dict[str, Any]], rounds: dict[str, int], names: Sequence[str]) -> Any:
    """System, kind and number of what was measured least of what is wanted; None: all is done."""
    due = []
    for kind, wanted in rounds.items():
        for name in (name for name in names if kind in SYSTEMS[name].kinds):
            done = sum(row["system"] == name and row["kind"] == kind for row in rows)
            if done < wanted:
                count = min(wanted - done, PER_TURN[kind])
                due.append((done / wanted, random.random(), name, kind, count))
    return min(due)[2:] if due else None


def open_lab() -> tuple[Lab, Path]:
    """The lab, up, and its inventory."""
    inventory = ROOT / "inventories/lab"
    if LAB_NAME != "zcluster-lab":
        inventory = ROOT / ".cache/inventories" / LAB_NAME
    words = f"lab_name={LAB_NAME} lab_inventory_dir={inventory} {LAB_VARS}".split()
    up = run_playbook("zcluster.ha.lab_up", *(part for word in words for part in ("-e", word)))
    if up.returncode:
        raise SystemExit(up.output)
    return Lab.open(LAB_NAME), inventory


def note(row: dict[str, Any]) -> None:
    """Keep a measurement."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n" * (not whole(RESULTS)) + json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def whole(path: Path) -> bool:
    """Whether the last line of a file was finished."""
    return path.read_bytes()[-1:] in (b"", b"\n")


def take_turn(
    lab: Lab, system: System, kind: str, count: int, over: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """So many measurements of one pair; what was cut off returns in between."""
    measure, connections = KINDS[kind]
    for number in range(count):
        if number:
            if over():
                return
            for node in BALANCERS:
                if lab.states().get(node.name) != "running":
                    lab.power_on(node.name)
        try:
            measured = measure(lab, system, connections)
        except SleptError as error:
            measured = {"failed": str(error)}
        yield measured


def run(options: argparse.Namespace) -> None:
    """Measure until every system has its rounds, or the time is over."""
    lab, inventory = open_lab()
    end = time.monotonic() + options.seconds if options.seconds else math.inf
    rounds = {kind: getattr(options, kind) for kind in KINDS}
    content = content_id(lab, inventory)
    names, failures = list(options.systems), dict.fromkeys(options.systems, 0)
    while due := next_due(of_version(load(), content), rounds, names):
        if time.monotonic() > end:
            print("out of time: run it again to go on")
            break
        name, kind, count = due
        row = {"system": name, "kind": kind, "content": content}
        try:
            make(lab, inventory, SYSTEMS[name])
            turn = take_turn(lab, SYSTEMS[name], kind, count, lambda: time.monotonic() > end)
            for measured in turn:
                note({**row, "at": round(time.time()), **measured})
                failures[name] = failures[name] + 1 if "failed" in measured else 0
        except FAILURES as error:
            note({**row, "at": round(time.time()), "failed": str(error)[-500:]})
            failures[name] += 1
        if failures[name] >= GIVEN_UP:
            print(f"{name} is left out: it failed {GIVEN_UP} times in a row")
            names.remove(name)


# --------------------------------------------------------------------------------------------------
# Reporting
# --------------------------------------------------------------------------------------------------


def quartiles(values: Iterable[float]) -> tuple[float, float, float, float, float]:
    """Least, lower quartile, median, upper quartile, greatest."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return (ordered[0],) * 5
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return ordered[0], low, middle, high, ordered[-1]


def outages(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """System -> its outages in ms, for those that were measured."""
    found = {
        name: [r["outage_ms"] for r in rows if r["system"] == name and r["kind"] == "outage"]
        for name in SYSTEMS
    }
    return {name: values for name, values in found.items() if values}


def verdicts(measured: dict[str, list[float]], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The aims, each with the figure that was measured."""
    said = []
    for name, values in measured.items():
        system = SYSTEMS[name]
        if system.reference in measured:
            middle, theirs = statistics.median(values), quartiles(measured[system.reference])
            ratio = middle / theirs[2]
            met = ratio <= 1.05 or theirs[1] <= middle <= theirs[3]
            said.append(
                f"{name}: {ratio:.2f} of the median of {system.reference}"
                f" ({'met' if met else 'NOT met'}: at most 1.05, or within its quartiles)"
            )
    if "fast" in measured and "stock" in measured:
        ratio = statistics.median(measured["stock"]) / statistics.median(measured["fast"])
        said.append(
            f"fast: {ratio:.0f} times faster than stock settings"
            f" ({'met' if ratio >= 25 else 'NOT met'}: at least 25)"
        )
    ours = [row for row in rows if SYSTEMS[row["system"]].profile]
    cuts = [row for row in ours if row["kind"] in ("outage", "many")]
    lost = [row for row in cuts if row["alive"] < row["opened"]]
    runs = len(cuts)
    said.append(f"every connection alive in {runs - len(lost)} of {runs} outages of zcluster")
    false = [row["takeovers"] for row in ours if row["kind"] == "false"]
    if false:
        said.append(f"{sum(false)} changes of master in {len(false)} runs with all cores busy")
    return said


def alive(rows: Sequence[dict[str, Any]], name: str, kind: str) -> str:
    """Connections that survived: the median, and the least of all runs."""
    found = [row["alive"] for row in rows if row["system"] == name and row["kind"] == kind]
    return f"{statistics.median(found):.0f} ({min(found)})" if found else "not measured"


def false_of(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Changes of master of each run."""
    found = [row["takeovers"] for row in rows if row["system"] == name and row["kind"] == "false"]
    return ", ".join(map(str, found)) if found else "not measured"


def days(rows: Sequence[dict[str, Any]]) -> str:
    """When."""
    dates = sorted({time.strftime("%Y-%m-%d", time.gmtime(row["at"])) for row in rows})
    return " to ".join(dict.fromkeys((dates[0], dates[-1])))


def left_out(failed: Sequence[dict[str, Any]]) -> list[str]:
    """What was measured in vain, of which system and why: a takeover that did not come is in it."""
    whys = [(row["system"], row["kind"], why_short(row["failed"])) for row in failed]
    counts = sorted(Counter(whys).items())
    lines = [f"- {name}, {kind}: {count} times, {why}" for (name, kind, why), count in counts]
    return ["## What was left out", "", *lines, ""] if lines else []


def why_short(failed: str) -> str:
    """The last line of a failure, its figures left out, so that equal ones are counted together."""
    return re.sub(r"\d[\d.]*", "…", (failed.splitlines() or [""])[-1])[:120]


def slept_line(slept: Sequence[float]) -> list[str]:
    """How much of the outages was the client's own doing."""
    if not slept:
        return []
    return [f"Of the others it slept {statistics.median(slept):.0f} ms ({max(slept):.0f} at most)."]


def table(rows: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]]) -> str:
    """docs/failover.md."""
    measured = outages(rows)
    slept = [row["slept_ms"] for row in rows if row["kind"] == "outage" and "slept_ms" in row]
    lines = [
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->",
        '<!-- Written by "bench/failover.py report" from what was measured; see there. -->',
        "# What clients notice when the master loses power",
        "",
        f"Measured by `make bench-failover` with one version of zcluster, {days(rows)}, on the lab",
        f"(two systemd containers on one machine with {os.cpu_count()} cores): all links of the",
        "master are cut at a random time, then it is killed; the systems take turns. Outage: the",
        "time between the two UDP round trips through the virtual IP around the cut, in ms. Alive:",
        "TCP connections through NAT to four backends that answer at the end, median (least).",
        f"Read the ratios: the machine is shared. {len(failed)} measurements failed and are left",
        f"out, those in which the client itself slept for over {SLEPT:g} ms and a twentieth too.",
        *slept_line(slept),
        "",
    ]
    if measured:
        lines += outage_table(rows, measured)
    else:
        lines += ["Outages have not been measured with this version.", ""]
    lines += [*http_table(rows), *left_out(failed)]
    return "\n".join(lines)


def outage_table(rows: Sequence[dict[str, Any]], measured: dict[str, list[float]]) -> list[str]:
    """Outages, what survived them, false takeovers, and the aims."""
    lines = [
        "![Outages](failover.svg)",
        "",
        "| system | runs | least | 25 % | median | 75 % | most | alive of 200 | alive of 10,000 |"
        f" changes of master in {BUSY_SECONDS} s, all cores busy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in measured.items():
        five = " | ".join(f"{value:.0f}" for value in quartiles(values))
        survived = f"{alive(rows, name, 'outage')} | {alive(rows, name, 'many')}"
        lines.append(
            f"| {SYSTEMS[name].label} | {len(values)} | {five} | {survived}"
            f" | {false_of(rows, name)} |"
        )
    return [*lines, "", *(f"- {word}" for word in verdicts(measured, rows)), ""]


def http_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """From promotion to the first good answer through haproxy, for each way to have it ready."""
    lines = []
    for name, system in SYSTEMS.items():
        found = [r["http_ms"] for r in rows if r["system"] == name and r["kind"] == "http"]
        answered = [ms for ms in found if ms is not None]
        if answered:
            five = " | ".join(f"{value:.0f}" for value in quartiles(answered))
            never = len(found) - len(answered)
            lines.append(f"| {system.label}, {system.haproxy} | {len(found)} | {five} | {never} |")
    if not lines:
        return []
    return [
        "## A service on the node: haproxy",
        "",
        "From keepalived's promotion of the backup to the first good HTTP answer through the",
        "virtual IP, in ms; a new request every 5 ms. Never: no good answer within 8 s.",
        "",
        "| system, haproxy | runs | least | 25 % | median | 75 % | most | never |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *lines,
        "",
    ]


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """docs/failover.svg: each outage a dot, the box from quartile to quartile, logarithmic."""
    measured = outages(rows)
    left, width, step, top = 300, 560, 34, 20
    height = top + step * len(measured) + 44
    least, most = 10.0, 10_000.0

    def x(ms: float) -> float:
        share = math.log(max(ms, least) / least) / math.log(most / least)
        return round(left + width * share, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 30}" height="{height}"'
        ' font-family="sans-serif" font-size="13">',
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    bottom = top + step * len(measured)
    for tick in (10, 30, 100, 300, 1000, 3000, 10_000):
        parts.append(f'<path d="M{x(tick)} {top}V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(tick)}" y="{bottom + 18}" text-anchor="middle">{tick}</text>')
    middle_x = left + width / 2
    parts.append(f'<text x="{middle_x}" y="{bottom + 38}" text-anchor="middle">outage, ms</text>')
    for index, (name, values) in enumerate(measured.items()):
        y = top + step * index + step // 2
        colour = "#1b7837" if SYSTEMS[name].profile else "#762a83"
        _, low, middle, high, _ = quartiles(values)
        box = max(2.0, x(high) - x(low))
        parts.append(
            f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{SYSTEMS[name].label}</text>'
        )
        parts.append(
            f'<rect x="{x(low)}" y="{y - 9}" width="{box:.1f}" height="18" fill="{colour}"'
            ' fill-opacity="0.25"/>'
        )
        parts.append(f'<path d="M{x(middle)} {y - 9}v18" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(v)}" cy="{y}" r="2.5" fill="{colour}" fill-opacity="0.6"/>'
            for v in values
        ]
    return "\n".join([*parts, "</svg>", ""])


def report(_: argparse.Namespace) -> None:
    """Write both files from what was measured beside the newest version of the product."""
    found = [row for row in load() if "content" in row]
    content = found[-1]["content"] if found else ""
    rows = of_version(found, content)
    if not rows:
        raise SystemExit(f"{RESULTS}: nothing was measured yet")
    text = table(rows, [r for r in found if r["content"] == content and "failed" in r])
    DOCS.mkdir(exist_ok=True)
    (DOCS / "failover.md").write_text(text, encoding="utf-8")
    if outages(rows):
        (DOCS / "failover.svg").write_text(plot(rows), encoding="utf-8")
    print(text)


def main() -> None:
    """The two verbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measure = verbs.add_parser("run", help="measure")
    measure.add_argument("--outage", type=int, default=20, help="outages of each system")
    measure.add_argument("--many", type=int, default=3, help=f"outages with {MANY} connections")
    measure.add_argument("--false", type=int, default=1, help="runs with all cores busy")
    measure.add_argument("--http", type=int, default=20, help="promotions under HTTP requests")
    measure.add_argument("--seconds", type=float, default=0, help="begin nothing after so long")
    measure.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    measure.set_defaults(do=run)
    verbs.add_parser("report", help="write docs/failover.md and .svg").set_defaults(do=report)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
