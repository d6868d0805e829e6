# SPDX-License-Identifier: GPL-3.0-or-later
# What the lab promises to everything that stands on it.
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from product import eventually
from zcluster_lab import (
    BALANCERS,
    BARE,
    NETWORKS,
    NODES,
    RELEASES,
    ROUTE_PROTOCOL,
    Lab,
    LabError,
    mounted,
    podman,
    read_knob,
    run,
    write_knob,
)

pytestmark = pytest.mark.lab

Play = Callable[..., Any]
"""The fixture play: runs a playbook (see conftest.Run)."""


# -- bare nodes ----------------------------------------------------------------


@pytest.mark.parametrize("node", [node.name for node in BALANCERS])
def test_nodes_start_bare(bare: Lab, node: str) -> None:
    installed = bare.exec(node, "dpkg-query", "-W", "-f", "${Package}\n").stdout.split()
    assert not {"keepalived", "conntrackd", "conntrack", "rsync"} & set(installed)
    assert {"haproxy", "nftables", "openssh-server", "python3"} <= set(installed)
    assert bare.exec(node, "getent", "passwd", "zcluster", check=False).returncode == 2
    assert bare.exec(node, "ls", "-A", "/var/lib/zcluster").stdout == ""
    assert bare.exec(node, "test", "-e", "/etc/zcluster", check=False).returncode == 1
    assert bare.exec(node, "test", "-e", "/root/.ssh/authorized_keys", check=False).returncode == 1


@pytest.mark.parametrize("node", list(NODES))
def test_every_node_boots_without_a_failed_unit(bare: Lab, node: str) -> None:
    assert bare.exec(node, "systemctl", "--failed", "--no-legend").stdout == ""
    assert bare.exec(node, "systemctl", "is-system-running").stdout.strip() == "running"


def test_planned_reboot_leaves_a_node_whose_disks_can_be_written(bare: Lab) -> None:
    bare.reboot("n1")
    for path in ("/root/x", "/etc/haproxy/x", "/var/lib/zcluster/x"):
        bare.exec("n1", "touch", path)


def test_nodes_run_the_debian_that_was_asked_for(lab: Lab) -> None:
    for node in NODES:
        text = lab.exec(node, "cat", "/etc/os-release").stdout
        assert f"VERSION_CODENAME={RELEASES[lab.settings.release]}" in text


def test_packages_install_without_a_network(bare: Lab) -> None:
    bare.exec("n1", "apt-get", "update")
    packages = ("keepalived", "conntrackd", "conntrack", "rsync", "nginx")
    bare.exec("n1", "apt-get", "install", "--yes", "--no-install-recommends", *packages)
    assert bare.exec("n1", "rsync", "--version").stdout.startswith("rsync")


def test_root_comes_in_by_password_and_host_keys_are_pinned(bare: Lab, inventory: Path) -> None:
    password = ("-e", f"ansible_password={bare.settings.root_password}")
    assert ping(inventory, *password)[0] == 0
    code, words, _ = ping(inventory)
    assert code == 4
    assert "Permission denied" in words
    bare.exec("n2", "sh", "-c", "rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh")
    code, words, _ = ping(inventory)
    assert code == 4
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in words


def test_root_by_password_is_refused_as_debian_ships_it(other_lab: Lab) -> None:
    words = other_lab.exec("n1", "/usr/sbin/sshd", "-T").stdout
    assert "permitrootlogin without-password" in words


def test_no_secret_is_in_the_inventory(lab: Lab, inventory: Path) -> None:
    text = (inventory / "hosts.yml").read_text(encoding="utf-8").replace(lab.settings.name, "")
    assert lab.settings.root_password not in text
    assert "password" not in text.replace("the root password of the lab", "")


# -- isolation -----------------------------------------------------------------


def ping(inventory: Path, *arguments: str) -> tuple[int, str, float]:
    """Ansible's ping through the inventory the lab wrote: exit code, words, seconds."""
    begin = time.monotonic()
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible")),
            "-i",
            str(inventory),
            "all",
            "-m",
            "ping",
            *arguments,
        ],
        env={**os.environ, "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, time.monotonic() - begin


@contextlib.contextmanager
def watch(lab: Lab) -> Iterator[list[int]]:
    """Counts every packet to the lab's ranges that leaves by a link that is not the lab's own."""
    bridges = ", ".join(f'"{name}"' for name in ["lo", *lab_bridges(lab)])
    table, rules = "zcluster-lab-watch", []
    for prefix in lab.settings.prefixes():
        family = "ip6" if ":" in prefix else "ip"
        for chain in ("output", "forward"):
            match = f"oifname != {{ {bridges} }} {family} daddr {prefix} counter"
            rules.append(f"add rule inet {table} {chain} {match}")
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 400; }}\n"
        for hook in ("output", "forward")
    )
    run(["nft", "-f", "-"], stdin=f"table inet {table} {{\n{chains}}}\n" + "\n".join(rules) + "\n")
    seen: list[int] = []
    try:
        yield seen
    finally:
        found = json.loads(run(["nft", "-j", "list", "table", "inet", table]).stdout)["nftables"]
        seen += [
            int(part["counter"]["packets"])
            for entry in found
            for part in entry.get("rule", {}).get("expr", [])
            if "counter" in part
        ]
        run(["nft", "delete", "table", "inet", table])


def lab_bridges(lab: Lab) -> list[str]:
    with contextlib.suppress(LabError):
        return [lab.bridge(network) for network in NETWORKS]
    return []


def addresses(lab: Lab) -> list[str]:
    return [
        lab.settings.address(network, number, version)
        for node in NODES.values()
        for network, number in node.networks.items()
        for version in (4, 6)
    ]


def write_inventory(play: Play, lab: Lab, directory: Path) -> None:
    """The inventory of a lab that is up, as lab_up writes it."""
    names = ("front", "back", "link", "front6", "back6", "link6", "release", "root_login")
    pairs = [f"lab_{name}={getattr(lab.settings, name)}" for name in names]
    pairs += [f"lab_name={lab.settings.name}", f"lab_inventory_dir={directory}"]
    done = play("zcluster.ha.lab_up", *[p for pair in pairs for p in ("-e", pair)])
    assert done.returncode == 0, done.output
    assert "changed=0" not in done.output, "the inventory was written"


def test_nothing_aimed_at_a_lab_address_leaves_the_machine(lab: Lab) -> None:
    with watch(lab) as seen:
        for address in addresses(lab):
            found = run(["ip", "route", "get", address], check=False)
            assert found.returncode != 0, f"{address}: {found.stdout}"
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with (
                socket.socket(family, socket.SOCK_DGRAM) as sock,
                pytest.raises(OSError, match=r"No route|unreachable"),
            ):
                sock.sendto(b"x", (address, 7000))
    assert sum(seen) == 0


def test_the_machine_has_no_address_on_the_labs_networks(lab: Lab) -> None:
    links = [*lab_bridges(lab), *(v for node in NODES for v in lab.veths(node).values())]
    for link in links:
        assert run(["ip", "-brief", "address", "show", "dev", link]).stdout.split()[2:] == []


def test_nodes_have_no_way_out(lab: Lab) -> None:
    for node in NODES:
        for version in ("-4", "-6"):
            assert lab.exec(node, "ip", version, "route", "show", "default").stdout == ""


def test_nothing_leaves_when_the_lab_is_half_up_or_down(
    play: Play, other_lab: Lab, tmp_path: Path
) -> None:
    password = ("-e", f"ansible_password={other_lab.settings.root_password}")
    write_inventory(play, other_lab, tmp_path)
    saved = (tmp_path / "hosts.yml").read_text(encoding="utf-8")
    code, words, healthy = ping(tmp_path, *password)
    # How long Ansible itself takes here and now, and the SSH timeout of the inventory.
    patience = 3 * healthy + 10

    for name in ("n1", "client"):
        run(["podman", "--log-level=error", "rm", "-f", other_lab.settings.container(name)])
        with watch(other_lab) as seen:
            code, words, seconds = ping(tmp_path, *password)
            for address in addresses(other_lab):
                assert run(["ip", "route", "get", address], check=False).returncode != 0
        assert code == 4, words
        assert sum(seen) == 0
        assert seconds < patience

    other_lab.down()
    (tmp_path / "hosts.yml").write_text(saved, encoding="utf-8")
    with watch(other_lab) as seen:
        code, words, seconds = ping(tmp_path, *password)
    assert code == 4, words
    assert "UNREACHABLE" in words
    assert sum(seen) == 0
    assert seconds < patience
    assert other_lab.up()


@pytest.mark.parametrize("knob", ["kernel.threads-max", "fs.file-max", "vm.swappiness"])
def test_a_node_cannot_change_the_machines_kernel(lab: Lab, knob: str) -> None:
    value = lab.exec("n1", "sysctl", "-n", knob).stdout.strip()
    assert lab.exec("n1", "sysctl", "-w", f"{knob}={value}", check=False).returncode != 0
    assert lab.exec("n1", "sysctl", "-w", "net.ipv4.ip_forward=1").returncode == 0


def test_bridged_traffic_does_not_pass_the_machines_own_filter(lab: Lab) -> None:
    del lab
    for family in ("iptables", "ip6tables", "arptables"):
        assert read_knob(f"/proc/sys/net/bridge/bridge-nf-call-{family}") in ("0", None)


# -- disks ---------------------------------------------------------------------


def test_full_disk_is_the_nodes_own(bare: Lab) -> None:
    for path in ("/", "/var/lib/zcluster", "/etc/haproxy"):
        filled = bare.exec("n1", "dd", "if=/dev/zero", f"of={path}/fill", "bs=1M", check=False)
        assert "No space left on device" in filled.stderr
    bare.exec("n2", "dd", "if=/dev/zero", "of=/var/lib/zcluster/some", "bs=1M", "count=10")
    free = run(["df", "--output=avail", "-B1M", bare.settings.base_dir]).stdout.split()[-1]
    assert int(free) > 0
    bare.exec("n1", "rm", "/fill", "/var/lib/zcluster/fill", "/etc/haproxy/fill")
    bare.exec("n1", "sh", "-c", "echo works again > /root/new")


def test_snapshot_restore_brings_back_the_disk(bare: Lab) -> None:
    marks = ("/root/mark", "/etc/haproxy/mark", "/var/lib/zcluster/mark")
    before = bare.host_keys()
    for mark in marks:
        bare.exec("n1", "sh", "-c", f"echo one > {mark}")
    bare.snapshot("test-one")
    try:
        for mark in marks:
            assert bare.exec("n1", "cat", mark).stdout == "one\n"
            bare.exec("n1", "sh", "-c", f"echo two > {mark}")
        bare.exec("n1", "rm", "/etc/hosts")
        bare.restore("test-one")
        for mark in marks:
            assert bare.exec("n1", "cat", mark).stdout == "one\n"
        assert bare.exec("n1", "test", "-e", "/etc/hosts", check=False).returncode == 0
        assert bare.host_keys() == before
        bare.restore(BARE)
        for mark in marks:
            assert bare.exec("n1", "test", "-e", mark, check=False).returncode == 1
    finally:
        bare.forget("test-one")
    with pytest.raises(LabError, match="snapshot 'test-one' is unknown"):
        bare.restore("test-one")


def test_restored_lab_has_no_connection_of_the_one_before(bare: Lab) -> None:
    """The backend never hears that a way was cut: thousands of such connections fill its table."""
    talk = (
        "import socket, time; s = socket.create_connection(('198.18.20.60', 7000)); time.sleep(600)"
    )
    bare.exec("n1", "systemd-run", "--quiet", "python3", "-c", talk)

    def connections() -> list[str]:
        found = bare.exec("backend", "ss", "-Htn", "state", "established", "sport = :7000")
        return found.stdout.splitlines()

    eventually("it is connected", lambda: len(connections()) == 1)
    bare.power_off("n1")
    bare.restore(BARE)
    assert connections() == []


# -- faults --------------------------------------------------------------------


def answers(lab: Lab, node: str, address: str) -> bool:
    """Whether an address answers within the time that ARP may need (a retry each second)."""
    return lab.exec(node, "ping", "-q", "-c1", "-w5", address, check=False).returncode == 0


def silent(lab: Lab, node: str, address: str) -> bool:
    """Whether an address does not answer for a second."""
    ping = ("ping", "-q", "-c3", "-i0.3", "-w1", address)
    return ", 0 received" in lab.exec(node, *ping, check=False).stdout


def has_content(lab: Lab, node: str, file: str) -> bool:
    """Whether a file of a node is there and not empty."""
    return lab.exec(node, "test", "-s", file, check=False).returncode == 0


def test_power_off_silences_all_links_at_once(bare: Lab) -> None:
    interfaces = [NODES["n1"].interface(network) for network in NETWORKS]
    seen = {interface: f"/run/seen-{interface}" for interface in interfaces}
    processes = []
    for network, interface in zip(NETWORKS, interfaces, strict=True):
        source, target = (bare.settings.address(network, number) for number in (11, 12))
        listen = f"exec tcpdump --immediate-mode -ttnl -i {interface} icmp and src {source}"
        processes.append(bare.start_process("n2", "sh", "-c", f"{listen} > {seen[interface]}"))
        processes.append(bare.start_process("n1", "ping", "-q", "-i", "0.01", target))
    try:
        for file in seen.values():
            eventually(f"{file} has a packet", lambda file=file: has_content(bare, "n2", file))
        moment = bare.power_off("n1")
    finally:
        for process in processes:
            bare.stop_process(process)
    texts = [bare.exec("n2", "cat", file).stdout for file in seen.values()]
    last = [float(text.strip().splitlines()[-1].split()[0]) for text in texts]
    assert bare.states()["n1"] != "running"
    # A packet every 10 ms, and a sender may have to wait for its turn.
    assert max(last) - min(last) < 0.2
    assert max(last) < moment + 0.01
    assert min(last) > moment - 0.2
    bare.power_on("n1")
    assert answers(bare, "n2", bare.settings.address("link", 11))


def test_a_power_cut_keeps_the_disk_and_the_host_keys(
    bare: Lab, play: Play, lab_arguments: Sequence[str]
) -> None:
    before = bare.host_keys()
    boot = bare.exec("n2", "cat", "/etc/machine-id").stdout
    bare.exec("n2", "sh", "-c", "echo kept > /root/kept; echo gone > /run/gone")
    bare.power_off("n2")
    with pytest.raises(LabError, match="n2: is off"):
        bare.exec("n2", "true")
    looked = play("zcluster.ha.lab_status", *lab_arguments)
    assert looked.returncode == 0, looked.output
    said = looked.output.partition("Report | lab")[2]
    found, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
    states = {name: node["state"] for name, node in found["msg"]["nodes"].items()}
    assert states == dict.fromkeys(NODES, "running") | {"n2": bare.states()["n2"]}
    assert states["n2"] != "running"
    bare.power_on("n2")
    assert bare.exec("n2", "cat", "/root/kept").stdout == "kept\n"
    assert bare.exec("n2", "test", "-e", "/run/gone", check=False).returncode == 1
    assert bare.exec("n2", "cat", "/etc/machine-id").stdout == boot
    assert bare.host_keys() == before


def test_a_cut_takes_the_carrier_of_one_link(bare: Lab) -> None:
    bare.cut("n1", "back")
    assert carrier(bare, "n1") == {"front": "1", "back": "0", "link": "1"}
    assert bare.faults() == ["n1 back: cut"]
    assert answers(bare, "n2", bare.settings.address("link", 11))
    bare.heal("n1", "back")
    assert carrier(bare, "n1") == {"front": "1", "back": "1", "link": "1"}
    assert answers(bare, "n2", bare.settings.address("back", 11))
    assert bare.faults() == []


def carrier(lab: Lab, node: str) -> dict[str, str]:
    return {
        network: lab.exec(
            node, "cat", f"/sys/class/net/{NODES[node].interface(network)}/carrier"
        ).stdout.strip()
        for network in NETWORKS
    }


@pytest.mark.parametrize("direction", ["both", "in", "out"])
def test_a_silenced_link_keeps_its_carrier_and_passes_nothing(bare: Lab, direction: str) -> None:
    address = bare.settings.address("front", 11)
    assert answers(bare, "client", address)
    received = ("cat", "/sys/class/net/eth0/statistics/rx_packets")
    bare.silence("n1", "front", direction)
    assert carrier(bare, "n1")["front"] == "1"
    before = int(bare.exec("n1", *received).stdout)
    assert silent(bare, "client", address)
    grown = int(bare.exec("n1", *received).stdout) - before
    # What the client asked arrives only where just the answers are lost.
    assert (grown > 0) == (direction == "out")
    assert len(bare.faults()) == 1
    bare.heal("n1", "front")
    assert answers(bare, "client", address)
    assert bare.faults() == []


def test_a_paused_node_is_silent_and_goes_on_where_it_was(bare: Lab) -> None:
    address = bare.settings.address("link", 11)
    count = "i=0; while sleep 0.05; do i=$((i+1)); echo $i > /run/new; mv /run/new /run/count; done"
    bare.exec("n1", "systemd-run", "--quiet", "sh", "-c", count)

    def counted() -> int:
        return int(bare.exec("n1", "cat", "/run/count", check=False).stdout or 0)

    eventually("it counts", lambda: counted() > 0)
    bare.pause("n1")
    try:
        assert carrier(bare, "n2")["link"] == "1"
        assert silent(bare, "n2", address)
        before = counted()
        time.sleep(0.5)
        assert counted() == before
    finally:
        bare.resume("n1")
    assert answers(bare, "n2", address)
    # From where it was, not from the beginning.
    eventually("it counts on", lambda: counted() > before)
    bare.pause("n1")
    bare.power_off("n1")
    assert bare.states()["n1"] != "running"


def test_restore_heals_every_fault(bare: Lab) -> None:
    bare.cut("n1", "front")
    bare.silence("n2", "link")
    bare.silence("client", "front", "in")
    bare.power_off("n2")
    bare.restore(BARE)
    assert bare.faults() == []
    for node in BALANCERS:
        number = node.networks["front"]
        assert answers(bare, "client", bare.settings.address("front", number))


def test_daemons_can_have_a_real_time_priority_where_status_says_so(lab: Lab) -> None:
    if lab.status()["nodes"]["n1"]["real_time"] == "refused":
        pytest.skip("this machine's kernel gives no real-time budget to a container")
    policy = ("-p", "CPUSchedulingPolicy=fifo", "-p", "CPUSchedulingPriority=50")
    lab.exec("n1", "systemd-run", "--quiet", "--wait", *policy, "/bin/true")


# -- traffic -------------------------------------------------------------------


def measure(lab: Lab, *arguments: str) -> dict[str, float]:
    program = ("python3", "/usr/local/bin/zcluster_traffic.py", "run")
    vip = lab.settings.address("front", 100)
    report = lab.exec("client", *program, "--vip", vip, *arguments)
    loaded: dict[str, float] = json.loads(report.stdout)
    return loaded


@pytest.fixture
def serving(bare: Lab) -> Lab:
    """The first node with the virtual addresses added by hand."""
    vips: Sequence[tuple[str, str]] = [
        (bare.vips()["front"], "eth0"),
        (bare.vips()["front_proxy"], "eth0"),
        (bare.vips()["back"], "eth1"),
    ]
    for vip, interface in vips:
        bare.exec("n1", "ip", "address", "add", vip, "dev", interface)
    return bare


def test_traffic_through_the_service_to_protect_loses_nothing(serving: Lab) -> None:
    proxy = f"{serving.settings.address('front', 101)}:8080"
    ask = ("--seconds=1", f"--http={proxy}", "--connections=1")
    eventually(
        "haproxy has found all servers",
        lambda: len(measure(serving, *ask)["http_servers"]) == 4,  # type: ignore[arg-type]
    )
    report = measure(serving, "--seconds=4", f"--http={proxy}", "--short-rate=50", "--reuse-ports")
    assert report["udp_sent"] >= 4 / 0.002 / 2
    assert report["udp_lost"] == 0
    assert report["tcp_opened"] == report["tcp_alive"] == 200
    assert report["tcp_reset"] == report["short_failed"] == report["http_failed"] == 0
    assert report["short_opened"] > 50
    assert report["http_ok"] > 20
    assert len(report["http_servers"]) == 4  # type: ignore[arg-type]


def test_the_client_measures_the_outage_it_was_given(serving: Lab) -> None:
    program = ("python3", "/usr/local/bin/zcluster_traffic.py", "run", "--connections=20")
    vip = serving.settings.address("front", 100)
    traffic = serving.start_process("client", *program, "--vip", vip, "--seconds=4")
    try:
        time.sleep(1.5)
        begin = serving.silence("n1", "front")
        time.sleep(0.5)
        serving.heal("n1", "front")
        end = time.time()
        report = json.loads(traffic.communicate(timeout=60)[0])
    finally:
        serving.stop_process(traffic)
    outage = (end - begin) * 1000
    # What the measuring client itself slept comes on top.
    assert 400 < report["longest_gap_ms"] < outage + report["pauses_ms"] + 500
    longest = max(report["gaps"], key=lambda gap: gap["ms"])
    assert abs(longest["start"] - begin) < 0.5
    assert report["tcp_alive"] == 20


# -- life ----------------------------------------------------------------------


def test_a_second_up_changes_nothing(play: Play, lab: Lab, lab_arguments: Sequence[str]) -> None:
    done = play("zcluster.ha.lab_up", *lab_arguments)
    assert done.returncode == 0
    assert done.changed() == 0
    assert "Report | lab" in done.output
    assert lab.up() is False


def test_up_completes_a_lab_that_lost_a_part(other_lab: Lab) -> None:
    other_lab.exec("n1", "sh", "-c", "echo kept > /root/kept")
    other_lab.power_off("n1")
    run(["podman", "--log-level=error", "rm", "-f", other_lab.settings.container("client")])
    assert other_lab.is_up() is False
    assert other_lab.up() is True
    assert other_lab.status()["up"] is True
    assert other_lab.exec("n1", "cat", "/root/kept").stdout == "kept\n"


def test_up_goes_on_where_an_interrupted_one_ended(other_lab: Lab) -> None:
    # As after a kill between the start of the last container and what it must be told.
    knob = f"/proc/sys/net/ipv6/conf/{other_lab.bridge('front')}/disable_ipv6"
    write_knob(knob, "0")
    (other_lab.directory / "started").unlink()
    assert other_lab.is_up() is False
    assert other_lab.up() is True
    assert read_knob(knob) == "1"
    assert other_lab.up() is False


def test_up_revives_a_lab_whose_processes_all_died_unnoticed(other_lab: Lab) -> None:
    # As after the sudden end of the session or machine that held it: podman still says "running".
    for name, state in other_lab.states().items():
        assert state == "running"
        container = other_lab.settings.container(name)
        told = podman("inspect", "--format", "{{.State.ConmonPid}} {{.State.Pid}}", container)
        for pid in map(int, told.stdout.split()):
            os.kill(pid, signal.SIGKILL)
    assert not other_lab.is_up()
    assert other_lab.up()
    assert set(other_lab.states().values()) == {"running"}
    assert other_lab.is_up()


def test_another_lab_with_the_same_addresses_is_refused(lab: Lab) -> None:
    twin = Lab(dataclasses.replace(lab.settings, name="zcl-twin"))
    with pytest.raises(LabError, match=r"collides with .* of the lab"):
        twin.up()
    twin.down()


def test_lab_down_leaves_nothing_behind(other_lab: Lab, lab: Lab) -> None:
    name, directory = other_lab.settings.name, other_lab.directory
    links = {v for node in NODES for v in other_lab.veths(node).values()}
    links |= set(lab_bridges(other_lab))
    disks = [other_lab.disks(node).root for node in NODES]
    assert other_lab.down() is True
    assert name not in run(["podman", "--log-level=error", "ps", "-a"]).stdout
    assert name not in run(["podman", "--log-level=error", "network", "ls"]).stdout
    assert not [disk for disk in disks if mounted(disk)]
    assert name not in run(["losetup", "--all"]).stdout
    assert not directory.exists()
    left = {link["ifname"] for link in json.loads(run(["ip", "-j", "link"]).stdout)}
    assert not links & left
    for version in ("-4", "-6"):
        routes = run(["ip", version, "route", "show", "proto", ROUTE_PROTOCOL]).stdout
        assert not [p for p in other_lab.settings.prefixes() if p in routes]
    assert other_lab.down() is False
    # The usual lab did not notice.
    assert lab.is_up()
    record = json.loads((Path(lab.settings.base_dir) / "host.json").read_text(encoding="utf-8"))
    assert name not in record["labs"]
    assert other_lab.up() is True
