# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets show themselves to nobody, and reach exactly one reader."""

from __future__ import annotations

import json
import os
import pickle
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster_runner.secret import HIDDEN, LONGEST_SECRET, Redactor, Secret, SecretFifo


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2-canary")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


@pytest.mark.parametrize("value", ["", "two\nlines", "carriage\r", "nul\0", "x" * 1025])
def test_what_cannot_be_a_password_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="password"):
        Secret(value)


def test_the_longest_secret_reaches_its_reader_whole(tmp_path: Path) -> None:
    value = "\x01" * LONGEST_SECRET  # the worst case: JSON writes six bytes for each
    fifo = SecretFifo(tmp_path / "fifo", {"name": Secret(value)})
    reader = os.open(fifo.path, os.O_RDONLY | os.O_NONBLOCK)
    assert fifo.offer()
    got = os.read(reader, 1 << 16)
    os.close(reader)
    assert json.loads(got)["name"]["__ansible_unsafe"] == value


def test_offering_without_a_reader_does_not_block(tmp_path: Path) -> None:
    fifo = SecretFifo(tmp_path / "fifo", {"name": Secret("value")})
    assert stat.S_IMODE((tmp_path / "fifo").stat().st_mode) == 0o600
    assert fifo.offer() is False
    assert not fifo.delivered


def test_one_reader_gets_it_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    fifo = SecretFifo(path, {"name": Secret("va{{lue")})
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(path.read_text()))
    reader.start()
    while not fifo.offer():
        pass
    reader.join(5)
    assert json.loads(got[0]) == {"name": {"__ansible_unsafe": "va{{lue"}}
    assert fifo.delivered
    assert not path.exists()
    assert fifo.offer() is True


def test_closing_forgets_the_secret(tmp_path: Path) -> None:
    fifo = SecretFifo(tmp_path / "fifo", {"name": Secret("value")})
    fifo.close()
    assert not fifo.path.exists()
    assert fifo.delivered


@given(st.text(min_size=6, max_size=40, alphabet=st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_redactor_hides_a_secret_however_it_is_written(value: str) -> None:
    redactor = Redactor([Secret(value)])
    for spelling in (value, json.dumps(value), json.dumps(value, ensure_ascii=False)):
        hidden = redactor.text(f"before {spelling} after")
        assert value not in hidden.replace(HIDDEN, "")
        assert "before" in hidden or "before" in value or value in "before "


def test_a_redactor_goes_through_structures() -> None:
    redactor = Redactor([Secret("hunter2-canary")])
    structure = {"a": ["x hunter2-canary", 3, None], "hunter2-canary": True}
    assert redactor.structure(structure) == {"a": [f"x {HIDDEN}", 3, None], HIDDEN: True}


def test_a_short_secret_is_hidden_as_a_word_only() -> None:
    redactor = Redactor([Secret("abc")])
    assert redactor.text("abc, 'abc' and abcd") == f"{HIDDEN}, '{HIDDEN}' and abcd"


def test_without_secrets_nothing_is_touched() -> None:
    assert Redactor().text("anything") == "anything"
