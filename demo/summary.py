# SPDX-License-Identifier: GPL-3.0-or-later
"""The demonstration in words, from JSON: `master`, `vips`, or what a client `noticed`.

Exit code 1: the client was not given what was promised.
"""

from __future__ import annotations

import json
import sys
from typing import Any

LONGEST_SILENCE_MS = 3000
"""Ten times what a takeover takes: the machine may be a busy one."""


def master(document: Any) -> str:
    """The hostname of the node that serves."""
    nodes = document["nodes"] if isinstance(document, dict) else document
    found = [node["hostname"] for node in nodes if node["role"] == "master"]
    if len(found) != 1:
        raise SystemExit(f"there is not exactly one master: {', '.join(found) or 'none'}")
    hostname: str = found[0]
    return hostname


def vips(status: dict[str, Any]) -> str:
    """The virtual addresses the client talks to: that of the connections, that of haproxy."""
    return " ".join(status["vips"][name].partition("/")[0] for name in ("front", "front_proxy"))


def noticed(report: dict[str, Any]) -> str:
    """The client's figures, a line each."""
    total, alive = report["tcp_opened"], report["tcp_alive"]
    requests = report["http_ok"] + report["http_failed"]
    return "\n".join(
        (
            f"  longest silence           {report['longest_gap_ms']:.0f} ms",
            f"  datagrams lost            {report['udp_lost']} of {report['udp_sent']}",
            f"  TCP connections alive     {alive} of {total}, {report['tcp_reset']} reset",
            f"  longest stall of a stream {report['tcp_longest_stall_ms']:.0f} ms",
            f"  HTTP through haproxy      {report['http_ok']} of {requests} answered",
        )
    )


def broken(report: dict[str, Any]) -> list[str]:
    """What the client was promised and did not get."""
    opened, alive = report["tcp_opened"], report["tcp_alive"]
    # What the measuring client itself slept is nobody's outage.
    silence = report["longest_gap_ms"] - report["pauses_ms"]
    promises = (
        ("connections could not be opened", opened == report["tcp_wanted"]),
        ("connections were lost", alive == opened and not report["tcp_reset"]),
        ("no datagram was answered", report["udp_lost"] < report["udp_sent"]),
        ("a silence much longer than a takeover", silence <= LONGEST_SILENCE_MS),
        ("haproxy answered nothing", report["http_ok"] > 0),
    )
    return [words for words, kept in promises if not kept]


def main() -> int:
    """Read JSON, print words."""
    document = json.load(sys.stdin)
    print({"master": master, "vips": vips, "noticed": noticed}[sys.argv[1]](document))
    wrong = broken(document) if sys.argv[1] == "noticed" else []
    for words in wrong:
        print(f"  not as promised: {words}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
