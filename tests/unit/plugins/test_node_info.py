# SPDX-License-Identifier: GPL-3.0-or-later
# What a node said becomes its status; a node that cannot say it is red, never green.
from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from ansible_collections.zcluster.ha.plugins.modules import node_info

SAID = {"hostname": "n1", "role": "backup", "status": "maintenance", "message": "Node in …"}


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_every_colour_is_an_answer(code: int) -> None:
    assert node_info.interpret((code, json.dumps(SAID), "a warning"), "n1") == SAID


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ((1, "", "Traceback …\nImportError: no ssl\n"), "ImportError: no ssl"),
        ((0, "no json", ""), "no json"),
        ((127, json.dumps(SAID), "not found"), "not found"),
        ((-9, "", ""), "-9"),
    ],
)
def test_a_manager_that_cannot_answer_is_red_and_says_why(
    outcome: tuple[int, str, str], words: str
) -> None:
    said = node_info.interpret(outcome, "n1")
    assert (said["status"], said["role"], said["hostname"]) == ("failure", "fault", "n1")
    assert said["message"] == f"zclustermanager cannot answer: {words}"


def test_both_answers_have_the_same_fields() -> None:
    assert set(node_info.not_configured("n1")) == set(node_info.interpret((1, "", ""), "n1"))
    assert node_info.not_configured("n1")["status"] == "not configured"


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ((b"\n", json.dumps({"status": SAID}).encode()), SAID),
        ((b'{"at": 1.0, "role": "master"}',), None),
        ((b"\n",), None),
        ((b'\n{"status": {"role"',), None),
        ((b"[]",), None),
    ],
)
def test_the_daemon_is_asked_first_and_what_is_no_status_is_no_answer(
    tmp_path: Path, parts: tuple[bytes, ...], answer: object
) -> None:
    path = str(tmp_path / "manager.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                assert json.loads(link.recv(4096)) == {"status": True}
                for part in parts:
                    link.sendall(part)

        daemon = threading.Thread(target=serve)
        daemon.start()
        assert node_info.asked(path) == answer
        daemon.join()
    assert node_info.asked(path) is None
