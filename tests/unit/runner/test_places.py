# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a variable of one host stands in the inventory's files, or could: nobody else's line."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from zcluster_runner import places

HOSTS = Path("/web/hosts.yml")
BLOCKS = """\
all:
  children:
    web:
      vars: {zcluster_name: web}
      hosts:
        lb1:
          ansible_host: 192.0.2.11
          zcluster_ip: 198.51.100.11
        "lb2":
          # Its address on the cluster link.
          zcluster_ip: 198.51.100.12  # eth2
        lb3: {zcluster_ip: 198.51.100.13}  # the third
        lb4:
    rest:
      hosts:
        lb5: {ansible_password: hush}
"""
NEW = '"192.0.2.99"'


def tried(host: str, variable: str, text: str = BLOCKS, path: Path = HOSTS) -> list[list[str]]:
    """The lines that each candidate removes and adds."""
    lines = text.splitlines(keepends=True)
    return [
        [
            line
            for line in difflib.unified_diff(
                text.splitlines(), new[path].splitlines(), lineterm="", n=0
            )
            if line[0] in "+-" and line[1:3] not in ("--", "++")
        ]
        for new in places.of_host({path: lines}, host, variable, "192.0.2.99")
    ]


@pytest.mark.parametrize(
    ("host", "variable", "first"),
    [
        (
            "lb1",
            "ansible_host",
            ["-          ansible_host: 192.0.2.11", f"+          ansible_host: {NEW}"],
        ),
        (
            "lb2",
            "zcluster_ip",
            [
                "-          zcluster_ip: 198.51.100.12  # eth2",
                f"+          zcluster_ip: {NEW}  # eth2",
            ],
        ),
        ("lb2", "ansible_host", [f"+          ansible_host: {NEW}"]),
        (
            "lb3",
            "ansible_host",
            [
                "-        lb3: {zcluster_ip: 198.51.100.13}  # the third",
                '+        lb3: {"zcluster_ip": "198.51.100.13", "ansible_host": '
                f"{NEW}}}  # the third",
            ],
        ),
        ("lb4", "zcluster_ip", [f"+          zcluster_ip: {NEW}"]),
    ],
)
def test_line_of_the_host_itself_comes_first(host: str, variable: str, first: list[str]) -> None:
    assert tried(host, variable)[0] == first


def test_new_line_stands_below_the_hosts_key() -> None:
    lines = next(
        places.of_host({HOSTS: BLOCKS.splitlines(keepends=True)}, "lb2", "ansible_host", 1)
    )
    assert '        "lb2":\n          ansible_host: 1\n          # Its' in lines[HOSTS]


def test_line_with_a_secret_is_not_written_anew() -> None:
    assert tried("lb5", "ansible_host") == [[]]


def test_host_that_is_nowhere_has_no_place() -> None:
    assert tried("lb9", "ansible_host") == []


def test_hosts_own_file_takes_what_is_nowhere_yet() -> None:
    path = Path("/web/host_vars/lb2.yml")
    assert tried("lb2", "zcluster_ip", "ansible_host: 192.0.2.12", path) == [
        [f"+zcluster_ip: {NEW}"]
    ]
    assert tried("lb2", "ansible_host", "ansible_host: 192.0.2.12\n", path)[0] == [
        "-ansible_host: 192.0.2.12",
        f"+ansible_host: {NEW}",
    ]
