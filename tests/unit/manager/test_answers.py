# SPDX-License-Identifier: GPL-3.0-or-later
# The daemon answers who asks by a look made for them; a dead, stopped or older one is no answer.
from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import __main__ as command_line
from zclustermanager import answers, asking, keepalived, relay, settings
from zclustermanager.answers import Answers

Serve = Callable[[Callable[[socket.socket], None]], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Answer on a socket as this function does; where it is."""
    with ExitStack() as stack:

        def begin(answer: Callable[[socket.socket], None]) -> Path:
            path = tmp_path / f"{len(list(tmp_path.glob('*.sock')))}.sock"
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            listener.bind(str(path))
            listener.listen(16)

            def loop() -> None:
                while True:
                    try:
                        link, _ = listener.accept()
                    except OSError:
                        return
                    answer(link)

            threading.Thread(target=loop, daemon=True).start()
            # accept() does not end by close() alone
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return path

        yield begin


def saying(
    *parts: bytes, pause: float = 0.0, asked: bool = True
) -> Callable[[socket.socket], None]:
    """What reads the request, if it is asked anything, says these parts, then closes."""

    def answer(link: socket.socket) -> None:
        with link:
            while asked and link.recv(4096):
                pass
            for number, part in enumerate(parts):
                time.sleep(pause if number else 0)
                link.sendall(part)

    return answer


def stopped(link: socket.socket) -> None:
    """A stopped process: the kernel takes the connection, nobody answers."""
    silent.append(link)


silent: list[socket.socket] = []


def at(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(asking, "SOCKET", str(path))


def test_an_answer_may_take_longer_than_the_sign_of_life(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, serve(saying(answers.LIVES, b'{"status": {"role": "master"}}', pause=1.5)))
    assert asking.ask({"status": True}, timeout=1.0, patience=30.0) == {
        "status": {"role": "master"}
    }
    assert asking.status() == {"role": "master"}


def test_a_daemon_that_is_dead_stopped_older_or_busy_gives_no_status(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at(monkeypatch, tmp_path / "nowhere")
    assert asking.status() is None
    at(monkeypatch, serve(stopped))
    assert asking.ask({"status": True}, timeout=0.1, patience=30.0) is None
    at(monkeypatch, serve(saying(b'{"at": 1.0, "role": "master", "sync": {}}')))
    assert asking.status() is None
    at(monkeypatch, serve(saying()))
    assert asking.status() is None
    at(monkeypatch, serve(saying(answers.LIVES, b'{"status": {"ro')))
    assert asking.status() is None


def test_without_a_daemons_answer_the_command_looks_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at(monkeypatch, tmp_path / "nowhere")
    monkeypatch.setattr(command_line, "load", lambda: None)
    assert command_line.main(["status", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["message"] == "Cluster not configured"


def connected() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def all_of(link: socket.socket) -> bytes:
    link.settimeout(30)
    with link:
        return b"".join(iter(lambda: link.recv(65536), b""))


def test_each_who_asks_gets_a_look_of_their_own(
    cluster: settings.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "load", lambda: cluster)
    looks: list[str] = []

    def look(seen: settings.Cluster) -> dict[str, Any]:
        looks.append(seen.name)
        return {"look": len(looks)}

    giver = Answers(look)
    for number in (1, 2):
        mine, theirs = connected()
        giver.give(theirs)
        said = all_of(mine)
        assert said.startswith(answers.LIVES)
        assert json.loads(said) == {"look": number}
    assert looks == [cluster.name] * 2


def test_the_loop_never_waits_for_a_look_and_too_many_are_sent_away(
    cluster: settings.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "load", lambda: cluster)
    go = threading.Event()

    def slow(_: settings.Cluster) -> dict[str, Any]:
        go.wait(30)
        return {}

    giver = Answers(slow)
    pairs = [connected() for _ in range(answers.MOST + 1)]
    for _, theirs in pairs:
        giver.give(theirs)  # returns although none is answered yet
    assert all_of(pairs[-1][0]) == b""
    go.set()
    assert [all_of(mine) for mine, _ in pairs[:-1]] == [b"\n{}\n"] * answers.MOST
    # a look that fails frees its place, and is no answer
    monkeypatch.setattr(answers, "load", lambda: None)
    for _ in range(answers.MOST + 1):
        mine, theirs = connected()
        giver.give(theirs)
        assert all_of(mine) == answers.LIVES


def test_a_ping_is_answered_by_the_daemon_if_it_can(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(relay, "ALIVE", 30.0)
    monkeypatch.setattr(
        relay, "PING", str(serve(saying(answers.LIVES, b'{"master": true}\n', asked=False)))
    )
    assert json.loads(relay.pinged()) == {"master": True}
    monkeypatch.setattr(relay, "ALIVE", 0.2)
    for path in (
        tmp_path / "nowhere",
        serve(stopped),
        serve(saying(asked=False)),
        serve(saying(answers.LIVES, asked=False)),
        serve(saying(answers.LIVES, b'{"master": tr', asked=False)),
    ):
        monkeypatch.setattr(relay, "PING", str(path))
        assert relay.pinged() == b"", "the receiver has to answer"


def test_the_pid_file_of_a_keepalived_that_was_killed_names_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal must never go to the process that has the number now."""
    file = tmp_path / "keepalived.pid"
    file.write_text("4711\n")
    (tmp_path / "4711").mkdir()
    asked: list[object] = []

    def systemctl(words: object) -> keepalived.processes.Outcome:
        asked.append(words)
        return keepalived.processes.Outcome(0, "0\n", "")

    monkeypatch.setattr(keepalived.processes, "run", systemctl)
    (tmp_path / "4711/cgroup").write_text("0::/system.slice/keepalived.service\n")
    assert keepalived.main_pid(file, tmp_path) == 4711
    assert not asked
    (tmp_path / "4711/cgroup").write_text("0::/system.slice/cron.service\n")
    assert keepalived.main_pid(file, tmp_path) == 0
    assert len(asked) == 1


def test_keepalived_that_only_starts_is_not_sent_the_signal_that_would_end_it(
    tmp_path: Path,
) -> None:
    """A process that has just begun, as the kernel shows it, and one that waits for signal 36."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1/status").write_text(
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000000\n"
    )
    (tmp_path / "2").mkdir()
    (tmp_path / "2/status").write_text(
        "SigBlk:\t4000000800014a03\nSigIgn:\tbffffff67ffab034\nSigCgt:\t0000000000000000\n"
    )
    assert not keepalived.listens(1, 36, tmp_path)
    assert keepalived.listens(2, 36, tmp_path)
    assert not keepalived.listens(2, 37, tmp_path)
    assert not keepalived.listens(3, 36, tmp_path)


def test_a_process_that_starts_is_waited_for_and_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: it blocks the signal a moment after it began, as keepalived does."""
    late = "from time import sleep; sleep(0.5); from signal import *;"
    late += "pthread_sigmask(SIG_BLOCK, [36]); sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", late])
    try:
        monkeypatch.setattr(keepalived, "main_pid", lambda: process.pid)
        monkeypatch.setattr(keepalived, "signal_number", lambda: 36)
        monkeypatch.setattr(keepalived.durable, "locked", lambda _: contextlib.nullcontext())
        assert "does not answer" in keepalived.ask(timeout=2.0).why
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
