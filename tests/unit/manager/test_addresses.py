# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's addresses, as the kernel tells them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess

import pytest
from zclustermanager import addresses
from zclustermanager.addresses import ADDRESS, ATTRIBUTE, HEADER


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    padded = body + bytes(-len(body) % 4)
    return HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + padded


def address(family: int, **attributes: str) -> bytes:
    numbers = {"address": addresses.IFA_ADDRESS, "local": addresses.IFA_LOCAL}
    body = ADDRESS.pack(family, 24, 0, 0, 2)
    for name, text in attributes.items():
        value = socket.inet_pton(family, text)
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(value), numbers[name]) + value
    return message(addresses.RTM_NEWADDR, body)


DONE = message(addresses.NLMSG_DONE, bytes(4))


def test_the_nodes_end_of_a_tunnel_is_its_own_address() -> None:
    dump = (
        address(socket.AF_INET, address="198.18.10.11", local="198.18.10.11")
        + address(socket.AF_INET, address="198.18.99.2", local="198.18.99.1")
        + address(socket.AF_INET6, address="2001:db8::1")
    )
    assert addresses.parse(dump) == ({"198.18.10.11", "198.18.99.1", "2001:db8::1"}, False)
    assert addresses.parse(dump + DONE)[1]


def test_a_list_that_changed_while_it_was_told_does_not_count() -> None:
    dump = message(addresses.NLMSG_DONE, bytes(4), addresses.NLM_F_DUMP_INTR)
    with pytest.raises(addresses.DumpInterruptedError):
        addresses.parse(dump)


def test_the_kernels_error_is_an_error_and_not_an_empty_list() -> None:
    with pytest.raises(OSError, match="told no addresses"):
        addresses.parse(message(addresses.NLMSG_ERROR, (-1).to_bytes(4, "little", signed=True)))


@pytest.mark.parametrize(("state", "answered"), [("REACHABLE", True), ("STALE", False)])
def test_only_a_neighbour_that_has_just_answered_counts(state: str, answered: bool) -> None:
    entry = {"dst": "198.18.10.100", "dev": "eth0", "lladdr": "02:00:00:00:00:01", "state": [state]}
    assert addresses.resolved(json.dumps([entry])) is answered
    assert not addresses.resolved("")


@pytest.mark.skipif(not shutil.which("ip"), reason="compares with iproute2")
def test_the_kernel_tells_what_ip_shows() -> None:
    shown = subprocess.run(["ip", "-j", "address"], capture_output=True, check=True, text=True)
    expected = {i["local"] for link in json.loads(shown.stdout) for i in link["addr_info"]}
    assert addresses.present() == expected
