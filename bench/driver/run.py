#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver costs, beside plain Ansible: two nodes, a hundred, a create with nothing to do.

    bench/driver/run.py pair INVENTORY      zcluster nodes and ansible -m ping, warm, in turns
    bench/driver/run.py create INVENTORY    a create that has nothing to do, step by step
    bench/driver/run.py hundred [LAB]       100 small sshd in a namespace, of the lab's image (root)
    bench/driver/run.py import              the Python API beside a bare Python
    bench/driver/run.py report              docs/speed.md and docs/speed.svg from what was measured

Both sides get the same SSH settings, pipelining, interpreter and number of forks, so that what
differs is what zcluster adds. Prints one JSON object, and keeps it in .cache/bench/driver. With
BENCH_BEFORE=DIRECTORY (an older collection: DIRECTORY/ansible_collections/zcluster/ha) create is
measured with both, in turns.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "roles/lab/files"), str(Path(__file__).parent)]

import report  # noqa: E402
import zcluster_lab  # noqa: E402

import zcluster_runner  # noqa: E402
from zcluster_runner import Event, EventKind  # noqa: E402

INSIDE: list[str] = []
"""What enters the network namespace of the simulated hosts."""

MORE: dict[str, str] = {}
"""Settings that hold while they are there."""

RESULTS = ROOT / ".cache/bench/driver"
ROUNDS = 5
QUIET = 0.5
HOSTS = 100
SAME = {
    "ANSIBLE_PIPELINING": "True",
    "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=600s "
    "-o ServerAliveInterval=2 -o ServerAliveCountMax=3",
    "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
    "ANSIBLE_FORKS": "50",
    "ANSIBLE_HOST_KEY_CHECKING": "True",
}


def tool(name: str) -> str:
    """A program of the environment that runs this."""
    return str(Path(sys.executable).with_name(name))


def environment() -> dict[str, str]:
    """What both sides get: nothing of whoever measures (who may keep no compiled Python)."""
    foreign = ("ANSIBLE_", "ZCLUSTER_", "PYTHON")
    mine = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    return mine | SAME | MORE


def command(words: list[str], ends: tuple[int, ...]) -> str:
    """What a command says; it must end as expected."""
    words = [*INSIDE, *words]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode not in ends:
        raise SystemExit(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def seconds(words: list[str], ends: tuple[int, ...]) -> float:
    """How long a command takes."""
    began = time.monotonic()
    command(words, ends)
    return time.monotonic() - began


def in_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each side once per round, so that what else the machine does meets both."""
    for side in sides.values():
        side()  # connections, caches
    found: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(rounds):
        for name in order:
            found[name].append(round(sides[name](), 3))
        order.reverse()  # what goes first is not always the same
    return found


def load() -> float:
    """How busy the machine is before anything is measured; said, where it is no quiet one."""
    busy = os.getloadavg()[0]
    if busy > QUIET:
        print(f"warning: load {busy:.1f}: figures of a busy machine say little", file=sys.stderr)
    return round(busy, 2)


def nodes_and_ping(
    inventory: str, limit: str, ends: tuple[int, ...]
) -> dict[str, Callable[[], float]]:
    """The two commands that are compared."""
    where = ["-i", inventory, "--limit", limit]
    return {
        "nodes": lambda: seconds([tool("zcluster"), *where, "nodes"], ends),
        "ping": lambda: seconds([tool("ansible"), *where, "all", "-m", "ping"], (0,)),
    }


def used() -> float:
    """Processor seconds of all children so far: what else the machine does adds nothing to them."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def processor(side: Callable[[], float]) -> Callable[[], float]:
    """The same, but what it costs this machine's processors."""

    def measured() -> float:
        before = used()
        side()
        return used() - before

    return measured


def parts(inventory: str) -> dict[str, float]:
    """Where the time of one run goes, in seconds: by its events, and what is around them."""
    marks: dict[str, float] = {}

    def listen(event: Event) -> None:
        if event.kind is EventKind.PLAY:
            marks["start of Ansible"] = event.elapsed
        elif event.kind is EventKind.OUTPUT and "PLAY RECAP" in event.text:
            marks["the nodes, and Ansible's work for them"] = event.elapsed

    began = time.monotonic()
    result = zcluster_runner.run("nodes", inventory=inventory, on_event=listen)
    whole = time.monotonic() - began
    ends = [0.0, *marks.values(), result.elapsed]
    names = [*marks, "end of Ansible"]
    found = {name: end - start for name, (start, end) in zip(names, pairwise(ends), strict=True)}
    return {**found, "around it, in this process": whole - result.elapsed}


def pair(inventory: str) -> dict[str, object]:
    """Two real nodes."""
    busy = load()
    sides = nodes_and_ping(inventory, "all", (0,))
    found = in_turns(sides, ROUNDS)
    costs = in_turns({name: processor(side) for name, side in sides.items()}, 3)
    medians = {name: statistics.median(values) for name, values in found.items()}
    processors = {name: statistics.median(values) for name, values in costs.items()}
    os.environ.update(SAME)
    runs = [parts(inventory) for _ in range(ROUNDS)]
    bare = [tool("zcluster"), "--version"]
    return {
        "load": busy,
        "seconds": found,
        "median": medians,
        "ratio": medians["nodes"] / medians["ping"],
        "processor": processors,
        "parts": {
            "start of the command": statistics.median(seconds(bare, (0,)) for _ in range(ROUNDS)),
            **{name: statistics.median(run[name] for run in runs) for name in runs[0]},
        },
    }


INVENTORY = """\
all:
  vars:
    ansible_user: root
    ansible_ssh_private_key_file: {place}/key
    ansible_ssh_common_args: -o UserKnownHostsFile={place}/known_hosts -o IdentitiesOnly=yes
  children:
"""

SSHD = """\
ListenAddress {address}
HostKey /run/zcb/host
AuthorizedKeysFile /run/zcb/key.pub
PidFile none
StrictModes no
UsePAM no
MaxStartups 100
"""

MACHINE = """\
set -e
mount -t tmpfs tmpfs {place}/machine
mkdir {place}/machine/upper {place}/machine/work {place}/machine/root
mount -t overlay overlay {place}/machine/root \\
  -o lowerdir={image},upperdir={place}/machine/upper,workdir={place}/machine/work
cd {place}/machine/root
mount -t tmpfs tmpfs run
mount -t proc proc proc
mount --rbind /dev dev
mkdir -p run/sshd run/zcb
sed -i 's/^root:[^:]*:/root:*:/' etc/shadow
cp {place}/host {place}/key.pub {place}/sshd* run/zcb/
chmod 600 run/zcb/host
ip link set lo up
for number in $(seq {hosts}); do
  ip address add 198.18.200.$number/32 dev lo
  chroot . /usr/sbin/sshd -f /run/zcb/sshd$number
done
echo ready
exec sleep infinity
"""
"""Debian as the lab's nodes have it, in namespaces of its own, without a network but its loopback.
All of it ends with its first process.
"""


@contextmanager
def many_hosts(lab_name: str) -> Iterator[Path]:
    """A hundred hosts, two to a cluster, small sshd on loopback addresses; their inventory.

    Nothing is installed there, nothing of the lab but its image is used, nothing stays.
    """
    image = zcluster_lab.Lab.open(lab_name).image
    addresses = [f"198.18.200.{n}" for n in range(1, HOSTS + 1)]
    with tempfile.TemporaryDirectory(prefix="zcb") as name:
        place = Path(name)
        (place / "machine").mkdir()
        for key in ("key", "host"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / key)]
            subprocess.run(words, check=True)
        host = (place / "host.pub").read_text()
        (place / "known_hosts").write_text("".join(f"{a} {host}" for a in addresses))
        inventory = INVENTORY.format(place=place)
        for number, address in enumerate(addresses, start=1):
            (place / f"sshd{number}").write_text(SSHD.format(address=address))
            if number % 2:
                cluster = f"c{number // 2 + 1}"
                inventory += f"    {cluster}:\n      vars: {{zcluster_name: {cluster}}}\n"
                inventory += f"      hosts: {{{address}: , {addresses[number]}: }}\n"
        (place / "hosts.yml").write_text(inventory)
        script = MACHINE.format(place=place, image=image, hosts=HOSTS)
        apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        machine = subprocess.Popen(
            [*apart, "sh", "-c", script],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        try:
            if not machine.stdout or machine.stdout.readline() != "ready\n":
                raise SystemExit("the hundred hosts did not start")
            # The namespace is that of unshare's child; unshare itself has left this one, too.
            INSIDE[:] = ["nsenter", f"--net=/proc/{machine.pid}/ns/net"]
            MORE["ANSIBLE_SSH_CONTROL_PATH_DIR"] = str(place / "cp")
            yield place / "hosts.yml"
        finally:
            INSIDE.clear()
            MORE.clear()
            machine.kill()
            machine.wait()


def hundred(lab_name: str = "") -> dict[str, object]:
    """A hundred hosts, beside two of them: what one more costs."""
    lab_name = lab_name or os.environ.get("ZCLUSTER_LAB_NAME", "zcluster-lab")
    with many_hosts(lab_name) as hosts:
        inventory = str(hosts)
        # Exit code 3 is also that of hosts that cannot be reached: those would be quick.
        words = [tool("zcluster"), "-i", inventory, "nodes", "-o", "json"]
        listed = json.loads(command(words, (3,)))
        states = {node["status"] for node in listed}
        if len(listed) != HOSTS or states != {"not configured"}:
            raise SystemExit(f"{len(listed)} hosts answered, as {states}")
        two = "198.18.200.1,198.18.200.2"
        few = in_turns(nodes_and_ping(inventory, two, (3,)), 3)
        many = in_turns(nodes_and_ping(inventory, "all", (3,)), 3)
    cost = {
        name: (statistics.median(many[name]) - statistics.median(few[name])) / (HOSTS - 2)
        for name in many
    }
    return {
        "seconds": {"2 hosts": few, f"{HOSTS} hosts": many},
        "per_host": cost,
        "ratio": cost["nodes"] / cost["ping"],
    }


Steps = list[tuple[float, str, str]]
"""When each step began, its role and name; last the end of the run."""


def one_create(inventory: str, collections: str) -> tuple[Steps, float]:
    """One create that has nothing to do: its steps, and its processor seconds."""
    before = used()
    steps: Steps = []

    def listen(event: Event) -> None:
        if event.kind in (EventKind.STEP, EventKind.PLAY):
            steps.append((event.elapsed, event.role, event.step or event.text))

    os.environ.pop("ANSIBLE_COLLECTIONS_PATH", None)
    if collections:
        os.environ["ANSIBLE_COLLECTIONS_PATH"] = collections
    result = zcluster_runner.run("create", inventory=inventory, on_event=listen)
    if not result.succeeded:
        raise SystemExit(f"create failed: {result.errors()}")
    if result.changed:
        raise SystemExit(f"create had something to do: {result.changes}")
    return [*steps, (result.elapsed, "", "")], used() - before


def create(inventory: str) -> dict[str, object]:
    """A create that has nothing to do: the whole, and each step of the quickest one."""
    os.environ.update(SAME)
    sides = {"now": ""}
    if before := os.environ.get("BENCH_BEFORE"):
        sides["before"] = before
    runs: dict[str, list[tuple[Steps, float]]] = {name: [] for name in sides}
    for _ in range(int(os.environ.get("BENCH_ROUNDS", "3"))):
        for name, collections in sides.items():
            runs[name].append(one_create(inventory, collections))
    found: dict[str, object] = {}
    for name, all_runs in runs.items():
        best = min((steps for steps, _ in all_runs), key=lambda steps: steps[-1][0])
        took = [
            {"role": now[1], "step": now[2], "seconds": round(after[0] - now[0], 3)}
            for now, after in pairwise(best)
        ]
        found[name] = {
            "seconds": [round(steps[-1][0], 2) for steps, _ in all_runs],
            "processor": [round(cost, 2) for _, cost in all_runs],
            "starting": round(best[0][0], 3),
            "steps": took,
        }
    return found


def importing() -> dict[str, object]:
    """The Python API: an import, beside the start of a bare Python."""
    sides = {
        "bare": lambda: seconds([sys.executable, "-c", "pass"], (0,)),
        "import": lambda: seconds([sys.executable, "-c", "import zcluster_runner"], (0,)),
    }
    found = {name: min(values) for name, values in in_turns(sides, 15).items()}
    return {"seconds": found, "ratio": found["import"] / found["bare"]}


def main() -> None:
    """Run one benchmark."""
    what, *more = sys.argv[1:] or ["help"]
    benches: dict[str, Callable[..., dict[str, object]]] = {
        "pair": pair,
        "create": create,
        "hundred": hundred,
        "import": importing,
    }
    if what == "report":
        report.write(RESULTS, ROOT / "docs")
        return
    if what not in benches:
        raise SystemExit(__doc__)
    text = json.dumps(benches[what](*more), indent=1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{what}.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
