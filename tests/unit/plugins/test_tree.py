# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking through a path to synchronize: what is counted, whose it is, where it ends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _sync_paths, _tree
from ansible_collections.zcluster.ha.plugins.module_utils._tree import Bounds, Shipped

STOCK = b"stock\n"


def nobody_owns(arguments: Sequence[str]) -> tuple[int, str, str]:
    return 1, "", f"{arguments[-1]}: no path found"


def shipped(*files: Path) -> Shipped:
    known = {str(file): frozenset([hashlib.md5(STOCK).hexdigest()]) for file in files}
    return Shipped(known, nobody_owns)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "haproxy"
    (root / "errors").mkdir(parents=True)
    (root / "haproxy.cfg").write_bytes(STOCK)
    (root / "errors" / "503.http").write_bytes(b"gone\n")
    (root / "current").symlink_to("haproxy.cfg")
    return root


def test_entries_directories_and_bytes_are_counted(tree: Path) -> None:
    seen = _tree.look(str(tree), (), shipped())
    assert (seen.kind, seen.entries, seen.directories, seen.bytes) == ("directory", 5, 2, 11)
    assert seen.truncated == ""


def test_a_packages_unmodified_file_is_not_ones_own(tree: Path) -> None:
    seen = _tree.look(str(tree), (), shipped(tree / "haproxy.cfg", tree / "errors" / "503.http"))
    assert {(Path(file.path).name, file.origin) for file in seen.files} == {
        ("503.http", "modified"), ("current", "local"),
    }  # fmt: skip


def test_the_digest_follows_content_and_mode_but_not_time(tree: Path) -> None:
    first = _tree.look(str(tree), (), shipped()).digest
    (tree / "haproxy.cfg").write_bytes(STOCK)
    assert _tree.look(str(tree), (), shipped()).digest == first
    (tree / "haproxy.cfg").chmod(0o600)
    second = _tree.look(str(tree), (), shipped()).digest
    (tree / "haproxy.cfg").write_bytes(b"edited\n")
    assert len({first, second, _tree.look(str(tree), (), shipped()).digest}) == 3


def test_excluded_paths_and_patterns_are_left_out(tree: Path) -> None:
    seen = _tree.look(str(tree), (f"{tree}/errors", f"{tree}/*.cfg"), shipped())
    assert {Path(file.path).name for file in seen.files} == {"current"}


def test_a_file_and_a_missing_path_and_a_symlink(tree: Path) -> None:
    assert _tree.look(str(tree / "haproxy.cfg"), (), shipped()).kind == "file"
    assert _tree.look(str(tree / "nothing"), (), shipped()).kind == "missing"
    link = _tree.look(str(tree / "current"), (), shipped())
    assert (link.kind, link.target) == ("symlink", str((tree / "haproxy.cfg").resolve()))


@pytest.mark.parametrize(
    ("bounds", "word"),
    [
        (Bounds(entries=2), "more than 2 entries"),
        (Bounds(bytes=3), "more than 0 MiB"),
        (Bounds(seconds=-1), "not read within"),
    ],
)
def test_beyond_its_bounds_a_tree_has_no_digest(tree: Path, bounds: Bounds, word: str) -> None:
    seen = _tree.look(str(tree), (), shipped(), bounds)
    assert seen.digest == ""
    assert word in seen.truncated


def test_more_own_files_than_fit_are_told(tree: Path) -> None:
    seen = _tree.look(str(tree), (), shipped(), Bounds(files=1))
    assert len(seen.files) == 1
    assert seen.truncated == "more than 1 files of your own"


def test_what_dpkg_and_ucf_and_the_kernel_know() -> None:
    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        assert arguments == ["dpkg-query", "-W", "-f", "${Conffiles}\n"]
        return 0, "\n /etc/a 111\n /etc/b 222 obsolete\n newconffile\n", ""

    files = {
        "/var/lib/ucf/hashfile": "333  /etc/c\n",
        "/proc/self/mountinfo": "36 35 98:0 / /etc/my\\040dir rw,noatime - ext4 /dev/sda1 rw\n",
    }
    known = _tree.conffiles(run, files.get)
    assert known.is_unmodified("/etc/b", "222")
    assert known.is_unmodified("/etc/c", "333")
    assert not known.is_unmodified("/etc/a", "222")
    assert known.mounts == {"/etc/my dir"}


@pytest.mark.parametrize(
    "path",
    [
        "/", "/etc", "/var", "/var/lib", "/etc/zcluster", "/etc/zcluster/ssh", "/etc/keepalived",
        "/etc/network/interfaces", "/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/ssh",
        "/etc/fstab", "/var/lib/zcluster/x", "/proc", "/sys/fs", "/dev", "/run/haproxy", "/usr/lib",
        "etc", "", "/etc/../etc/haproxy", "/etc/haproxy/", "//etc/haproxy", "/etc/*",
    ],
)  # fmt: skip
def test_paths_that_are_never_synchronized(path: str) -> None:
    assert _sync_paths.refusal(path)


@pytest.mark.parametrize(
    "path", ["/etc/haproxy", "/etc/nftables.conf", "/srv/www", "/etc/systemd/system/x.service.d"]
)
def test_paths_that_may_be_synchronized(path: str) -> None:
    assert _sync_paths.refusal(path) == ""
