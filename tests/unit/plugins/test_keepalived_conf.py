# SPDX-License-Identifier: GPL-3.0-or-later
# What keepalived is told: who is in the sync group, and how a new network gets there.
from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import jinja2
import pytest

TEMPLATES = Path(__file__).parents[3] / "roles/keepalived/templates"
ROUTES = [
    {"words": "default via 198.18.10.1 dev eth1 table 100", "interface": "eth1"},
    {"words": "198.18.250.0/24 via 198.18.20.1", "interface": ""},
]
MASTERS = (*(route["words"] for route in ROUTES), "from 198.18.10.100 table 100", "203.0.113.7/32")


def network(interface: str, number: int, kind: str = "served") -> dict[str, Any]:
    """A network of the plan."""
    addresses = {"n1": f"198.18.{number}0.11", "n2": f"198.18.{number}0.12"}
    return {"interface": interface, "vrid": 51, "lead": f"169.254.51.{number}", "kind": kind,
            "addresses": addresses}  # fmt: skip


def listed(lazy: Callable[..., Iterable[object]]) -> Callable[..., list[object]]:
    """A filter of Jinja whose result has a length."""

    @jinja2.pass_context
    def eager(context: jinja2.runtime.Context, *given: object, **named: object) -> list[object]:
        return list(lazy(context, *given, **named))

    return eager


def configuration(beside: Collection[str] = (), **plan: object) -> str:
    """keepalived.conf of n1: the cluster link eth2, and virtual IPs on eth0 and eth1."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    # As Ansible has them: lists.
    for name in ("select", "selectattr", "rejectattr", "map"):
        environment.filters[name] = listed(environment.filters[name])
    environment.filters["difference"] = lambda one, two: [x for x in one if x not in list(two)]
    environment.filters["ternary"] = lambda value, yes, no: yes if value else no
    usual: dict[str, object] = {
        "name": "web",
        "failback": "disabled",
        "check_interval": 0.5,
        "missed_adverts": 3,
        "realtime_priority": 50,
        "networks": [network("eth2", 3, "link"), network("eth0", 1), network("eth1", 2)],
        "vips": [
            {"address": "198.18.10.100", "prefix": 24, "interface": "eth0"},
            {"address": "198.18.20.100", "prefix": 24, "interface": "eth1"},
        ],
        "master_only": {
            "routes": ROUTES,
            "rules": [{"words": "from 198.18.10.100 table 100"}],
            "addresses": [{"words": "203.0.113.7/32 dev lo", "interface": "lo"}],
        },
    }
    return environment.get_template("keepalived.conf.j2").render(
        ansible_managed="",
        keepalived_plan=usual | plan,
        keepalived_hostname="n1",
        keepalived_node={"priority": 254},
        keepalived_startup_delay=1,
        keepalived_beside=beside,
    )


def group(text: str) -> list[str]:
    """The members of the sync group."""
    return text.partition("    group {\n")[2].partition("    }\n")[0].split()


def instances(text: str) -> dict[str, str]:
    """The settings of each instance, by name."""
    parts = re.split(r"^vrrp_instance (\S+) \{\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_all_networks_are_in_the_group_and_what_is_the_masters_alone_is_in_one_place() -> None:
    text = configuration()
    found = instances(text)
    assert group(text) == list(found) == ["eth2", "eth0", "eth1"]
    for words in MASTERS:
        assert [name for name, own in found.items() if words in own] == ["eth1"], words


@pytest.mark.parametrize("failback", ["disabled", "n1"])
def test_new_network_is_beside_the_group_without_a_virtual_ip_and_moves_nothing(
    failback: str,
) -> None:
    text = configuration(["eth1"], failback=failback, track_interfaces=["eth1"])
    found = instances(text)
    assert group(text) == ["eth2", "eth0"]
    new = found.pop("eth1")
    assert "169.254.51.2/32 dev eth1" in new
    for words in ("198.18.20.100", "excluded", "virtual_routes", "virtual_rules", "dont_track"):
        assert words not in new
    # Soon, but never instead of somebody.
    assert "advert_int 0.1\n" in new
    assert "    nopreempt\n" in new
    # What was tracked, and what had its place with the last network, stays in the group.
    assert "track_interface {\n        eth1\n" in text
    for words in MASTERS:
        assert [name for name, own in found.items() if words in own] == ["eth0"], words
    assert all("advert_int 0.5\n" in own for own in found.values())
    assert ("    nopreempt\n" in found["eth0"]) is (failback == "disabled")
