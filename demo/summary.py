# SPDX-License-Identifier: GPL-3.0-or-later
"""The demonstration in words: `master` of the nodes, or what a client `noticed`, from JSON."""

from __future__ import annotations

import json
import sys
from typing import Any


def master(document: Any) -> str:
    """The hostname of the node that serves."""
    nodes = document["nodes"] if isinstance(document, dict) else document
    found = [node["hostname"] for node in nodes if node["role"] == "master"]
    if len(found) != 1:
        raise SystemExit(f"there is not exactly one master: {', '.join(found) or 'none'}")
    hostname: str = found[0]
    return hostname


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


def main() -> int:
    """Read JSON, print words."""
    print({"master": master, "noticed": noticed}[sys.argv[1]](json.load(sys.stdin)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
