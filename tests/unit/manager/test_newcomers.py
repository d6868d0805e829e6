# SPDX-License-Identifier: GPL-3.0-or-later
# How a network that is new comes into a heartbeat that serves: master first, then in the group.
from __future__ import annotations

from pathlib import Path

import pytest
from zclustermanager import keepalived, newcomers, processes, takeover
from zclustermanager.keepalived import Instance, Keepalived, State
from zclustermanager.processes import Outcome
from zclustermanager.takeover import RefusedError

BESIDE = "vrrp_sync_group zcluster {\n}\nvrrp_instance eth1 {\n}\nvrrp_instance eth0 {\n}\n"
DONE = Outcome(0, "", "")


def heartbeat(**states: State) -> Keepalived:
    """keepalived as it says of itself."""
    return Keepalived(True, tuple(Instance(name, state, 254) for name, state in states.items()))


SERVES = heartbeat(eth0=State.MASTER)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """keepalived's file; nobody waits."""
    path = tmp_path / "keepalived.conf"
    path.write_text("as it is to be\n")
    path.chmod(0o644)
    monkeypatch.setattr(takeover, "PAUSE", 0.0)
    monkeypatch.setattr(takeover, "TAKE_OVER", 0.05)
    return path


def answers(monkeypatch: pytest.MonkeyPatch, *seen: Keepalived, reload: Outcome = DONE) -> None:
    """What keepalived says, one answer after the other, the last again and again."""
    left = list(seen)
    monkeypatch.setattr(keepalived, "ask", lambda _: left.pop(0) if len(left) > 1 else left[0])
    monkeypatch.setattr(processes, "run", lambda *_, **__: reload)


def test_new_network_is_master_before_it_joins(monkeypatch: pytest.MonkeyPatch, told: Path) -> None:
    read: list[str] = []

    def reload(*_: object, **__: object) -> Outcome:
        read.append(told.read_text())
        return DONE

    both = heartbeat(eth0=State.MASTER, eth1=State.MASTER)
    answers(monkeypatch, SERVES, heartbeat(eth0=State.MASTER, eth1=State.BACKUP), both)
    monkeypatch.setattr(processes, "run", reload)
    newcomers.introduce(BESIDE, told)
    assert read == [BESIDE]
    assert told.read_text() == "as it is to be\n"
    assert told.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("seen", "reload", "words"),
    [
        (heartbeat(eth0=State.MASTER, eth1=State.FAULT), DONE, "does not become master on eth1"),
        (SERVES, Outcome(1, "", "bad file\n"), "keepalived does not reload: bad file"),
        (Keepalived(True, why="no answer"), DONE, "where this node serves is not known: no answer"),
    ],
)
def test_what_cannot_join_is_said_and_the_file_is_as_before(
    monkeypatch: pytest.MonkeyPatch, told: Path, seen: Keepalived, reload: Outcome, words: str
) -> None:
    answers(monkeypatch, seen, reload=reload)
    with pytest.raises(RefusedError, match=words):
        newcomers.introduce(BESIDE, told)
    assert told.read_text() == "as it is to be\n"


def test_node_that_does_not_serve_has_nothing_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, Keepalived(False, why="keepalived is not running"))
    assert newcomers.serves_on() == set()
    answers(monkeypatch, heartbeat(eth0=State.FAULT, eth1=State.BACKUP))
    assert newcomers.serves_on() == set()
    answers(monkeypatch, SERVES)
    assert newcomers.serves_on() == {"eth0"}
