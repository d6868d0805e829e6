# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of ssh, become and Ansible, and the obstacle they stand for."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _records, _view
from ansible_collections.zcluster.ha.plugins.module_utils._view import Obstacle

WORDS = {
    "ssh: connect to host 198.18.10.12 port 22: Connection refused": Obstacle.NETWORK,
    "ssh: connect to host 198.18.10.12 port 22: No route to host": Obstacle.NETWORK,
    "Connection timed out during banner exchange": Obstacle.NETWORK,
    "kex_exchange_identification: Connection closed by remote host": Obstacle.NETWORK,
    "root@198.18.10.12: Permission denied (publickey,password).": Obstacle.LOGIN,
    "Invalid/incorrect password: Permission denied, please try again.": Obstacle.LOGIN,
    "Received disconnect: 2: Too many authentication failures": Obstacle.LOGIN,
    "Host key verification failed.": Obstacle.HOST_KEY,
    "Please add this host's fingerprint to your known_hosts file": Obstacle.HOST_KEY,
    "Could not resolve hostname n2: Temporary failure in name resolution": Obstacle.NAME,
    "Missing sudo password": Obstacle.ROOT,
    "Incorrect sudo password": Obstacle.ROOT,
    "Timeout (12s) waiting for privilege escalation prompt: ": Obstacle.ROOT,
    "bob is not in the sudoers file.": Obstacle.ROOT,
    "The module interpreter '/usr/bin/python3' was not found.": Obstacle.PYTHON,
    "/bin/sh: 1: /usr/bin/python3: not found": Obstacle.PYTHON,
    "no idea": Obstacle.OTHER,
}


@pytest.mark.parametrize("words", WORDS)
def test_obstacle(words: str) -> None:
    assert _view.obstacle(words) is WORDS[words]


@pytest.mark.parametrize("probe", [None, {}, "what", []])
def test_a_host_without_a_result_was_left_out(probe: Any) -> None:
    looked = _view.look(probe)
    assert isinstance(looked, _view.Unseen)
    assert looked.obstacle is Obstacle.LEFT_OUT


def test_what_is_said_is_kept_short_and_without_ansibles_frame() -> None:
    looked = _view.look({"failed": True, "msg": "Task failed: out\nof   cheese " + "x" * 500})
    assert isinstance(looked, _view.Unseen)
    assert looked.words.startswith("out of cheese xxx")
    assert len(looked.words) <= 300


def test_an_observation_of_another_shape_is_an_error_with_its_path(pair: Any) -> None:
    pair.n1["interfaces"][0]["index"] = "two"
    with pytest.raises(_records.RecordError, match=r"observation/interfaces/0/index: expected int"):
        pair.findings()


def test_a_missing_field_is_named(pair: Any) -> None:
    del pair.n1["system"]["hostname"]
    with pytest.raises(_records.RecordError, match=r"observation/system/hostname: missing"):
        pair.findings()
