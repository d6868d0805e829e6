# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings worked out against the inventory."""

from __future__ import annotations

from typing import Any

import pytest

from zcluster_runner import actions, api, configure
from zcluster_runner.errors import UsageError
from zcluster_runner.persisting import Variables


def settings(found: Variables, **params: Any) -> dict[str, Any]:
    action = actions.find("configure")
    assert action is not None
    _, hosts = configure.hosts_of(found, "web")
    return configure.settings(action, api.checked(action, params), hosts)


WEB: dict[str, dict[str, Any]] = {
    "lb1": {
        "zcluster_name": "web",
        "zcluster_vips": ["192.0.2.100/24", {"address": "203.0.113.1/24", "interface": "eth1"}],
    }
}


def test_virtual_addresses_are_added_and_removed() -> None:
    wanted = settings(WEB, vip=[("add", "192.0.2.9/24@eth0"), ("remove", "203.0.113.1")])
    assert wanted == {
        "zcluster_vips": ["192.0.2.100/24", {"address": "192.0.2.9/24", "interface": "eth0"}]
    }


def test_witnesses_are_a_list_like_the_addresses() -> None:
    assert settings(WEB, witness=[("add", "192.0.2.1")]) == {"zcluster_witnesses": ["192.0.2.1"]}


def test_tracked_interfaces_are_a_list_of_names() -> None:
    known = {"lb1": {"zcluster_name": "web", "zcluster_track_interfaces": ["eth1", "bond0.7"]}}
    wanted = settings(known, track_interface=[("add", "eth3"), ("remove", "eth1")])
    assert wanted == {"zcluster_track_interfaces": ["bond0.7", "eth3"]}
    with pytest.raises(UsageError, match=r"remove eth9: it is not there; there are: eth1, bond0.7"):
        settings(known, track_interface=[("remove", "eth9")])


def test_address_that_is_there_is_not_added_twice() -> None:
    wanted = settings(WEB, vip=[("add", "192.0.2.100/24")])
    assert wanted["zcluster_vips"] == WEB["lb1"]["zcluster_vips"]


def test_address_that_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(
        UsageError, match=r"--vip remove 192.0.2.1: it is not there; there are: 192"
    ):
        settings(WEB, vip=[("remove", "192.0.2.1")])


@pytest.mark.parametrize("change", [("put", "192.0.2.1/24"), ("add", ""), "192.0.2.1/24"])
def test_change_of_a_list_is_add_or_remove(change: Any) -> None:
    with pytest.raises(UsageError, match="allowed: add"):
        settings(WEB, vip=[change])


def test_of_several_clusters_one_must_be_named() -> None:
    both = {**WEB, "db1": {"zcluster_name": "db"}}
    with pytest.raises(UsageError, match="say --cluster: web, db"):
        configure.hosts_of(both, "")
    assert configure.hosts_of(both, "db") == ("db", {"db1": {"zcluster_name": "db"}})
