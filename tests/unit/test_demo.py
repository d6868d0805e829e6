# SPDX-License-Identifier: GPL-3.0-or-later
# What the demonstration says of a client's figures, and that it does not call bad ones good.
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "demo/summary.py"
GOOD = {
    "longest_gap_ms": 277.4,
    "pauses_ms": 12.0,
    "udp_sent": 6000,
    "udp_lost": 134,
    "tcp_wanted": 200,
    "tcp_opened": 200,
    "tcp_alive": 200,
    "tcp_reset": 0,
    "tcp_longest_stall_ms": 422.0,
    "http_ok": 203,
    "http_failed": 0,
}


def summary(what: str, document: Any) -> tuple[int, str]:
    words = [sys.executable, str(PROGRAM), what]
    done = subprocess.run(
        words, input=json.dumps(document), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_takeover_as_promised_is_five_lines_and_0() -> None:
    code, said = summary("noticed", GOOD)
    assert code == 0
    assert said.splitlines() == [
        "  longest silence           277 ms",
        "  datagrams lost            134 of 6000",
        "  TCP connections alive     200 of 200, 0 reset",
        "  longest stall of a stream 422 ms",
        "  HTTP through haproxy      203 of 203 answered",
    ]


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"tcp_opened": 0, "tcp_alive": 0}, "connections could not be opened"),
        ({"tcp_alive": 199}, "connections were lost"),
        ({"tcp_reset": 1}, "connections were lost"),
        ({"udp_lost": 6000}, "no datagram was answered"),
        ({"longest_gap_ms": 8000.0}, "a silence much longer than a takeover"),
        ({"http_ok": 0, "http_failed": 9}, "haproxy answered nothing"),
    ],
)
def test_a_broken_promise_is_named_and_1(figures: dict[str, float], words: str) -> None:
    code, said = summary("noticed", GOOD | figures)
    assert code == 1
    assert said.splitlines()[5:] == [f"  not as promised: {words}"]


def test_a_pause_of_the_measuring_client_is_no_silence() -> None:
    assert summary("noticed", GOOD | {"longest_gap_ms": 8000.0, "pauses_ms": 7800.0})[0] == 0


def test_the_master_is_the_one_node_that_serves() -> None:
    pair = [{"hostname": "n1", "role": "backup"}, {"hostname": "n2", "role": "master"}]
    assert summary("master", {"nodes": pair}) == (0, "n2\n")
    code, said = summary("master", [{**node, "role": "master"} for node in pair])
    assert code == 1
    assert said == "there is not exactly one master: n1, n2\n"


def test_the_virtual_addresses_are_the_labs_own() -> None:
    status = {"vips": {"front": "10.97.10.100/24", "front_proxy": "10.97.10.101/24"}}
    assert summary("vips", status) == (0, "10.97.10.100 10.97.10.101\n")
