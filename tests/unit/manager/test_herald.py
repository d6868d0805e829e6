# SPDX-License-Identifier: GPL-3.0-or-later
# Who is told how the node is: one that cannot be told keeps nobody else from it.
from __future__ import annotations

from typing import Any

import pytest
from zclustermanager import herald, hooks, journal, observe, status
from zclustermanager.peer import PeerError
from zclustermanager.settings import Cluster

ANSWER = {
    "cluster": "web",
    "hostname": "n1",
    "role": "master",
    "status": "ok",
    "sync": "in sync",
    "checks": [],
    "peer": {"hostname": "n2", "reachable": True, "trusted": True},
}


def refuse(error: Exception) -> Any:
    """Something that fails whenever it is asked."""

    def call(*_: object) -> None:
        raise error

    return call


def test_full_disk_and_a_peer_that_refuses_keep_no_hook_from_being_called(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster
) -> None:
    recorded: list[tuple[str, str]] = []
    called: list[str] = []
    monkeypatch.setattr(journal, "record", lambda event, **d: recorded.append((event, d["why"])))
    monkeypatch.setattr(hooks.Hooks, "__init__", lambda _: None)
    monkeypatch.setattr(hooks.Hooks, "tell", lambda *given: called.append(given[1]))
    monkeypatch.setattr(observe, "look", lambda _: None)
    monkeypatch.setattr(status, "decide", lambda *_: ANSWER)
    told = herald.Herald(cluster)
    monkeypatch.setattr(told, "_write_metrics", refuse(OSError("No space left on device")))
    monkeypatch.setattr(told.exchange, "run", refuse(PeerError("n2: its disk is full")))
    for _ in range(2):
        assert told._tell()
    assert called == ["master", "master"]
    assert recorded == [
        ("herald-failed", "metrics: No space left on device"),
        ("herald-failed", "events for the peer: n2: its disk is full"),
    ]
