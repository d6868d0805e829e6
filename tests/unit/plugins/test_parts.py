# SPDX-License-Identifier: GPL-3.0-or-later
# Which parts of a cluster a node has already, by what its own tools say.
from __future__ import annotations

from ansible_collections.zcluster.ha.plugins.modules import parts_info

UNITS = ("conntrackd.service", "zcluster-receive.socket", "gone.service")
SHOWN = """\
ActiveState=active
UnitFileState=disabled

ActiveState=inactive
UnitFileState=enabled

ActiveState=inactive
UnitFileState=
"""


def test_package_that_was_removed_is_not_installed() -> None:
    said = "rsync installed\nconntrackd config-files\nkeepalived not-installed\n"
    assert parts_info.installed(said) == ["rsync"]


def test_units_are_told_apart_by_their_order() -> None:
    def that(prop: str, value: str) -> list[str]:
        return parts_info.units_that(UNITS, SHOWN, prop, value)

    assert that("ActiveState", "active") == ["conntrackd.service"]
    assert that("UnitFileState", "enabled") == ["zcluster-receive.socket"]


def test_answer_that_does_not_fit_the_question_tells_nothing() -> None:
    assert parts_info.units_that(UNITS, "", "ActiveState", "active") == []
    assert parts_info.units_that(UNITS[:2], SHOWN, "ActiveState", "active") == []


def test_addresses_are_those_of_all_links() -> None:
    said = """[{"ifname": "lo", "addr_info": [{"local": "127.0.0.1"}]}, {},
               {"ifname": "eth0", "addr_info": [{"local": "198.18.10.11"}, {}]}]"""
    assert parts_info.addresses(said) == [
        "127.0.0.1",
        "198.18.10.11",
    ]
