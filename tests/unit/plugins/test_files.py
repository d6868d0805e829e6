# SPDX-License-Identifier: GPL-3.0-or-later
# Module node_files: what must be written, what is shown, what is brought back.
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _files
from ansible_collections.zcluster.ha.plugins.module_utils._files import Change, Found, Wanted
from ansible_collections.zcluster.ha.plugins.modules import node_files


def wanted(content: bytes = b"new", mode: int = 0o644, **more: bool) -> Wanted:
    """A file as it should be."""
    return Wanted("/etc/a", content, mode, "root", "root", None, **more)


FOUND = Found(b"old", 0o644, "root", "root")


def test_file_that_is_as_it_should_be_is_no_change() -> None:
    there = {"/etc/a": Found(b"new", 0o644, "root", "root")}
    assert _files.changes([wanted()], ["/etc/b"], there) == []


@pytest.mark.parametrize(
    "found",
    [
        None,
        FOUND,
        Found(b"new", 0o600, "root", "root"),
        Found(b"new", 0o644, "daemon", "root"),
        Found(b"new", 0o644, "root", "daemon"),
    ],
)
def test_content_mode_owner_and_group_each_count(found: Found | None) -> None:
    there = {} if found is None else {"/etc/a": found}
    assert _files.changes([wanted()], [], there) == [Change("/etc/a", wanted(), found)]


def test_diff_shows_no_content_that_not_everybody_may_read() -> None:
    secret = _files.diff(Change("/etc/a", wanted(b"hidden", 0o600), FOUND))
    assert "hidden" not in secret["after"]
    assert secret["before"] == "old"
    long = _files.diff(Change("/etc/a", wanted(b"a program", shown=False), None))
    assert long["after"] == "(9 bytes, mode 0644)\n"


def test_checkpoint_remembers_what_was_there_first() -> None:
    first = _files.merge({}, [Change("/etc/a", wanted(b"1"), FOUND)], ["/etc/x"])
    second = _files.merge(first, [Change("/etc/a", wanted(b"2"), Found(b"1", 0o644, "r", "r"))], [])
    (change,) = _files.restoring(second, {"/etc/a": Found(b"2", 0o644, "root", "root")})
    assert change.wanted is not None
    assert change.wanted.content == b"old"
    assert second["directories"] == ["/etc/x"]


def test_torn_checkpoint_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_files, "CHECKPOINTS", str(tmp_path))
    node_files._keep("create", {"files": []})
    assert node_files._kept("create") == {"files": []}
    assert [path.name for path in tmp_path.iterdir()] == ["create.json"]
    (tmp_path / "create.json").write_text('{"fil')
    assert node_files._kept("create") == {}


def test_what_an_unfinished_run_wrote_counts_as_changed_in_the_next() -> None:
    kept = _files.merge({}, [Change("/etc/a", wanted(), None)], [])
    assert _files.unfinished(kept, ["/etc/a", "/etc/b"]) == ["/etc/a"]
    assert _files.unfinished({}, ["/etc/a", "/etc/b"]) == []


def test_file_that_was_not_there_is_removed_again() -> None:
    kept = _files.merge({}, [Change("/etc/a", wanted(), None)], [])
    assert _files.restoring(kept, {"/etc/a": FOUND}) == [Change("/etc/a", None, FOUND)]


def test_parents_are_made_outermost_first() -> None:
    assert _files.parents(["/a/b/c/d", "/a/b/e"], {"/a"}) == ["/a/b", "/a/b/c"]


@pytest.mark.parametrize("text", ["rw", "99", "17777", "-1", ""])
def test_bad_mode_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="octal string"):
        _files.parse_mode(text)
