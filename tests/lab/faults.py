# SPDX-License-Identifier: GPL-3.0-or-later
# The fault table: what strikes, what repairs, what is promised; and the invariants judged after it.
"""Every fault of two nodes, as data.

Three consumers: one test per fault, a seeded random sequence of them (``test_faults.py``), and
whoever wants to see one by hand.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from product import Cluster
from traffic import Noticed, traffic
from zcluster_lab import BALANCERS, NODES, Lab, LabError, give_real_time

HOLDER_WITHIN = 10.0
"""Seconds until exactly one node holds every virtual IP; how fast is the benchmark's business."""

TOLD_WITHIN = 20.0
"""Seconds until both nodes say how it is: a status takes its time on a busy machine."""

GREEN_WITHIN = 90.0
"""Seconds after the repair."""

SEEN_WITHIN = 75.0
"""Seconds until a node has seen its witnesses: it looks for them once a minute."""

NEW_WITHIN = 3000
"""ms on top of an outage until a new connection answers: an opening segment that was lost is
repeated after a second, and a request that the dead node had is given up after three."""

BUSY = 4.0
"""A silence may be this many detection times long: the machine of the tests is shared."""

LOOPS = 15.0
"""Seconds for which a daemon dies again on each start."""

CONNECTIONS = 200
KEEPALIVED = "keepalived.service"
CONNTRACKD = "conntrackd.service"
MANAGER = "zcluster.service"
MAINTENANCE = "/var/lib/zcluster/maintenance"


@dataclass
class Field:
    """Where a fault strikes: the roles are those the nodes have when it begins."""

    cluster: Cluster
    master: str = ""
    backup: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.master = self.cluster.master
        self.backup = next(node.name for node in BALANCERS if node.name != self.master)

    @property
    def lab(self) -> Lab:
        """The lab."""
        return self.cluster.lab

    @property
    def detection(self) -> float:
        """Seconds after which a silent master is given up: missed adverts and the skew time."""
        settings = self.settings()
        return float(settings["check_interval"]) * (float(settings.get("missed_adverts", 3)) + 0.1)

    def settings(self) -> dict[str, Any]:
        """The declared settings, from a node that is on."""
        text = self.on(self.running()[0], "cat", "/etc/zcluster/cluster.json")
        loaded: dict[str, Any] = json.loads(text)
        return loaded

    def on(self, node: str, *command: str) -> str:
        """The output of a command on a node."""
        return self.lab.exec(node, *command, timeout=30).stdout

    def sh(self, node: str, script: str) -> str:
        """The same, for the shell."""
        return self.on(node, "sh", "-c", script)

    def running(self) -> list[str]:
        """The nodes that are on."""
        states = self.lab.states()
        return [node.name for node in BALANCERS if states.get(node.name) == "running"]

    def holders(self) -> dict[str, list[str]]:
        """Virtual and lead addresses, and the running nodes that have each."""
        present = {node: self.on(node, "ip", "-o", "address") for node in self.running()}
        if not present:
            return {}
        settings = self.settings()
        wanted = [vip["address"] for vip in settings["vips"]]
        wanted += [network["lead"] for network in settings["networks"]]
        return {a: [n for n in present if f" {a}/" in present[n]] for a in wanted}


# --------------------------------------------------------------------------------------------------
# Strikes
# --------------------------------------------------------------------------------------------------


def nothing(at: Field) -> None:
    """What heals by itself needs no repair."""


def power_off(role: str) -> Callable[[Field], None]:
    """All links of the node at once, then the machine."""
    return lambda at: _ignore(at.lab.power_off(getattr(at, role)))


def power_on(role: str) -> Callable[[Field], None]:
    """Its disk is as it was; its connection table is empty."""
    return lambda at: at.lab.power_on(getattr(at, role))


def _ignore(_: object) -> None:
    return None


def cut(role: str, network: str) -> Callable[[Field], None]:
    """A cable is pulled: the carrier is gone."""
    return lambda at: _ignore(at.lab.cut(getattr(at, role), network))


def silence(role: str, network: str, direction: str = "both") -> Callable[[Field], None]:
    """The carrier stays and nothing passes."""

    def strike(at: Field) -> None:
        if network != "link":
            # Only a witness that was seen once can be missed.
            eventually("witnesses seen", lambda: unseen(at, network), SEEN_WITHIN)
        at.lab.silence(getattr(at, role), network, direction)

    return strike


def unseen(at: Field, network: str) -> str:
    """The nodes that have not seen a witness on a network yet."""
    interface = BALANCERS[0].interface(network)
    blind = {}
    for node in at.running():
        path = at.cluster.status(node).get("path")
        seen = path["witnesses"].get(interface, {}) if isinstance(path, dict) else {}
        if "answers" not in seen.values():
            blind[node] = path
    return str(blind or "")


def heal(role: str, network: str) -> Callable[[Field], None]:
    """The cable is back."""
    return lambda at: at.lab.heal(getattr(at, role), network)


def _pids(unit: str) -> str:
    """Shell for the pids of all processes of a unit, from its cgroup."""
    return f"$(systemd-cgls --no-pager --unit {unit} | sed -n 's/^[^0-9]*\\([0-9]\\+\\) .*/\\1/p')"


def kill(role: str, *what: str) -> Callable[[Field], None]:
    """kill -9: `child` and `parent` are keepalived's, other words are units; all in one go."""
    parent = f"$(systemctl show --property MainPID --value {KEEPALIVED})"
    scripts = {"parent": parent, "child": f"$(pgrep -P {parent})"}
    words = " ".join(scripts.get(word) or _pids(word) for word in what)
    return lambda at: _ignore(at.sh(getattr(at, role), f"kill -9 {words}"))


def crash_loop(role: str, unit: str) -> Callable[[Field], None]:
    """The daemon dies, and dies again at once on each start, as one whose program is broken."""

    def strike(at: Field) -> None:
        node, path = getattr(at, role), broken(unit)
        text = r"[Service]\nExecStart=\nExecStart=/bin/false\n"
        at.sh(node, f"mkdir -p {path.parent}; printf '{text}' >{path}; systemctl daemon-reload")
        before, begin = restarts(at, node, unit), time.monotonic()
        kill(role, unit)(at)
        time.sleep(LOOPS)
        starts, took = restarts(at, node, unit) - before, time.monotonic() - begin
        # Neither given up nor a storm.
        assert 3 <= starts <= took, f"{unit} was started {starts} times in {took:.1f} s"

    return strike


def mend(role: str, unit: str) -> Callable[[Field], None]:
    """Its program is whole again; nobody starts it by hand."""
    script = f"rm -f {broken(unit)}; systemctl daemon-reload"
    return lambda at: _ignore(at.sh(getattr(at, role), script))


def broken(unit: str) -> Path:
    """The drop-in by which every start of a unit fails."""
    return Path(f"/run/systemd/system/{unit}.d/zzz-broken.conf")


def restarts(at: Field, node: str, unit: str) -> int:
    """How often systemd has started a unit by itself (systemd.service(5), Restart=)."""
    return int(at.on(node, "systemctl", "show", "--property=NRestarts", "--value", unit))


MEMORY = Path("/sys/fs/cgroup/memory")
NO_MEMORY_GROUPS = (
    "" if (MEMORY / "memory.oom_control").exists() else "this machine has no memory groups (v1)"
)


def starve(role: str) -> Callable[[Field], None]:
    """keepalived runs out of memory: the kernel ends what of it needs one page more.

    The machine puts it into a group without any: the node's systemd may limit no memory here.
    """

    def strike(at: Field) -> None:
        node = getattr(at, role)
        pids = own_pids(at, node, KEEPALIVED)
        assert pids, f"{KEEPALIVED} does not run on {node}"
        lines = Path(f"/proc/{pids[0]}/cgroup").read_text(encoding="utf-8").splitlines()
        [path] = [line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory"]
        group = at.notes["starved"] = MEMORY / path.lstrip("/") / "starved"
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("0", encoding="ascii")
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid), encoding="ascii")

        def lives() -> str:
            # To be asked for its state costs it some.
            at.cluster.status(node)
            said = (group / "memory.oom_control").read_text(encoding="ascii")
            dead = [pid for pid in pids if not Path(f"/proc/{pid}").exists()]
            return "" if dead and "oom_kill 0" not in said else f"{pids} live: {said}"

        eventually("out of memory", lives, TOLD_WITHIN)

    return strike


def own_pids(at: Field, node: str, unit: str) -> list[int]:
    """The processes of a unit on a node, as this machine numbers them."""
    space = Path(f"/proc/{at.lab.pid(node)}/ns/pid").readlink()
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            groups = (proc / "cgroup").read_text(encoding="utf-8")
            if f"/{unit}\n" in groups and (proc / "ns/pid").readlink() == space:
                found.append(int(proc.name))
    return sorted(found)


def feed(at: Field) -> None:
    """There is memory again: what is left in the group leaves it."""
    group = at.notes.get("starved")
    if group is None or not group.exists():
        return

    def remains() -> str:
        try:
            for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
                (group.parent / "cgroup.procs").write_text(pid, encoding="ascii")
            group.rmdir()
        except OSError as error:
            return str(error)
        return ""

    eventually("group without memory gone", remains, HOLDER_WITHIN)


def stop_signal(role: str, unit: str) -> Callable[[Field], None]:
    """Alive but stopped: no stop hook of systemd runs."""
    return lambda at: _ignore(at.sh(getattr(at, role), f"kill -STOP {_pids(unit)}"))


def stall(at: Field) -> None:
    """The master is frozen for one second as a virtual machine is, its links with it."""
    at.lab.pause(at.master)
    time.sleep(1)
    at.lab.resume(at.master)


def freeze_processes(at: Field) -> None:
    """All processes of the master are stopped for one second; its kernel goes on forwarding."""
    at.sh(at.master, "kill -STOP -1")
    time.sleep(1)
    at.sh(at.master, "kill -CONT -1")


def reboot(role: str) -> Callable[[Field], None]:
    """A planned reboot: systemd ends the services."""
    return lambda at: at.lab.reboot(getattr(at, role))


def cold_start(first: str, ahead: float) -> Callable[[Field], None]:
    """Both lose power; one of them comes back so many seconds before the other."""

    def strike(at: Field) -> None:
        order = (at.master, at.backup) if first == "master" else (at.backup, at.master)
        for node in order:
            at.lab.power_off(node)
        at.lab.power_on(order[0], wait=False)
        time.sleep(ahead)
        at.lab.power_on(order[1], wait=False)
        for node in order:
            at.lab.wait_booted(node)

    return strike


def double_failover(at: Field) -> None:
    """A loses power, returns with an empty table; then B, which took over, loses power."""
    at.lab.power_off(at.master)
    time.sleep(3)
    at.lab.power_on(at.master)
    at.cluster.wait_settled(GREEN_WITHIN)
    at.cluster.wait_ready(at.master)
    at.lab.power_off(at.backup)


def power_loss_while_dead(role: str, unit: str) -> Callable[[Field], None]:
    """A daemon of the node is dead at the moment in which the master loses power."""

    def strike(at: Field) -> None:
        # The backup commits every second, on a busy machine every few: what it has, it keeps.
        eventually("connections committed", lambda: uncommitted(at), GREEN_WITHIN)
        kill(role, unit)(at)
        at.lab.power_off(at.master)

    return strike


LONG_LIVED = re.compile(r"ESTABLISHED src=\S+ dst=\S+ sport=(\d+) dport=7000 ")


def uncommitted(at: Field) -> str:
    """The long-lived connections that the backup's kernel lacks (short ones have low ports)."""
    found = {
        node: {
            int(port)
            for port in LONG_LIVED.findall(at.on(node, "conntrack", "-L", "-p", "tcp"))
            if int(port) >= 32768
        }
        for node in (at.master, at.backup)
    }
    return ", ".join(map(str, sorted(found[at.master] - found[at.backup])))


def power_loss_without_manager(at: Field) -> None:
    """The manager of the backup is stopped, and the master loses power."""
    eventually("connections committed", lambda: uncommitted(at), GREEN_WITHIN)
    at.on(at.backup, "systemctl", "stop", MANAGER)
    at.lab.power_off(at.master)


def manager_and_power_on(at: Field) -> None:
    """Both are back."""
    at.on(at.backup, "systemctl", "start", MANAGER)
    at.lab.power_on(at.master)


LOSSY = """table ip lossy {{
  chain input {{
    type filter hook input priority -400;
    ip protocol 112 {chance} drop
  }}
}}"""


def lose_adverts(percent: int) -> Callable[[Field], None]:
    """Heartbeats are lost at random, on both nodes (the kernel has no netem)."""

    def strike(at: Field) -> None:
        for node in (at.master, at.backup):
            table = LOSSY.format(chance=f"numgen random mod 100 < {percent}")
            at.lab.exec(node, "nft", "-f", "-", stdin=table)
        time.sleep(15)

    return strike


def deafen(*roles: str) -> Callable[[Field], None]:
    """The node hears no heartbeat at all, on any network, while everything else passes."""

    def strike(at: Field) -> None:
        for role in roles:
            at.lab.exec(getattr(at, role), "nft", "-f", "-", stdin=LOSSY.format(chance=""))
        time.sleep(2)

    return strike


def hear_adverts(at: Field) -> None:
    """No heartbeat is lost any more."""
    for node in (at.master, at.backup):
        at.lab.exec(node, "nft", "delete", "table", "ip", "lossy", check=False)


def toggle(at: Field) -> None:
    """Twenty times, every 200 ms, the node that may not serve is the other one."""
    pair = (at.master, at.backup)
    for turn in range(20):
        begin = time.monotonic()
        down, up = pair[turn % 2], pair[1 - turn % 2]
        at.sh(up, f"echo 0 > {MAINTENANCE}")
        at.sh(down, f"echo 1 > {MAINTENANCE}")
        time.sleep(max(0.0, 0.2 - (time.monotonic() - begin)))
    allow_all(at)


def allow_all(at: Field) -> None:
    """Both nodes may serve."""
    for node in (at.master, at.backup):
        at.sh(node, f"echo 0 > {MAINTENANCE}")


FILL = """
import pathlib, sys
own, size = sys.argv[1], int(pathlib.Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
for number in range(size + 1):
    source = f"198.19.250.{number % 250 + 1}"
    print(f"-A -p tcp -s {source} -d {own} --sport {number // 250 + 1} --dport 9"
          " --state ESTABLISHED -u SEEN_REPLY,ASSURED -t 600")
"""


def fill_table(at: Field) -> None:
    """The backup's table is filled to its limit with connections of its own, none of which yields.

    (The limit itself is the machine's: the kernel has none for each network namespace.)
    """
    own = at.lab.settings.address("back", NODES[at.backup].networks["back"])
    at.sh(at.backup, f"python3 -c '{FILL}' {own} > /tmp/fill; conntrack -R /tmp/fill; rm /tmp/fill")


def empty_table(at: Field) -> None:
    """What filled the table is gone."""
    own = at.lab.settings.address("back", NODES[at.backup].networks["back"])
    at.lab.exec(at.backup, "conntrack", "-D", "-p", "tcp", "-d", own, "--dport", "9", check=False)


FOREIGN = ("foreign_vrrp", "foreign_conntrackd", "foreign_reports")
SPOOF = """
import socket, struct, sys, time
# RFC 5798 5.1: version 3, type 1; the checksum covers the pseudo header.
def checksum(data):
    data += b"\\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
own, vrid, lead = sys.argv[1], int(sys.argv[2]), socket.inet_aton(sys.argv[3])
with socket.socket(socket.AF_INET, socket.SOCK_RAW, 112) as link:
    link.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
    link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    for _ in range(50):
        for target in (*sys.argv[4:], "224.0.0.18"):
            for priority in (0, 255):
                body = struct.pack("!BBBBH", 0x31, vrid, priority, 1, 10)
                pseudo = socket.inet_aton(own) + socket.inet_aton(target)
                pseudo += struct.pack("!BBH", 0, 112, 12)
                check = checksum(pseudo + body + b"\\0\\0" + lead)
                link.sendto(body + struct.pack("!H", check) + lead, (target, 0))
        time.sleep(0.02)
"""


def dropped(at: Field, node: str) -> int:
    """Packets that the cluster's own table dropped on a node, by its counters."""
    items = json.loads(at.on(node, "nft", "-j", "list", "table", "inet", "zcluster"))["nftables"]
    named = [i["counter"] for i in items if str(i.get("counter", {}).get("name")) in FOREIGN]
    rules = [i["rule"] for i in items if i.get("rule", {}).get("chain") == "input"]
    found = [e["counter"] for rule in rules for e in rule["expr"] if "counter" in e]
    return sum(c["packets"] for c in [*named, *found] if isinstance(c, dict))


def spoof(at: Field) -> None:
    """The client says that the master is gone (priority 0), and that itself is it (255)."""
    settings = at.settings()
    front = next(n for n in settings["networks"] if n["interface"] == "eth0")
    before = {node: dropped(at, node) for node in (at.master, at.backup)}
    own = at.lab.settings.address("front", NODES["client"].networks["front"])
    words = [own, str(front["vrid"]), front["lead"], *front["addresses"].values()]
    at.on("client", "python3", "-c", SPOOF, *words)
    for node, count in before.items():
        assert dropped(at, node) >= count + 100, f"{node} does not count what it drops"


FAST = 0.02
"""Seconds between adverts in profile `fast`."""


def advertise_every(at: Field, seconds: float) -> None:
    """Another pace of the heartbeat on both nodes, as the profile would set it."""
    change = f"s/advert_int .*/advert_int {seconds}/"
    for node in (at.master, at.backup):
        at.on(node, "sed", "-i", change, "/etc/keepalived/keepalived.conf")
        at.on(node, "systemctl", "reload", KEEPALIVED)
    time.sleep(3)


def busy(at: Field) -> None:
    """All cores are busy for a minute while the heartbeat has the pace of profile `fast`."""
    at.notes["every"] = at.settings()["check_interval"]
    advertise_every(at, FAST)
    prioritize(at, "--rr", "50")
    at.notes["before"] = took_over(at)
    for node in (at.master, at.backup):
        at.sh(
            node,
            "for i in $(seq $(nproc)); do"
            " setsid timeout 60 sh -c 'while :; do :; done' >/dev/null 2>&1 & done",
        )
    time.sleep(60)
    assert took_over(at) == at.notes["before"], "a busy machine is no reason for a takeover"


def took_over(at: Field) -> int:
    """How often the backup has become master since it booted."""
    log = at.on(at.backup, "journalctl", "--boot", "--output=cat", f"--unit={KEEPALIVED}")
    return log.count("Entering MASTER STATE")


def prioritize(at: Field, policy: str, priority: str) -> None:
    """The real-time priority that keepalived asks for and gets where its node has a budget for it.

    Where the lab gives none (a reload would kill keepalived, see Lab.real_time), for a while.
    """
    if at.lab.real_time:
        return
    for node in (at.master, at.backup):
        if policy == "--rr":
            give_real_time(at.lab.pid(node))
        child = f"$(pgrep -P $(systemctl show --property MainPID --value {KEEPALIVED}))"
        at.sh(node, f"chrt {policy} -p {priority} {child}")
        if policy != "--rr":
            give_real_time(at.lab.pid(node), 0)


def usual_pace(at: Field) -> None:
    """The heartbeat as it was declared."""
    prioritize(at, "--other", "0")
    advertise_every(at, at.notes["every"])


# --------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """One row. Roles are those before the fault.

    `serves`: who holds the virtual IPs while it lasts: master, backup, one (either of them), or
    split (both, for as long as the two cannot hear each other).
    `silence`: how many detection times a client may be without an answer; 0: no takeover, so less
    than one; None: nothing is promised.
    `shows`: role -> the status a node must show while the fault lasts, and words of its message.
    `needs`: why this cannot hold yet; empty where it must.
    """

    name: str
    strike: Callable[[Field], None]
    repair: Callable[[Field], None] = nothing
    serves: str = "master"
    keeps: bool = True
    silence: int | None = 0
    shows: tuple[tuple[str, str, str], ...] = ()
    minutes: float = 0.5
    needs: str = ""


BACKUP_GONE = (("master", "ok", "{backup} is unreachable"),)
MASTER_GONE = (("backup", "ok", "{master} is unreachable"),)
LINK_DEAD = (
    ("master", "failure", "{backup} lives, but does not answer on the cluster link"),
    ("backup", "failure", "{master} lives, but does not answer on the cluster link"),
)
LINK_SILENT = (("master", "failure", ""), ("backup", "ok", "online"))
HEARTBEAT_FAULT = (("master", "failure", "heartbeat in fault"), ("backup", "ok", "online"))
UNHEARD = (("master", "failure", ""), ("backup", "failure", ""))

TABLE: tuple[Fault, ...] = (
    Fault("power-loss-of-master", power_off("master"), power_on("master"), "backup", silence=1,
          shows=MASTER_GONE),
    *(
        Fault(f"power-loss-while-{name}-of-{role}-is-dead", power_loss_while_dead(role, unit),
              power_on("master"), "backup", silence=1, shows=MASTER_GONE)
        for name, unit, role in (
            ("conntrackd", CONNTRACKD, "backup"),
            ("conntrackd", CONNTRACKD, "master"),
            ("zclustermanager", MANAGER, "backup"),
        )
    ),
    Fault("power-loss-while-backup-has-no-manager", power_loss_without_manager,
          manager_and_power_on, "backup", silence=1,
          shows=(("backup", "failure", "zclustermanager"),)),
    Fault("power-loss-of-backup", power_off("backup"), power_on("backup"), shows=BACKUP_GONE),
    Fault("front-cable-of-master", cut("master", "front"), heal("master", "front"), "backup",
          silence=1, shows=HEARTBEAT_FAULT),
    Fault("back-cable-of-master", cut("master", "back"), heal("master", "back"), "backup",
          silence=1, shows=HEARTBEAT_FAULT),
    Fault("front-cable-of-backup", cut("backup", "front"), heal("backup", "front"),
          shows=(("backup", "failure", "heartbeat in fault"),)),
    Fault("front-link-of-master-silent", silence("master", "front"), heal("master", "front"),
          "backup", silence=4, shows=LINK_SILENT),
    Fault("back-link-of-master-silent", silence("master", "back"), heal("master", "back"),
          "backup", silence=4, shows=LINK_SILENT),
    Fault("cluster-link-cable", cut("master", "link"), heal("master", "link"),
          shows=LINK_DEAD),
    Fault("cluster-link-silent", silence("master", "link"), heal("master", "link"),
          shows=LINK_DEAD),
    Fault("cluster-link-deaf-backup", silence("master", "link", "out"), heal("master", "link"),
          shows=LINK_DEAD),
    Fault("cluster-link-deaf-master", silence("master", "link", "in"), heal("master", "link"),
          shows=LINK_DEAD),
    *(
        Fault(f"kill-{'-'.join(name)}-of-{role}", kill(role, *what), serves=serves,
              silence=1 if serves == "one" else 0)
        for role in ("master", "backup")
        for name, what, serves in (
            (("keepalived", "child"), ("child",), "one" if role == "master" else "master"),
            (("keepalived", "parent"), ("parent",), "one" if role == "master" else "master"),
            (("keepalived",), ("child", "parent"), "one" if role == "master" else "master"),
            (("conntrackd",), (CONNTRACKD,), "master"),
            (("zclustermanager",), (MANAGER,), "master"),
            (("everything",), ("child", "parent", CONNTRACKD, MANAGER),
             "one" if role == "master" else "master"),
        )
    ),
    *(
        Fault(f"crash-loop-of-{name}-on-{role}", crash_loop(role, unit), mend(role, unit),
              serves=serves, silence=1 if serves == "backup" else 0,
              shows=((role, "failure", words),), minutes=2)
        for name, unit, role, serves, words in (
            ("keepalived", KEEPALIVED, "master", "backup", f"{KEEPALIVED} was restarted"),
            ("keepalived", KEEPALIVED, "backup", "master", f"{KEEPALIVED} was restarted"),
            ("conntrackd", CONNTRACKD, "master", "master", f"{CONNTRACKD} was restarted"),
            ("conntrackd", CONNTRACKD, "backup", "master", f"{CONNTRACKD} was restarted"),
            # Nobody is there who counts.
            ("zclustermanager", MANAGER, "master", "master", "zclustermanager"),
        )
    ),
    *(
        Fault(f"keepalived-of-{role}-out-of-memory", starve(role), feed, serves, minutes=1,
              silence=1 if serves == "one" else 0, needs=NO_MEMORY_GROUPS)
        for role, serves in (("master", "one"), ("backup", "master"))
    ),
    Fault("master-stalls-1s", stall, serves="one", silence=5),
    Fault("processes-of-master-stopped-1s", freeze_processes, serves="one", silence=1),
    Fault("keepalived-of-master-stopped", stop_signal("master", KEEPALIVED), serves="backup",
          silence=1),
    Fault("reboot-of-backup", reboot("backup")),
    Fault("reboot-of-master", reboot("master"), serves="backup", silence=1),
    Fault("both-cold-started", cold_start("master", 0), serves="one", keeps=False, silence=None),
    Fault("both-cold-started-backup-first", cold_start("backup", 5), serves="one", keeps=False,
          silence=None),
    Fault("double-failover", double_failover, power_on("backup"), "master", silence=1,
          shows=BACKUP_GONE),
    Fault("adverts-lost-30-percent", lose_adverts(30), hear_adverts),
    Fault("backup-deaf", deafen("backup"), hear_adverts, "split", silence=1, shows=UNHEARD),
    Fault("master-deaf", deafen("master"), hear_adverts),
    Fault("both-deaf", deafen("master", "backup"), hear_adverts, "split", silence=1,
          shows=UNHEARD),
    Fault("twenty-toggles", toggle, allow_all, "one", silence=1),
    Fault("table-full-on-backup", fill_table, empty_table,
          shows=(("backup", "failure", "no room for connections"),)),
    Fault("spoofed-adverts", spoof),
    Fault("all-cores-busy-in-fast", busy, usual_pace, minutes=1.5),
)  # fmt: skip

BY_NAME = {fault.name: fault for fault in TABLE}


# --------------------------------------------------------------------------------------------------
# Invariants
# --------------------------------------------------------------------------------------------------


def eventually(what: str, found: Callable[[], str], timeout: float) -> None:
    """Poll until nothing is wrong any more; else what was wrong last."""
    end = time.monotonic() + timeout
    while wrong := found():
        assert time.monotonic() < end, f"{what}: not within {timeout:g} s: {wrong}"
        time.sleep(0.1)


def wrong_holders(at: Field, serves: str) -> str:
    """Empty when every virtual IP is held by exactly the node that must hold it."""
    allowed = {
        "master": [[at.master]],
        "backup": [[at.backup]],
        "one": [[at.master], [at.backup]],
        "split": [sorted((at.master, at.backup))],
    }[serves]
    try:
        held = at.holders()
    except (LabError, json.JSONDecodeError) as error:
        return str(error)
    wrong = {address: who for address, who in held.items() if sorted(who) not in allowed}
    if len({tuple(who) for who in held.values()}) > 1:
        wrong = held
    return f"{wrong}, allowed: {allowed}" if wrong or not held else ""


def wrong_words(at: Field, shows: tuple[tuple[str, str, str], ...]) -> str:
    """Empty when each running node says of itself and of its peer what is so."""
    running = at.running()
    try:
        held = at.holders()
    except (LabError, json.JSONDecodeError) as error:
        return str(error)
    told = {node: at.cluster.status(node) for node in running}
    for node, words in told.items():
        serving = all(node in who for who in held.values())
        if (words.get("role") == "master") != serving:
            return f"{node} holds {held} and says {words}"
        peer = dict(words.get("peer") or {})  # type: ignore[call-overload]
        if len(running) == 1 and peer.get("reachable") is not False:
            return f"{node} says of its dead peer: {peer}"
    for role, status, message in shows:
        words = told.get(getattr(at, role), {})
        wanted = message.format(master=at.master, backup=at.backup)
        if words.get("status") != status or wanted not in str(words.get("message")):
            return f"{getattr(at, role)} must be {status} ({wanted!r}), says {words}"
    return ""


def longest_outage(noticed: Noticed) -> float:
    """The longest gap in ms, less what the client itself slept in it: that is nobody's outage."""

    def left(gap: dict[str, float]) -> float:
        slept = sum(
            max(0.0, min(gap["end"], pause["end"]) - max(gap["start"], pause["start"]))
            for pause in noticed.pauses
        )
        return gap["ms"] - 1000 * slept

    return max((left(gap) for gap in noticed.gaps), default=0.0)


def wrong_traffic(at: Field, fault: Fault, noticed: Noticed, detection: float) -> list[str]:
    """Everything the clients were promised and did not get."""
    wrong = []
    if noticed.tcp_opened != CONNECTIONS:
        wrong.append(f"only {noticed.tcp_opened} of {CONNECTIONS} connections could be opened")
    if fault.keeps and (noticed.tcp_alive != noticed.tcp_opened or noticed.tcp_reset):
        wrong.append(
            f"{noticed.tcp_alive} of {noticed.tcp_opened} connections alive,"
            f" {noticed.tcp_reset} reset: {noticed.tcp_broken}"
        )
    if fault.silence is not None:
        allowed = 1000 * detection * max(1.0, fault.silence * BUSY)
        longest = longest_outage(noticed)
        if longest > allowed:
            wrong.append(f"{longest:.0f} ms without an answer, allowed: {allowed:.0f}")
        for who in ("http", "short", "cold"):
            gap = noticed.report[f"{who}_longest_gap_ms"]
            if gap > allowed + NEW_WITHIN:
                wrong.append(f"{who}: no new one for {gap:.0f} ms")
    return wrong


@contextmanager
def clients(lab: Lab) -> Iterator[Noticed]:
    """All of the issue's traffic."""
    settings = lab.settings
    bits = settings.prefix("front").rpartition("/")[2]
    with traffic(
        lab,
        *("--interval-ms", "1", "--short-rate", "50", "--reuse-ports"),
        *("--http", f"{settings.address('front', 101)}:8080"),
        *("--cold", f"{settings.address('front', 51)}/{bits}"),
        connections=CONNECTIONS,
    ) as noticed:
        yield noticed


RESETS = "tcp[tcpflags] & tcp-rst != 0 and src port 7000 and not dst portrange 20000-20099"


@contextmanager
def resets(lab: Lab) -> Iterator[list[str]]:
    """Resets that reach a client which reuses no port: hardware address and TTL say who sent it.

    A TTL of 64 is a node's own, 63 a backend's.
    """
    link = NODES["client"].interface("front")
    process = lab.start_process("client", "tcpdump", "-l", "-n", "-e", "-v", "-i", link, RESETS)
    found: list[str] = []
    try:
        yield found
    finally:
        found += lab.stop_process(process).splitlines()


def of_broken(at: Field, noticed: Noticed) -> list[str]:
    """What both nodes know of the connections that broke."""
    ports = [broken["port"] for broken in noticed.report.get("tcp_broken", [])]
    found = []
    for node in at.running() if ports else ():
        for words in (
            ("conntrack", "-L", "-p", "tcp"),
            ("conntrackd", "-C", "/etc/zcluster/conntrackd.conf", "-i"),
            ("conntrackd", "-C", "/etc/zcluster/conntrackd.conf", "-e"),
        ):
            with contextlib.suppress(LabError):
                lines = at.on(node, *words).splitlines()
                wanted = [line for line in lines if any(f"sport={p} " in line for p in ports)]
                found += [f"{node} {words[0]} {words[-1]}: {line}" for line in wanted]
    return found


def undergo(cluster: Cluster, fault: Fault) -> Noticed:
    """Let a fault strike under live traffic, judge it, repair it, judge again."""
    at = Field(cluster)
    detection = at.detection
    with resets(cluster.lab) as seen, clients(cluster.lab) as noticed:
        try:
            fault.strike(at)
            eventually("one holder", lambda: wrong_holders(at, fault.serves), HOLDER_WITHIN)
            eventually("truth", lambda: wrong_words(at, fault.shows), TOLD_WITHIN)
        finally:
            fault.repair(at)
        last = "one" if fault.serves == "split" else fault.serves
        eventually("one holder after the repair", lambda: wrong_holders(at, last), HOLDER_WITHIN)
        cluster.wait_settled(GREEN_WITHIN)
        eventually("one holder at the end", lambda: wrong_holders(at, last), HOLDER_WITHIN)
    wrong = wrong_traffic(at, fault, noticed, detection)
    known = of_broken(at, noticed) if wrong else []
    assert not wrong, "\n".join(
        (f"{fault.name}: {'; '.join(wrong)}", str(noticed.report), *seen, *known)
    )
    return noticed
