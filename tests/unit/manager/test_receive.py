# SPDX-License-Identifier: GPL-3.0-or-later
# The receiving gate: whatever the peer's key sends, it is answered or refused, never believed.
from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from zclustermanager import receive
from zclustermanager.settings import Cluster
from zclustermanager.sync import offers, tree


def answer(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, first: bytes, body: bytes = b""
) -> dict[str, Any]:
    """What the gate says to a first line and a body."""
    out = io.StringIO()
    monkeypatch.setattr(receive, "_first_line", lambda: first)
    monkeypatch.setattr(receive, "load", lambda: cluster)
    stdin = SimpleNamespace(buffer=io.BytesIO(body))
    streams = SimpleNamespace(stdin=stdin, stdout=out, stderr=io.StringIO())
    monkeypatch.setattr(receive, "sys", streams)
    monkeypatch.setattr(receive.session, "sys", streams)
    assert receive.main() == 0
    said: dict[str, Any] = json.loads(out.getvalue())
    return said


@pytest.mark.parametrize(
    ("first", "body", "words"),
    [
        (b"not json\n", b"", "Expecting value"),
        (b"[1]\n", b"", "mapping"),
        (b'{"command": 7}\n', b"", "is not allowed"),
        (b'{"command": "id"}\n', b"", "is not allowed"),
        (b'{"command": "fetch"}\n', b"x" * ((1 << 20) + 1), "more than 1048576 bytes"),
        (b'{"command": "offer"}\n', b"[" * 100_000, "recursion"),
        (b'{"command": "fetch"}\n', b"[]", "indices"),
    ],
)
def test_nonsense_is_refused_in_words(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, first: bytes, body: bytes, words: str
) -> None:
    assert words in answer(monkeypatch, cluster, first, body)["error"]


def test_file_that_is_being_written_is_no_failure_of_the_node(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> dict[str, Any]:
        raise tree.UnstableError("/etc/a changes while it is read")

    monkeypatch.setitem(receive.HANDLERS, "generation", busy)
    said = answer(monkeypatch, cluster, b'{"command": "generation"}\n')
    assert said == {"error": "/etc/a changes while it is read", "passing": True}


@pytest.mark.parametrize(
    "command",
    [
        "rsync --server -rSWe.LsfxCIvu . " + "0" * 32 + "/",
        "rsync --server -rSWe.LsfxCIvu --timeout=30 . " + "0" * 32 + "/",
    ],
)
def test_rsync_may_fill_a_stage(command: str) -> None:
    assert receive.parse(command) == ("rsync", "0" * 32)


@pytest.mark.parametrize("timeout", ["", " --timeout=0", " --timeout=99999"])
def test_for_how_long_nothing_may_come_is_not_for_the_peer_to_say(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, timeout: str
) -> None:
    run = []

    def execute(program: str, words: list[str]) -> None:
        run.append((program, words))
        raise RuntimeError  # a program that was executed does not come back

    monkeypatch.setattr(receive.os, "chdir", lambda _: None)
    monkeypatch.setattr(receive.os, "execvp", execute)
    command = f"rsync --server -rSWe.LsfxCIvu{timeout} . {'0' * 32}/"
    answer(monkeypatch, cluster, json.dumps({"command": command}).encode())
    ((program, words),) = run
    where = f"/var/lib/zcluster/incoming/{'0' * 32}/blobs/"
    assert program == "rsync"
    assert words == ["rsync", "--server", "-rSWe.LsfxCIvu", "--timeout=30", ".", where]


@pytest.mark.parametrize(
    "field",
    [
        {"mode": "x"},
        {"mode": 0o10000},
        {"mode": True},
        {"owner": 0},
        {"mtime_ns": 1 << 63},
        {"mtime_ns": "0"},
        {"path": "/etc/haproxy/a\0b"},
        {"xattrs": {"user.x": "zz"}},
        {"xattrs": {"user.x": 7}},
        {"xattrs": {"nonsense": "00"}},
        {"xattrs": []},
        {"kind": ["file"]},
    ],
)
def test_entry_with_a_field_that_no_disk_takes_is_refused_before_anything_is_written(
    cluster: Cluster, field: dict[str, Any]
) -> None:
    root = tree.Entry("/etc/haproxy", "directory", 0o755, "root", "root")
    entry = vars(tree.Entry("/etc/haproxy/a", "file", 0o644, "root", "root", "0" * 64)) | field
    manifest = {root.path: root, entry["path"]: tree.Entry(**entry)}
    document = {
        "cluster": "web",
        "generation": {"id": "0" * 32, "ancestors": [], "digest": tree.digest(manifest)},
        "manifest": tree.dump(manifest),
    }
    with pytest.raises((offers.OfferError, TypeError)):
        offers.undump(document, cluster)


@pytest.mark.parametrize("bad", ["/../../x", "0" * 31, "G" * 32, 7])
def test_generation_with_an_id_that_no_node_gives_is_refused(cluster: Cluster, bad: object) -> None:
    for generation in (
        {"id": bad, "ancestors": [], "digest": ""},
        {"id": "0" * 32, "ancestors": [bad], "digest": ""},
    ):
        with pytest.raises(offers.OfferError, match="no node gives"):
            offers.undump({"cluster": "web", "generation": generation, "manifest": []}, cluster)
