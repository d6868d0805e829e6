#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# The benchmark of synchronization: zcluster beside what people use instead, on the same pair.
"""How long until a change is on the other node, and what it costs, measured on a lab of its own.

Interleaved and resumable: each measurement is of the system and tree measured least so far, and is
one line of .cache/bench/sync.jsonl. ``report`` turns them into docs/sync.md and docs/sync.svg.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAME = "zcluster-bench"
# Before product.py is imported: a lab with room for the trees, beside the usual one.
os.environ["ZCLUSTER_LAB_NAME"] = NAME
sys.path[:0] = [str(ROOT / "tests/lab"), str(ROOT / "roles/lab/files")]

from product import (  # noqa: E402
    content_id,
    create_cluster,
    eventually,
    make_first_master,
    node_status,
    run_playbook,
    wait_settled,
)
from zcluster_lab import BARE, Lab  # noqa: E402

RESULTS = ROOT / ".cache/bench/sync.jsonl"
PACKAGES = ROOT / ".cache/bench/packages"
INVENTORY = ROOT / ".cache/inventories" / NAME
DOCS = ROOT / "docs"
# The disk of /etc/haproxy is an ext4 of its own; no service depends on this directory.
TREE = "/etc/haproxy/bench"
PROBE = f"{TREE}/probe"
SIZES = (100, 10_000, 100_000)
PROBES = 10
IDLE_SECONDS = 60
BUSY_SECONDS = 30
PER_SECOND = 10
PATIENCE = 60.0
LARGEST_LOAD = 2.0
DISKS = {"root_mb": 3000, "zcluster_mb": 3000, "haproxy_mb": 3000}
NETWORKS = {
    "front": "198.19.230.0/24",
    "back": "198.19.231.0/24",
    "link": "198.19.232.0/24",
    "front6": "2001:db8:e0::/64",
    "back6": "2001:db8:e1::/64",
    "link6": "2001:db8:e2::/64",
}
DEBIAN = (
    "inotify-tools",
    "libinotifytools0",
    "liblua5.3-0",
    "lsyncd",
    "lua5.3",
    "unison-2.52",
)
"""What the references are and need, beside what a node has; taken from this machine's Debian."""

# Programs that run on the nodes. Both are containers of one kernel: CLOCK_MONOTONIC is common.
GROW = """
import os, shutil, sys
tree, size = sys.argv[1], int(sys.argv[2])
shutil.rmtree(tree, ignore_errors=True)
for number in range(size):
    directory = f"{tree}/{number // 100:04d}"
    if number % 100 == 0:
        os.makedirs(directory)
    with open(f"{directory}/{number:06d}.conf", "w") as file:
        file.write(f"# {number}\\n" * 20)
    os.utime(f"{directory}/{number:06d}.conf", (1700000000, 1700000000))
with open(f"{tree}/probe", "w") as file:
    file.write("0")
os.utime(f"{tree}/probe", (1700000000, 1700000000))
"""
WRITE = """
import os, sys, time
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
os.write(descriptor, sys.argv[2].encode())
os.close(descriptor)
print(time.monotonic())
"""
WATCH = """
import sys, time
path, last = sys.argv[1], None
while True:
    try:
        with open(path) as file:
            now = file.read()
    except OSError:
        now = last
    if now != last:
        print(now or "empty", time.monotonic(), flush=True)
        last = now
    time.sleep(0.001)
"""
BURST = """
import os, sys, time
directory, count = sys.argv[1], int(sys.argv[2])
os.makedirs(directory, exist_ok=True)
for number in range(count):
    with open(f"{directory}/{number:06d}", "w") as file:
        file.write(f"{number}\\n" * 10)
print(time.monotonic())
"""
DELETE = """
import os, shutil, sys, time
for name in os.listdir(sys.argv[1]):
    if os.path.isdir(f"{sys.argv[1]}/{name}"):
        shutil.rmtree(f"{sys.argv[1]}/{name}")
print(time.monotonic())
"""
DIGEST = """
import hashlib, json, os, sys, time
def listing(top):
    found = {}
    for path, names, files in os.walk(top):
        found[path] = "directory"
        for name in files:
            if name.startswith((".zcluster-", ".unison")):
                continue
            try:
                with open(f"{path}/{name}", "rb") as file:
                    found[f"{path}/{name}"] = hashlib.sha256(file.read()).hexdigest()
            except OSError:
                pass
    return found
def digest(found):
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
top, wanted, patience = sys.argv[1], sys.argv[2], float(sys.argv[3])
end = time.monotonic() + patience
while True:
    began = time.monotonic()
    found = listing(top)
    if not wanted or digest(found) == wanted or began > end:
        print(json.dumps({"at": began, "digest": digest(found), "files": len(found)}))
        break
    time.sleep(0.05)
"""
# Of each process its number, utime and stime, with those of reaped children (whoever ends hands its
# own to its parent), and what is resident.
CPU = """
import json, os, sys
units = sys.argv[1].split(",")
tick, page, found = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE"), {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        with open(f"/proc/{pid}/cgroup") as file:
            groups = file.read()
    except OSError:
        continue
    if units == [""] or any(unit in groups for unit in units):
        times = list(map(int, fields[11:15]))
        found[pid] = [sum(times[:2]) / tick, sum(times) / tick, int(fields[21]) * page / 1e6]
print(json.dumps(found))
"""
CHANGES = """
import sys, time
tree, seconds, rate = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
end, number = time.monotonic() + seconds, 0
while time.monotonic() < end:
    with open(f"{tree}/0000/{number % 100:06d}.conf", "w") as file:
        file.write(f"changed {time.monotonic()}\\n" * 20)
    number += 1
    time.sleep(1 / rate)
"""
KEY = "/root/.ssh/bench"
SSH = f"ssh -i {KEY} -o StrictHostKeyChecking=no -o BatchMode=yes"
SHARED = "-o ControlMaster=auto -o ControlPath=/run/bench-%C -o ControlPersist=600"
# Everything that is waiting is one pass, as with every good loop of this kind.
LOOP = """\
inotifywait -q -m -r -e close_write,create,delete,move,attrib {tree} |
while read -r _; do
    while read -r -t 0.01 _; do :; done
    rsync -a --delete -e '{ssh}' {tree}/ root@{peer}:{tree}/
done
"""
LSYNCD = """\
settings {{ nodaemon = true, inotifyMode = "CloseWrite or Modify" }}
sync {{
    default.rsync, source = "{tree}", target = "root@{peer}:{tree}/", delay = {delay},
    rsync = {{ archive = true, rsh = "{ssh}" }},
}}
"""


@dataclass(frozen=True)
class System:
    """One way to keep two trees the same; `script` runs on n1 and is empty for ours.

    archive: what is there once it has looked at both trees; a change before that is a conflict.
    """

    name: str
    label: str
    script: str = ""
    configuration: str = ""
    ssh: str = SSH
    delay: int = 0
    archive: str = ""

    @property
    def ours(self) -> bool:
        """zcluster itself."""
        return not self.script


REFERENCE = "rsync-shared"
SYSTEMS = {
    system.name: system
    for system in (
        System("zcluster", "zcluster"),
        System(
            REFERENCE, "inotifywait -m, rsync over an open connection", LOOP, ssh=f"{SSH} {SHARED}"
        ),
        System("rsync", "inotifywait -m, rsync, a new connection each time", LOOP),
        System("lsyncd-0", "lsyncd, delay 0", "lsyncd /run/bench.lua", LSYNCD),
        System("lsyncd-1", "lsyncd, delay 1", "lsyncd /run/bench.lua", LSYNCD, delay=1),
        System(
            "unison",
            "unison, looking each second (Debian has no monitor for it)",
            "unison-2.52 {tree} ssh://root@{peer}/{tree} -servercmd unison-2.52 -sshargs '{args}'"
            " -batch -auto -confirmbigdel=false -times -perms -1 -silent -repeat 1",
            archive="/root/.unison/ar*",
        ),
    )
}


class Bench:
    """The pair, which system runs on it, and how large its trees are."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.peer = lab.settings.address("link", 12)
        self.running: System | None = None
        self.size: int | None = None

    def python(self, node: str, program: str, *arguments: str, timeout: float = 300) -> str:
        """Run one of the programs above on a node; what it printed."""
        done = self.lab.exec(node, "python3", "-c", program, *arguments, timeout=timeout)
        return done.stdout.strip()

    def shell(self, node: str, script: str, *, check: bool = True) -> str:
        """A few commands on a node."""
        return self.lab.exec(node, "sh", "-ec", script, check=check).stdout

    def stop(self) -> None:
        """Nothing synchronizes."""
        self.running = None
        self.shell(
            "n1",
            "systemctl stop bench-sync.service 2>/dev/null || true;"
            f" {SSH} {SHARED} -O exit root@{self.peer} 2>/dev/null || true",
        )
        for node in ("n1", "n2"):
            self.shell(node, "systemctl stop zcluster.service")

    def run(self, system: System, size: int) -> None:
        """Let this system run over two equal trees of this size, and wait until it works."""
        if (self.running, self.size) == (system, size):
            return
        self.stop()
        if self.size != size:
            for node in ("n1", "n2"):
                self.python(node, GROW, TREE, str(size))
            self.size = size
        if system.ours:
            for node in ("n1", "n2"):
                self.shell(node, "systemctl start zcluster.service")
            in_sync = ("in sync", "in sync")
            eventually(
                "both in sync",
                lambda: (self._sync("n1"), self._sync("n2")) == in_sync,
                timeout=300,
            )
        else:
            words = {"tree": TREE, "peer": self.peer, "ssh": system.ssh, "delay": system.delay}
            words["args"] = SSH.removeprefix("ssh ")
            files = {"/run/bench.lua": system.configuration, "/run/bench.sh": system.script}
            for path, text in files.items():
                self.lab.exec("n1", "tee", path, stdin=text.format(**words))
            # Its archives would be of other trees.
            self.shell("n1", "rm -rf /root/.unison")
            self.shell("n2", "rm -rf /root/.unison")
            unit = "systemd-run --quiet --collect --unit=bench-sync --setenv=HOME=/root"
            self.shell("n1", f"{unit} bash /run/bench.sh")
            if system.archive:
                eventually(
                    "its first pass has ended",
                    lambda: self.shell("n1", f"ls {system.archive} || true") != "",
                    timeout=300,
                )
        self.running = system
        self.arrives()

    def _sync(self, node: str) -> str:
        return str(node_status(self.lab, node).get("sync"))

    def arrives(self) -> None:
        """Until a change comes through."""
        end = time.monotonic() + 240
        while time.monotonic() < end:
            wanted = f"start {random.random()}"
            self.python("n1", WRITE, PROBE, wanted)
            for _ in range(40):
                if self.shell("n2", f"cat {PROBE}", check=False) == wanted:
                    return
                time.sleep(0.25)
        raise SystemExit("nothing arrives")

    def processes(self, node: str, units: str = "") -> dict[str, list[float]]:
        """Of each process in these units (all, if none): own and whole CPU seconds, MB."""
        found: dict[str, list[float]] = json.loads(self.python(node, CPU, units))
        return found

    def everything(self) -> float:
        """CPU seconds of all that runs on both nodes."""
        return sum(p[1] for node in ("n1", "n2") for p in self.processes(node).values())

    def synchronizing(self) -> tuple[list[dict[str, float]], float]:
        """Own CPU seconds of what synchronizes on each node, by process; MB of both together."""
        ours = self.running is not None and self.running.ours
        units = (
            ("zcluster.service", "zcluster-receive,ssh.service")
            if ours
            else ("bench-sync.service", "ssh.service")
        )
        seconds, megabytes = [], 0.0
        for node, unit in zip(("n1", "n2"), units, strict=True):
            found = self.processes(node, unit)
            megabytes += sum(p[2] for p in found.values())
            times = {pid: p[0] for pid, p in found.items()}
            if ours:
                # Of the daemon the thread that synchronizes: the others do other work.
                daemon = self.shell(node, "systemctl show -P MainPID zcluster").strip()
                times[daemon] = self._thread(node)
            seconds.append(times)
        if ours:
            megabytes += sum(p[2] for p in self.processes("n2", "zcluster.service").values())
        return seconds, megabytes

    def _thread(self, node: str) -> float:
        """CPU seconds of the daemon's thread that synchronizes; the others do other work."""
        shown = self.lab.exec(node, "zclustermanager", "sync", "status", "--json").stdout
        return float(json.loads(shown)["cpu_seconds"])


def measure_single(bench: Bench, _: System) -> dict[str, Any]:
    """One small file is written at a random time: ms until its content is on the other node."""
    latencies: list[float | None] = []
    watching = bench.lab.start_process("n2", "python3", "-c", WATCH, PROBE)
    assert watching.stdout is not None
    seen: dict[str, float] = {}
    os.set_blocking(watching.stdout.fileno(), False)
    rest = ""
    try:
        for number in range(PROBES):
            time.sleep(random.uniform(1.0, 2.0))
            value = f"probe-{number}-{random.random()}"
            written = float(bench.python("n1", WRITE, PROBE, value))
            end = time.monotonic() + PATIENCE
            while value not in seen and time.monotonic() < end:
                time.sleep(0.02)
                with contextlib.suppress(BlockingIOError):
                    rest += os.read(watching.stdout.fileno(), 1 << 16).decode()
                *lines, rest = rest.split("\n")
                seen |= {v: float(at) for v, at in (line.rsplit(" ", 1) for line in lines)}
            # It can be there before the writer has looked at its clock.
            latency = max(0.0, seen[value] - written) if value in seen else None
            latencies.append(None if latency is None else round(latency * 1000, 1))
    finally:
        bench.lab.stop_process(watching)
    return {"ms": latencies}


def _until_equal(bench: Bench, top: str, written: float) -> dict[str, Any]:
    ours = json.loads(bench.python("n1", DIGEST, top, "", "0"))
    found = json.loads(bench.python("n2", DIGEST, top, ours["digest"], "120", timeout=200))
    if found["digest"] != ours["digest"]:
        return {"seconds": None, "missed": abs(found["files"] - ours["files"])}
    return {"seconds": round(max(0.0, found["at"] - written), 2), "missed": 0}


def measure_burst(bench: Bench, _: System) -> dict[str, Any]:
    """2,000 files at once: seconds from the last write until both trees are equal."""
    written = float(bench.python("n1", BURST, f"{TREE}/burst", "2000"))
    found = _until_equal(bench, TREE, written)
    bench.size = None
    return found


def measure_delete(bench: Bench, _: System) -> dict[str, Any]:
    """10,000 files removed at once: seconds until they are gone from the other node."""
    found = _until_equal(bench, TREE, float(bench.python("n1", DELETE, TREE)))
    bench.size = None
    return found


def measure_cost(bench: Bench, _: System) -> dict[str, Any]:
    """CPU in per cent of one core, both nodes: at rest, and with ten changes a second; memory."""
    time.sleep(10)
    began, (before, megabytes) = time.monotonic(), bench.synchronizing()
    everything = bench.everything()
    time.sleep(IDLE_SECONDS)
    after = bench.synchronizing()[0]
    rest = bench.everything()
    seconds = time.monotonic() - began
    bench.python("n1", CHANGES, TREE, str(BUSY_SECONDS), str(PER_SECOND))
    # What is not done yet is part of the price.
    _until_equal(bench, TREE, 0.0)
    busy_seconds = time.monotonic() - began - seconds
    busy = bench.everything()
    # The node's other programs need the same as at rest.
    other = (rest - everything) / seconds * busy_seconds
    return {
        # Who came or went meanwhile did other work.
        "idle": [
            round(100 * sum(new[p] - old[p] for p in new.keys() & old.keys()) / seconds, 3)
            for old, new in zip(before, after, strict=True)
        ],
        "busy": round(100 * (busy - rest - other) / BUSY_SECONDS, 1),
        "mb": round(megabytes, 1),
    }


# What is measured: how, and in trees of which sizes.
KINDS: dict[str, tuple[Callable[[Bench, System], dict[str, Any]], tuple[int, ...]]] = {
    "single": (measure_single, SIZES),
    "burst": (measure_burst, (100,)),
    "delete": (measure_delete, (10_000,)),
    "cost": (measure_cost, (10_000,)),
}


def load() -> list[dict[str, Any]]:
    """All measurements there are."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def of_version(rows: Sequence[dict[str, Any]], content: str) -> list[dict[str, Any]]:
    """The measurements beside one version of the product."""
    return [row for row in rows if row.get("content") == content]


def next_due(rows: Sequence[dict[str, Any]], rounds: dict[str, int], names: Sequence[str]) -> Any:
    """The system, kind and size measured least, relative to what is wanted; None when all is done.

    Sizes stay together, for trees are made anew between them.
    """
    due = []
    for kind, wanted in rounds.items():
        for size in KINDS[kind][1]:
            for name in names:
                key = (name, kind, size)
                done = sum((r["system"], r["kind"], r["size"]) == key for r in rows)
                if done < wanted:
                    due.append((done / wanted, size, random.random(), key))
    return min(due)[-1] if due else None


def packages() -> list[Path]:
    """The references as Debian packages, from where this machine has its own."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    missing = [name for name in DEBIAN if not list(PACKAGES.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", "--quiet", *missing], cwd=PACKAGES, check=True)
    return sorted(PACKAGES.glob("*.deb"))


def prepare(lab: Lab) -> None:
    """The cluster and the references on both nodes; made once per content, then restored."""
    name = f"sync-{content_id(lab, INVENTORY)}"
    if name in lab.snapshots():
        lab.restore(name)
    else:
        lab.restore(BARE)
        for node in ("n1", "n2"):
            lab.exec(node, "mkdir", TREE)
        words = json.dumps({"zcluster_sync_paths": [TREE], "zcluster_services": []})
        created = create_cluster(lab, INVENTORY, "-e", words)
        if created.returncode:
            raise SystemExit(created.output)
        for node in ("n1", "n2"):
            inside = lab.disks(node).root / "root/packages"
            inside.mkdir(exist_ok=True)
            for package in packages():
                shutil.copy(package, inside)
            lab.exec(node, "sh", "-ec", "dpkg --install /root/packages/*.deb")
        lab.exec("n1", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY)
        public = lab.exec("n1", "cat", f"{KEY}.pub").stdout
        lab.exec("n2", "tee", "-a", "/root/.ssh/authorized_keys", stdin=public)
        wait_settled(lab)
        for old in lab.snapshots():
            if old.startswith("sync-"):
                lab.forget(old)
        lab.snapshot(name)
    wait_settled(lab)
    make_first_master(lab)


def run(options: argparse.Namespace) -> None:
    """Measure until every system has its rounds, or the time is over."""
    sizes = {f"lab_{name}": value for name, value in {**DISKS, **NETWORKS}.items()}
    words = {"lab_name": NAME, "lab_inventory_dir": str(INVENTORY), **sizes}
    up = run_playbook("zcluster.ha.lab_up", "-e", json.dumps(words))
    if up.returncode:
        raise SystemExit(up.output)
    lab = Lab.open(NAME)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds if options.seconds else math.inf
    rounds = {kind: getattr(options, kind) for kind in KINDS}
    content = content_id(lab, INVENTORY)
    try:
        prepare(lab)
        bench = Bench(lab)
        while due := next_due(of_version(load(), content), rounds, options.systems):
            if time.monotonic() > end:
                print("out of time: run it again to go on")
                break
            name, kind, size = due
            bench.run(SYSTEMS[name], size)
            row = {"system": name, "kind": kind, "size": size, "at": round(time.time())}
            row |= {"content": content, "load": round(os.getloadavg()[0], 1)}
            row |= KINDS[kind][0](bench, SYSTEMS[name])
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    finally:
        if not options.keep:
            lab.down()


# --------------------------------------------------------------------------------------------------
# Reporting
# --------------------------------------------------------------------------------------------------


def of(rows: Sequence[dict[str, Any]], name: str, kind: str, size: int) -> list[dict[str, Any]]:
    """The measurements of one kind."""
    key = (name, kind, size)
    return [row for row in rows if (row["system"], row["kind"], row["size"]) == key]


def latencies(rows: Sequence[dict[str, Any]], name: str, size: int) -> list[float]:
    """Of single changes, in ms, sorted; what never arrived is endless."""
    found = [ms for row in of(rows, name, "single", size) for ms in row["ms"]]
    return sorted(math.inf if ms is None else ms for ms in found)


def p95(ordered: Sequence[float]) -> float:
    """The value that 95 of 100 do not exceed."""
    return ordered[math.ceil(0.95 * len(ordered)) - 1]


def milliseconds(value: float) -> str:
    """For a table."""
    return "never" if math.isinf(value) else f"{value:,.0f}"


def median_of(rows: Sequence[dict[str, Any]], name: str, kind: str, field: str) -> str:
    """Median of a field over the runs, with what was missed."""
    found = of(rows, name, kind, KINDS[kind][1][0])
    if not found:
        return "not measured"
    values = [math.inf if row[field] is None else row[field] for row in found]
    middle, missed = statistics.median(values), sum(row.get("missed", 0) for row in found)
    text = "never equal" if math.isinf(middle) else f"{middle:.1f}"
    return f"{text}, {missed} missed" if missed else text


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The aims, each with the figure that was measured."""

    def said(text: str, figure: float, limit: float) -> str:
        return (
            f"{text}: {figure:.2f} ({'met' if figure <= limit else 'NOT met'}: at most {limit:g})"
        )

    lines = []
    middles = {}
    for size in SIZES:
        ours, theirs = latencies(rows, "zcluster", size), latencies(rows, REFERENCE, size)
        if ours and theirs:
            middles[size] = statistics.median(ours)
            lines.append(
                said(
                    f"one change among {size:,} files, beside rsync over an open connection",
                    middles[size] / statistics.median(theirs),
                    2,
                )
            )
    if SIZES[0] in middles and SIZES[-1] in middles:
        lines.append(
            said(
                f"one change among {SIZES[-1]:,} files, beside one among {SIZES[0]:,}",
                middles[SIZES[-1]] / middles[SIZES[0]],
                1.2,
            )
        )
    idle = [max(row["idle"]) for row in of(rows, "zcluster", "cost", 10_000)]
    if idle:
        lines.append(said("CPU at rest, per cent, the busier node", statistics.median(idle), 0.1))
    for kind, what in (("burst", "2,000 files created"), ("delete", "10,000 files deleted")):
        medians = {
            name: statistics.median(row["seconds"] or math.inf for row in found)
            for name in SYSTEMS
            if (found := of(rows, name, kind, KINDS[kind][1][0]))
        }
        others = [value for name, value in medians.items() if name not in ("zcluster", REFERENCE)]
        if "zcluster" in medians and others:
            ratio = medians["zcluster"] / min(others)
            lines.append(said(f"{what}, beside the fastest of the others but that one", ratio, 1))
    ours_all = [row for row in rows if row["system"] == "zcluster"]
    missed = sum(row.get("missed", 0) for row in ours_all)
    missed += sum(ms is None for row in ours_all for ms in row.get("ms", ()))
    lines.append(f"{missed} changes of zcluster missed in {len(ours_all)} runs")
    return lines


def table(rows: Sequence[dict[str, Any]]) -> str:
    """docs/sync.md."""
    loads = [row["load"] for row in rows]
    lines = [
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->",
        '<!-- Written by "bench/sync.py report" from what was measured; see there. -->',
        "# How fast a change is on the other node, and what that costs",
        "",
        "Measured by `make bench-sync` in one run, on a lab of its own (two systemd containers on",
        f"one machine with {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f});"
        " the systems take turns on the same",
        "pair, over the same link, with the same trees. A change: one small file is written at a",
        "random time; ms until its content can be read on the other node. zcluster's figures hold",
        "its judging, verifying, keeping what is replaced and fsync; the others do none of this.",
        "Read the ratios: the machine is shared.",
        "",
        "![One change](sync.svg)",
        "",
        "| system | changes measured | "
        + " | ".join(f"among {size:,}: median / p95 (ratio)" for size in SIZES)
        + " |",
        "| --- | --- |" + " --- |" * len(SIZES),
    ]
    for name, system in SYSTEMS.items():
        cells = []
        for size in SIZES:
            found, theirs = latencies(rows, name, size), latencies(rows, REFERENCE, size)
            if not found:
                cells.append("not measured")
                continue
            middle = statistics.median(found)
            ratio = f" ({middle / statistics.median(theirs):.1f})" if theirs else ""
            cells.append(f"{milliseconds(middle)} / {milliseconds(p95(found))}{ratio}")
        count = sum(len(latencies(rows, name, size)) for size in SIZES)
        lines.append(f"| {system.label} | {count} | {' | '.join(cells)} |")
    lines += [
        "",
        "Bursts: seconds from the last write until both trees are equal, median. CPU in per cent",
        "of one core, in a tree of 10,000 files: at rest (first / second node), and of both",
        "together with ten changes a second. Memory: resident, both nodes together; zcluster's is",
        "that of the whole daemon on each.",
        "",
        "| system | 2,000 files created | 10,000 deleted | CPU at rest | CPU busy | MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, system in SYSTEMS.items():
        costs = of(rows, name, "cost", 10_000)
        idle = " / ".join(
            f"{statistics.median(row['idle'][node] for row in costs):.2f}" if costs else "-"
            for node in (0, 1)
        )
        lines.append(
            f"| {system.label} | {median_of(rows, name, 'burst', 'seconds')}"
            f" | {median_of(rows, name, 'delete', 'seconds')} | {idle}"
            f" | {median_of(rows, name, 'cost', 'busy')} | {median_of(rows, name, 'cost', 'mb')} |"
        )
    return "\n".join([*lines, "", *(f"- {word}" for word in verdicts(rows)), ""])


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """docs/sync.svg: each change a dot, the median a bar, a row per system and size."""
    shown = [
        (name, size, [ms for ms in latencies(rows, name, size) if not math.isinf(ms)])
        for name in SYSTEMS
        for size in SIZES
    ]
    shown = [row for row in shown if row[2]]
    left, width, step, top = 400, 560, 22, 20
    bottom = top + step * len(shown)
    least, most = 10.0, 100_000.0

    def x(ms: float) -> float:
        return round(left + width * math.log(max(ms, least) / least) / math.log(most / least), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 30}"'
        f' height="{bottom + 44}" font-family="sans-serif" font-size="12">',
        "<!-- SPDX-License-Identifier: GPL-3.0-or-later -->",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for tick in (10, 100, 1000, 10_000, 100_000):
        parts.append(f'<path d="M{x(tick)} {top}V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:,}</text>')
    parts.append(
        f'<text x="{left + width / 2}" y="{bottom + 36}" text-anchor="middle">'
        "one change, ms until it is on the other node</text>"
    )
    for index, (name, size, found) in enumerate(shown):
        y = top + step * index + step // 2
        colour = "#1b7837" if SYSTEMS[name].ours else "#762a83"
        parts.append(
            f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">'
            f"{SYSTEMS[name].label[:46]}, {size:,}</text>"
        )
        middle = x(statistics.median(found))
        parts.append(f'<path d="M{middle} {y - 8}v16" stroke="{colour}" stroke-width="3"/>')
        parts += [
            f'<circle cx="{x(ms)}" cy="{y}" r="2" fill="{colour}" fill-opacity="0.5"/>'
            for ms in found
        ]
    return "\n".join([*parts, "</svg>", ""])


def report(options: argparse.Namespace) -> None:
    """Write both files from what was measured of the newest version, the machine not too busy."""
    found = load()
    rows = of_version(found, found[-1].get("content", "") if found else "")
    rows = [row for row in rows if row["load"] <= options.largest_load]
    if not rows:
        raise SystemExit(f"{RESULTS}: nothing was measured yet")
    (DOCS / "sync.md").write_text(table(rows), encoding="utf-8")
    (DOCS / "sync.svg").write_text(plot(rows), encoding="utf-8")
    print(table(rows))


def main() -> None:
    """The two verbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measure = verbs.add_parser("run", help="measure")
    measure.add_argument("--single", type=int, default=3, help=f"runs of {PROBES} single changes")
    measure.add_argument("--burst", type=int, default=3, help="bursts of 2,000 files")
    measure.add_argument("--delete", type=int, default=2, help="deletions of 10,000 files")
    measure.add_argument("--cost", type=int, default=1, help="CPU and memory, at rest and busy")
    measure.add_argument("--seconds", type=float, default=0, help="begin nothing after so long")
    measure.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    measure.add_argument("--keep", action="store_true", help="leave the lab of the benchmark up")
    measure.set_defaults(do=run)
    write = verbs.add_parser("report", help="write docs/sync.md and .svg")
    write.add_argument("--largest-load", type=float, default=LARGEST_LOAD, help="leave out above")
    write.set_defaults(do=report)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
