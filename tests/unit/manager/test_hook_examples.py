# SPDX-License-Identifier: GPL-3.0-or-later
# The hooks that are ready-made: a problem and its end reach whoever is to know, as one matter.
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer
from threading import Thread

import pytest

EXAMPLES = Path(__file__).parents[3] / "docs/examples/hooks"
ABOUT = {
    "ZCLUSTER_CLUSTER": "web",
    "ZCLUSTER_NODE": "n1",
    "ZCLUSTER_PEER": "n2",
    "ZCLUSTER_ROLE": "master",
    "ZCLUSTER_STATUS": "failure",
    "ZCLUSTER_CAUSE": "",
    "ZCLUSTER_TIME": "2026-01-01T12:00:00+0000",
    "ZCLUSTER_CONDITION": "conntrackd",
    "ZCLUSTER_MESSAGE": "Failed services: conntrackd",
}


def call(program: list[str], event: str, **more: str) -> int:
    """Run a hook as the daemon does; its exit code."""
    environment = {"PATH": os.environ["PATH"], **ABOUT, "ZCLUSTER_EVENT": event, **more}
    return subprocess.run(program, env=environment, timeout=30, check=False).returncode


class Receiver(TCPServer):
    """A webhook's other end: keeps what it is told, and answers as it is set to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers = 204
        self.told: list[dict[str, str]] = []


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Receiver

    def do_POST(self) -> None:
        """Keep it."""
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.answers)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """It listens on this machine while the test lasts."""
    with Receiver() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_webhook_raises_and_clears_by_one_key_and_fails_where_it_is_not_taken(
    receiver: Receiver, tmp_path: Path
) -> None:
    hook = tmp_path / "webhook.py"
    text = (EXAMPLES / "webhook.py").read_text(encoding="utf-8")
    address = f"http://127.0.0.1:{receiver.server_address[1]}/"
    hook.write_text(text.replace("https://alerts.example.org/zcluster", address), encoding="utf-8")
    program = [sys.executable, str(hook)]
    assert [call(program, "raise"), call(program, "clear")] == [0, 0]
    raised, cleared = receiver.told
    assert raised["key"] == cleared["key"] == "web/n1/conntrackd"
    assert (raised["event"], cleared["event"]) == ("raise", "clear")
    assert raised["message"] == "Failed services: conntrackd"
    receiver.answers = 500
    assert call(program, "raise") != 0


def test_mail_says_what_is_wrong_and_when_it_is_over(tmp_path: Path) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f"#!/bin/sh\ncat >> {tmp_path}/mails\n", encoding="utf-8")
    sendmail.chmod(0o755)
    hook = tmp_path / "mail.sh"
    text = (EXAMPLES / "mail.sh").read_text(encoding="utf-8")
    hook.write_text(text.replace("/usr/sbin/sendmail", str(sendmail)), encoding="utf-8")
    program = ["sh", str(hook)]
    assert call(program, "raise") == 0
    assert call(program, "clear") == 0
    assert call(program, "transition", ZCLUSTER_FROM="backup", ZCLUSTER_TO="master") == 0
    mails = (tmp_path / "mails").read_text(encoding="utf-8")
    assert "Subject: [web] PROBLEM on n1: conntrackd" in mails
    assert "Failed services: conntrackd" in mails
    assert "Subject: [web] over on n1: conntrackd" in mails
    assert "Subject: [web] n1: backup -> master" in mails
