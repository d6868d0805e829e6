# SPDX-License-Identifier: GPL-3.0-or-later
# What the lab decides without touching a machine: settings, podman's arguments, files of a node.
from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/lab/files/zcluster_lab.py"


def load() -> ModuleType:
    if "zcluster_lab" not in sys.modules:
        spec = importlib.util.spec_from_file_location("zcluster_lab", PROGRAM)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["zcluster_lab"] = module
        spec.loader.exec_module(module)
    return sys.modules["zcluster_lab"]


lab = load()
FULL = lab.Machine(
    cgroup_version=2,
    runtimes=("crun",),
    sys_resource=True,
    open_files=1 << 20,
    processes=1 << 20,
    loop_devices=True,
)
POOR = lab.Machine(
    cgroup_version=1,
    runtimes=("crun", "runc"),
    sys_resource=False,
    open_files=20000,
    processes=9000,
    loop_devices=False,
)


def test_a_machine_with_everything_needs_no_workaround() -> None:
    assert lab.runtime_arguments(FULL) == []
    assert lab.limit_arguments(FULL) == []
    assert lab.init_arguments(FULL, 12) == []
    assert lab.init_arguments(FULL, 13) == []


def test_runc_is_taken_where_there_is_one() -> None:
    assert lab.runtime_arguments(POOR) == ["--runtime", "runc"]


def test_without_cap_sys_resource_limits_stay_below_what_the_machine_has() -> None:
    assert lab.limit_arguments(POOR) == [
        "--ulimit",
        "nofile=16384:16384",
        "--ulimit",
        "nproc=9000:9000",
    ]


def test_only_debian_13_on_cgroup_v1_must_be_told_to_accept_it() -> None:
    assert lab.init_arguments(POOR, 12) == []
    assert "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" in lab.init_arguments(POOR, 13)


@pytest.mark.parametrize("machine", [FULL, POOR], ids=["full", "poor"])
@pytest.mark.parametrize("node", lab.NODES.values(), ids=str)
def test_no_node_is_privileged_or_sees_a_device_of_the_machine(
    machine: object, node: object
) -> None:
    arguments = lab.run_arguments(machine, lab.Settings(), node, Path("/r"), {})
    assert "--privileged" not in arguments
    assert "--device" not in arguments
    assert "SYS_MODULE" not in " ".join(arguments)
    assert "SYS_RAWIO" not in " ".join(arguments)


def test_every_link_of_a_node_has_a_fixed_name_and_addresses() -> None:
    arguments = lab.network_arguments(lab.Settings(), lab.NODES["n2"])
    assert arguments[1] == (
        "zcluster-lab-front:ip=198.18.10.12,ip6=2001:db8:10::12,"
        "mac=02:5a:63:00:00:0c,interface_name=eth0"
    )
    assert [a.rpartition("=")[2] for a in arguments[1::2]] == ["eth0", "eth1", "eth2"]


def test_the_backend_has_four_addresses() -> None:
    script = lab.boot_script(lab.Settings(), lab.NODES["backend"], [])
    for last in ("61", "62", "63"):
        assert f"ip address add 198.18.20.{last}/24 dev eth0" in script
        assert f"ip address add 2001:db8:20::{last}/64 dev eth0" in script
    assert script.endswith("exec /sbin/init")


def test_a_node_cannot_change_the_settings_of_the_machines_kernel() -> None:
    script = lab.boot_script(lab.Settings(), lab.NODES["n1"], [])
    assert "for d in abi debug dev fs kernel user vm; do" in script


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("release", 11, "release: 11 is unknown, allowed: 12, 13"),
        ("root_login", "yes", "root_login: 'yes', allowed: password, prohibit-password"),
        ("name", "Lab 1", "name: 'Lab 1', allowed: lower case letters, digits and dashes"),
        ("front", "198.18.10.1/24", "front: '198.18.10.1/24' is no network: .*host bits set"),
        ("back", "10.0.0.0/25", "back: '10.0.0.0/25', allowed: an IPv4 network of /24 or larger"),
        ("link6", "10.0.0.0/24", "link6: '10.0.0.0/24', allowed: an IPv6 network of /112"),
        ("link", "198.18.0.0/16", "networks overlap: 198.18.10.0/24 and 198.18.0.0/16"),
        ("zcluster_mb", 8, "zcluster_mb: 8, allowed: 16 or more"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(field: str, value: object, words: str) -> None:
    with pytest.raises(lab.LabError, match=words):
        lab.Settings(**{field: value})


def test_two_labs_cannot_have_the_same_addresses() -> None:
    other = lab.Settings(name="other", front="198.18.40.0/24")
    with pytest.raises(
        lab.LabError, match=r"collides with .* of the lab other; .* --front6 NETWORK"
    ):
        lab.refuse_overlap(lab.Settings(), other)


def test_a_network_of_this_machine_is_not_taken_from_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    route = json.dumps([{"dst": "198.18.0.0/15", "dev": "vpn0"}])
    answer = lab.Result(0, route, "")
    monkeypatch.setattr(
        lab, "run", lambda words: answer if "-4" in words else lab.Result(0, "", "")
    )
    words = r"198.18.10.0/24 collides .* 198.18.0.0/15 \(dev vpn0\); way out: .* lab up --front "
    with pytest.raises(lab.LabError, match=words):
        lab.Host(lab.Settings(base_dir=str(tmp_path))).check_collisions()
    own = {name: f"10.97.{number}.0/24" for number, name in enumerate(lab.NETWORKS)}
    lab.Host(lab.Settings(base_dir=str(tmp_path), **own)).check_collisions()


def test_the_image_is_named_by_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = lab.recipe_id(12)
    assert lab.recipe_id(12) == before
    assert lab.recipe_id(13) != before
    monkeypatch.setattr(lab, "BASE_PACKAGES", (*lab.BASE_PACKAGES, "nano"))
    assert lab.recipe_id(12) != before
    monkeypatch.undo()
    monkeypatch.setattr(lab, "FINISHING", (*lab.FINISHING, lab.furnish))
    assert lab.recipe_id(12) != before


def test_nothing_of_a_cluster_is_in_the_image() -> None:
    assert not set(lab.BASE_PACKAGES) & {"keepalived", "conntrackd", "conntrack", "rsync"}
    assert {"keepalived", "conntrackd", "conntrack", "rsync"} <= set(lab.REPOSITORY_PACKAGES)


def test_a_missing_archive_key_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(lab.LabError, match="no archive key of Debian trixie; way out: apt-get"):
        lab.keyring_for("trixie", [tmp_path])
    (tmp_path / "debian-archive-trixie-stable.gpg").touch()
    lab.keyring_for("trixie", [tmp_path])


def test_the_release_file_fits_the_index() -> None:
    index = "Package: x\n"
    digest = hashlib.sha256(index.encode()).hexdigest()
    assert f" {digest} {len(index)} Packages" in lab.release_file(index)


def test_only_the_first_node_has_the_service_to_protect() -> None:
    settings = lab.Settings()
    first = lab.node_files(settings, lab.NODES["n1"])
    second = lab.node_files(settings, lab.NODES["n2"])
    assert "198.18.10.100" in first["/etc/nftables.conf"]
    assert "bind 198.18.10.101:8080 transparent" in first["/etc/haproxy/haproxy.cfg"]
    assert "/etc/nftables.conf" not in second
    assert "/etc/haproxy/haproxy.cfg" not in second


def test_connections_are_spread_over_all_backend_addresses() -> None:
    text = lab.nftables_conf(lab.Settings())
    assert "dnat to numgen random mod 4 map { 0 : 198.18.20.60, 1 : 198.18.20.61," in text
    assert "snat to 198.18.20.100" in text


def test_root_by_password_is_a_choice() -> None:
    path = "/etc/ssh/sshd_config.d/10-root-login.conf"
    open_ = lab.node_files(lab.Settings(), lab.NODES["n2"])
    closed = lab.node_files(lab.Settings(root_login="prohibit-password"), lab.NODES["n2"])
    assert open_[path] == "PermitRootLogin yes\n"
    assert path not in closed


def test_own_networks_reach_every_file() -> None:
    settings = lab.Settings(front="10.9.1.0/24", back="10.9.2.0/24", link="10.9.3.0/24")
    files = "".join(lab.node_files(settings, lab.NODES["n1"]).values())
    assert "198.18." not in files
    assert "10.9.1.100" in files


def test_the_last_lab_puts_back_the_limits_that_the_first_one_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = {"instances": "128", "watches": "500000", "bridge": "1", "forward": "0"}
    knobs = {name: tmp_path / name for name in found}

    def now() -> dict[str, str]:
        return {name: path.read_text() for name, path in knobs.items()}

    for name, value in found.items():
        knobs[name].write_text(value)
    limits = {str(knobs["instances"]): 1024, str(knobs["watches"]): 262144}
    monkeypatch.setattr(lab, "HOST_KNOBS", limits)
    monkeypatch.setattr(lab, "BRIDGE_KNOBS", (str(knobs["bridge"]),))
    monkeypatch.setattr(lab, "KEPT_KNOBS", (str(knobs["forward"]), str(tmp_path / "none")))
    monkeypatch.setattr(lab, "run", lambda *_, **__: lab.Result(0, "", ""))
    first, second = (
        lab.Host(lab.Settings(name=name, base_dir=str(tmp_path))) for name in ("one", "two")
    )
    for host in (first, second, first):
        host.set_knobs()
        knobs["forward"].write_text("1")  # as container engines do
        assert now() == {"instances": "1024", "watches": "500000", "bridge": "0", "forward": "1"}
    first.leave()
    assert now()["instances"] == "1024"
    assert second.entered()
    second.leave()
    assert now() == found
    assert not second.record.exists()


def test_a_snapshot_name_cannot_leave_its_directory() -> None:
    lab.check_snapshot_name("created-0a1b.2")
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(lab.LabError, match="snapshot: "):
            lab.check_snapshot_name(name)


def test_stored_settings_are_read_back(tmp_path: Path) -> None:
    settings = lab.Settings(name="other", release=13, base_dir=str(tmp_path))
    text = json.dumps(dataclasses.asdict(settings))
    lab.write_whole(settings.directory / "settings.json", text)
    assert lab.Lab.open("other", str(tmp_path)).settings == settings
    assert lab.Lab.open("new", str(tmp_path)).settings.release == 12


def test_a_process_is_known_by_its_beginning_as_long_as_it_lives() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        began = lab.process_began(process.pid)
        assert began.isdigit()
        assert lab.process_began(process.pid) == began
        process.kill()
        # It has ended, though nobody has asked for its exit code yet.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert lab.process_began(process.pid) == ""
    assert lab.process_began(process.pid) == ""


def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(lab.LabError, match="exit code 3: no luck"):
        lab.run(["sh", "-c", "echo no luck >&2; exit 3"])


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(lab.LabError, match="apt-get install nftables"):
        lab.run(["nft", "list", "ruleset"])


def test_everything_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.shutil, "which", lambda _: None)
    bare = dataclasses.replace(FULL, runtimes=())
    assert {"podman", "runc", "mmdebstrap", "iptables"} <= set(lab.missing_packages(bare))
