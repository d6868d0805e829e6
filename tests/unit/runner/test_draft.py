# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory that create writes: values checked, text that says them, all or nothing."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from zcluster_runner import draft
from zcluster_runner.errors import InventoryError, UsageError

GOOD: dict[str, Any] = {
    "name": "web",
    "local": "lb1",
    "remote": "lb2",
    "local_ip": "198.18.30.11",
    "remote_ip": "198.18.30.12",
    "vip": ("198.18.10.100/24", "2001:db8:10::100/64@eth0"),
}


def host_of(values: dict[str, Any]) -> dict[str, Any]:
    content = draft.draft(values)
    group: dict[str, Any] = yaml.safe_load(content.text())["all"]["children"][content.group]
    return group


def test_it_says_all_values() -> None:
    group = host_of(
        GOOD
        | {
            "profile": "fast",
            "failback": "remote",
            "check_interval": 0.05,
            "vrid": 77,
            "sync_path": ("/etc/haproxy",),
        }
        | {"user": "admin", "key": "/keys/id"}
    )
    assert group["hosts"] == {
        "lb1": {"zcluster_ip": "198.18.30.11"},
        "lb2": {"zcluster_ip": "198.18.30.12"},
    }
    assert group["vars"] == {
        "zcluster_name": "web",
        "zcluster_initial_master": "lb1",
        "zcluster_vips": [
            "198.18.10.100/24",
            {"address": "2001:db8:10::100/64", "interface": "eth0"},
        ],
        "zcluster_failback": "lb2",
        "zcluster_profile": "fast",
        "zcluster_check_interval": 0.05,
        "zcluster_vrid": 77,
        "zcluster_sync_paths": ["/etc/haproxy"],
        "zcluster_operator_key": "/keys/id",
        "ansible_ssh_private_key_file": "/keys/id",
        "ansible_user": "admin",
        "ansible_become": True,
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def test_the_least_that_is_needed() -> None:
    group = host_of({"name": "web", "local": "192.0.2.1", "remote": "lb2.example.org"})
    assert group["hosts"] == {"192.0.2.1": {}, "lb2.example.org": {}}
    assert group["vars"]["zcluster_vips"] == []
    assert group["vars"]["zcluster_failback"] == "disabled"
    assert group["vars"]["zcluster_profile"] == "standard"
    assert "zcluster_check_interval" not in group["vars"]
    assert group["vars"]["ansible_user"] == "root"
    assert "zcluster_vrid" not in group["vars"]


def test_this_machine_is_reached_without_ssh_and_has_its_own_name() -> None:
    group = host_of(GOOD | {"local": "localhost"})
    name = socket.gethostname().partition(".")[0]
    assert group["hosts"][name]["ansible_connection"] == "local"
    assert group["vars"]["zcluster_initial_master"] == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "NAME: '' is not possible"),
        ({"name": "../etc"}, "NAME"),
        ({"name": "Web_1"}, "small letters"),
        ({"name": "9web"}, "beginning with a letter"),
        ({"local": "lb 1"}, "--local: 'lb 1'"),
        ({"local": "-oProxyCommand=x"}, "--local"),
        ({"remote": "lb1"}, "--remote: 'lb1' is not possible; allowed: another host"),
        ({"local": "localhost", "remote": "127.0.0.1"}, "--remote"),
        ({"local_ip": "198.18.30"}, "--local-ip: '198.18.30' is not possible"),
        ({"local_ip": "198.18.30.256"}, "--local-ip"),
        ({"local_ip": "2001:db8::1"}, "IPv4"),
        ({"remote_ip": "127.0.0.1"}, "--remote-ip"),
        ({"remote_ip": "198.18.30.11"}, "another address than --local-ip"),
        ({"vip": ("198.18.10.100",)}, "the prefix is missing"),
        ({"vip": ("198.18.10/24",)}, "--vip"),
        ({"vip": ("198.18.10.100/33",)}, "--vip"),
        ({"vip": ("198.18.10.100/24@eth0; rm",)}, "--vip"),
        ({"vip": ("198.18.10.100/24", "198.18.10.100/24")}, "each address once"),
        ({"failback": "lb3"}, "--failback: 'lb3' is not possible; allowed: disabled, local, lb1"),
        ({"sync_path": ("etc",)}, "--sync-path: 'etc'"),
        ({"sync_path": ("/etc/../root",)}, "--sync-path"),
        ({"sync_path": ("/",)}, "--sync-path"),
        ({"sync_path": ("/etc/a\nb",)}, "--sync-path"),
        ({"user": "root: {x}"}, "--user"),
        ({"key": "~/a\tb"}, "--key"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        draft.draft(GOOD | change)
    assert message in str(caught.value)
    assert "allowed:" in str(caught.value)


@example("~0", "key")
@given(st.text(max_size=30), st.sampled_from(["user", "key", "sync_path"]))
def test_no_value_can_change_the_yaml_around_it(text: str, field: str) -> None:
    value: Any = (f"/{text}",) if field == "sync_path" else text
    try:
        content = draft.draft(GOOD | {field: value})
    except UsageError:
        return
    group = yaml.safe_load(content.text())["all"]["children"]["cluster_web"]
    assert list(group["hosts"]) == ["lb1", "lb2"]
    if field == "user" and text:
        assert group["vars"]["ansible_user"] == text


def test_it_is_written_whole(tmp_path: Path) -> None:
    directory = draft.write(draft.draft(GOOD), tmp_path / "deep/web")
    assert sorted(p.name for p in directory.iterdir()) == ["hosts.yml"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert [p.name for p in directory.parent.iterdir()] == ["web"]


def test_nothing_is_left_of_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        draft.write(draft.draft(GOOD), tmp_path / "web")
    assert [p.name for p in tmp_path.iterdir() if p.name != "home"] == []


def test_an_inventory_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    draft.write(draft.draft(GOOD), tmp_path / "web")
    before = (tmp_path / "web/hosts.yml").read_bytes()
    with pytest.raises(InventoryError, match="exists already"):
        draft.write(draft.draft(GOOD | {"vip": ()}), tmp_path / "web")
    assert (tmp_path / "web/hosts.yml").read_bytes() == before
