# SPDX-License-Identifier: GPL-3.0-or-later
"""What configure refuses, and what it says has changed."""

from __future__ import annotations

import pytest
from ansible_collections.zcluster.ha.plugins.filter.interval_refusal import interval_refusal
from ansible_collections.zcluster.ha.plugins.filter.settings_changes import settings_changes

QUICK = {"round_trip": 0.0004, "scheduling": 0.0002}
FAR = {"round_trip": 0.08, "scheduling": 0.001}


@pytest.mark.parametrize(
    ("timing", "profile", "interval"),
    [(QUICK, "", 0.01), (QUICK, "fast", ""), (FAR, "", 0.1), (FAR, "wan", ""), (FAR, "", "soon"),
     (FAR, "quick", 0.01), ({"round_trip": None, "scheduling": 0.001}, "", 0.01)],
)  # fmt: skip
def test_interval_the_link_allows_is_not_refused(
    timing: dict[str, float], profile: str, interval: object
) -> None:
    assert interval_refusal(timing, profile, interval) == ""


@pytest.mark.parametrize(("profile", "interval"), [("", 0.05), ("fast", ""), ("", "0.01")])
def test_interval_the_link_does_not_allow_is_refused_with_figures(
    profile: str, interval: object
) -> None:
    said = interval_refusal(FAR, profile, interval)
    assert "takes 80.0 ms there and back" in said
    assert "Choose at least 0.06 s" in said


def test_pace_that_the_cluster_has_already_is_in_the_way_of_no_other_change() -> None:
    present = {"check_interval": 0.02, "missed_adverts": 3, "failback": "n1"}
    assert interval_refusal(FAR, "fast", "", present) == ""
    assert interval_refusal(FAR, "", "0.02", present) == ""
    assert interval_refusal(FAR, "", "0.03", present)
    assert interval_refusal(FAR, "fast", "", {**present, "missed_adverts": 6})


def test_busy_machine_is_refused_a_short_interval_though_no_echo_comes_back() -> None:
    said = interval_refusal({"round_trip": None, "scheduling": 0.08}, "", 0.05)
    assert "but this machine wakes a process up to 80.0 ms late" in said


def test_old_and_new_values_are_said_by_setting() -> None:
    old = {"check_interval": 0.1, "revision": 1, "local": "n1", "failback": "disabled",
           "vips": [{"address": "192.0.2.1", "prefix": 24, "interface": "eth0"}]}  # fmt: skip
    new = {"check_interval": 0.2, "revision": 2, "failback": "disabled", "vips": []}
    assert settings_changes(old, new) == [
        {"setting": "check_interval", "old": "0.1", "new": "0.2"},
        {"setting": "vips", "old": "192.0.2.1/24", "new": "none"},
    ]


def test_setting_that_an_older_zcluster_did_not_have_is_no_change_while_it_is_empty() -> None:
    assert settings_changes({}, {"track_interfaces": [], "preempt_delay": 0.0}) == []
    assert settings_changes({}, {"track_interfaces": ["eth1"]}) == [
        {"setting": "track_interfaces", "old": "none", "new": "eth1"}
    ]
