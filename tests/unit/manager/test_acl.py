# SPDX-License-Identifier: GPL-3.0-or-later
# Access lists travel by name: the numbers of two installations differ.
from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from zclustermanager.sync import tree

# user::rw- user:1:r-- user:2:rw- group::r-- group:3:r-- mask::rw- other::---
ENTRIES = [(1, 6, -1), (2, 4, 1), (2, 6, 2), (4, 4, -1), (8, 4, 3), (16, 6, -1), (32, 0, -1)]


def raw(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node on which the same names have other numbers."""
    numbers = {"daemon": 72, "bin": 71, "sys": 73}
    monkeypatch.setattr(tree, "uid", numbers.get)
    monkeypatch.setattr(tree, "gid", numbers.get)


def test_list_is_read_by_name_and_written_with_the_numbers_of_the_node(elsewhere: None) -> None:
    text = tree._acl_text(raw(*ENTRIES))
    assert text == "1:6:,2:4:daemon,2:6:bin,4:4:,8:4:sys,10:6:,20:0:"
    written = list(struct.iter_unpack("<HHi", tree._acl_bytes(text)[4:]))
    assert written[1:3] == [(2, 6, 71), (2, 4, 72)]
    assert written[4] == (8, 4, 73)


def test_list_of_a_real_file_is_carried_over(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("x")
    two.write_text("x")
    try:
        os.setxattr(one, "system.posix_acl_access", raw(*ENTRIES))
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")
    scanner = tree.Scanner([str(one)], [])
    (entry,) = scanner.scan().values()
    assert tree.acl_names(entry) == ({"daemon", "bin"}, {"sys"})
    tree.dress(str(two), entry)
    assert os.getxattr(two, "system.posix_acl_access") == raw(*ENTRIES)
    assert two.stat().st_mode == one.stat().st_mode


@pytest.mark.parametrize("value", ["zz", "1:9:", "1:6", 7, "1:6:,x"])
def test_list_that_no_scan_could_have_read_is_not_sound(value: object) -> None:
    assert not tree.sound_xattr("system.posix_acl_access", value)
