# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings as one text for the person who reads them at night."""

from __future__ import annotations

from typing import Any

from ansible_collections.zcluster.ha.plugins.module_utils import _findings


def test_nothing_found() -> None:
    assert _findings.as_text([], "web") == "Preflight of cluster web: nothing found."


def test_errors_come_first_numbered_with_their_way_out(pair: Any) -> None:
    pair.n2["clock"]["start"] += 60
    pair.n2["system"]["os_version"] = "11"
    assert _findings.as_text(pair.findings(), "web") == (
        "Preflight of cluster web: 1 error, 1 warning. Nothing was changed.\n"
        "\n"
        "1. ERROR on lb2, operating system: debian 11\n"
        "   This operating system is not supported; Debian 12 and 13 are.\n"
        "   Way out: Install one of these on the node.\n"
        "\n"
        "2. WARNING on lb1 and lb2, clock: 60.0 s\n"
        "   The clocks of the nodes differ; lb2 is ahead. Logs of a failover will be hard to "
        "compare, and\n"
        "   certificates may be refused.\n"
        "   Way out: Let both nodes take the time from a server: systemd-timesyncd or chrony."
    )
