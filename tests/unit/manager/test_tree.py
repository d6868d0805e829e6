# SPDX-License-Identifier: GPL-3.0-or-later
# A scan with a watch costs what changed, and finds what a scan of everything finds.
from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from zclustermanager.sync import inotify, tree
from zclustermanager.sync.stage import outside
from zclustermanager.sync.tree import Entry, Hints, Listing, Scanner


@pytest.fixture
def watcher() -> Iterator[inotify.Watcher]:
    with contextlib.closing(inotify.Watcher()) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A synchronized directory, and one beside it that is not."""
    (tmp_path / "beside").mkdir()
    top = tmp_path / "top"
    (top / "a/deep").mkdir(parents=True)
    (top / "a/one").write_text("1")
    (top / "a/deep/two").write_text("2")
    return top


def fresh(scanner: Scanner) -> tree.Manifest:
    """What somebody finds who knows nothing."""
    return Scanner(scanner.roots, scanner.excludes).scan()


def agree(scanner: Scanner) -> None:
    found, wanted = scanner.scan(), fresh(scanner)
    assert tree.differing(found, wanted) == []
    assert found.digest == tree.digest(wanted)


def file(path: str, content: str = "x") -> Entry:
    return Entry(path, "file", 0o644, "root", "root", sha256=content * 64, size=1)


def test_digest_of_a_listing_that_was_changed_is_that_of_one_made_anew() -> None:
    chosen = random.Random(1)
    listing = Listing({})
    for _ in range(300):
        path = f"/r/{chosen.randrange(40)}"
        listing = listing.replaced({path: chosen.choice([None, file(path), file(path, "y")])})
        again = Listing(dict(listing))
        assert listing.digest == again.digest
        assert tree.digest(dict(listing)) == again.digest


def test_a_listing_stays_what_it_was_when_another_replaces_it() -> None:
    before = Listing({"/r/a": file("/r/a")})
    digest = before.digest
    after = before.replaced({"/r/a": None, "/r/b": file("/r/b")})
    assert (dict(before), before.digest) == ({"/r/a": file("/r/a")}, digest)
    assert Listing(dict(before)).digest == digest
    assert after.digest != digest


def test_only_what_the_watch_told_of_is_looked_at(
    root: Path, watcher: inotify.Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = Scanner([str(root)], [], watch=watcher)
    before = scanner.scan()
    looked: list[str] = []
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: looked.append(str(path)) or lstat(path))
    (root / "a/one").write_text("changed")
    after = scanner.scan()
    assert set(looked) == {str(root / "a/one")}
    assert tree.differing(before, after) == [str(root / "a/one")]
    assert after[str(root / "a/deep/two")] is before[str(root / "a/deep/two")]


def test_what_nobody_told_of_is_found_once_somebody_doubts(
    root: Path, watcher: inotify.Watcher
) -> None:
    scanner = Scanner([str(root)], [], watch=watcher)
    scanner.scan()
    (root / "a/one").write_text("changed")
    watcher.drain()  # as a queue that the kernel lost
    scanner.scan()
    scanner.doubt()
    agree(scanner)


def test_overflow_of_the_queue_means_to_look_everywhere(
    root: Path, watcher: inotify.Watcher
) -> None:
    scanner = Scanner([str(root)], [], watch=watcher)
    scanner.scan()
    for number in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2):
        os.utime(root / "a/one", (number, number))
        os.utime(root / "a/deep/two", (number, number))
    (root / "a/new").write_text("lost in the queue")
    assert watcher.drain().everything
    scanner.doubt()
    agree(scanner)


def test_more_directories_than_may_be_watched_are_looked_at_each_time(
    root: Path, watcher: inotify.Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, path: bytes, mask: int) -> int:
        inotify.ctypes.set_errno(inotify.errno.ENOSPC)
        return -1

    scanner = Scanner([str(root)], [], watch=watcher)
    with monkeypatch.context() as patched:
        patched.setattr(inotify._libc, "inotify_add_watch", full)
        scanner.scan()
    assert watcher.unheard
    (root / "a/one").write_text("changed")
    agree(scanner)
    assert not watcher.unheard, "there is room again"


MOVES = {
    "a directory moved in": "mv {beside} {top}/a/moved",
    "a directory moved out": "mv {top}/a {beside}/a",
    "a directory moved out, another made": "mv {top}/a {beside}/a; mkdir {top}/a",
    "a directory renamed": "mv {top}/a {top}/b; echo 3 > {top}/b/deep/three",
    "a directory moved away and back": "mv {top}/a {top}/b; mv {top}/b {top}/a",
    "a directory replaced by a file": "rm -r {top}/a; echo file > {top}/a",
    "a file replaced by a directory": "rm {top}/a/one; mkdir {top}/a/one; echo > {top}/a/one/y",
    "a directory replaced by another": "rm -r {top}/a; mkdir {top}/a; echo 9 > {top}/a/one",
    "two directories change places": "mkdir {top}/b; mv {top}/a {top}/c; mv {top}/b {top}/a",
    "the root itself replaced": "mv {top} {beside}/old; mkdir -p {top}/new; echo 1 > {top}/new/x",
    "the root gone": "rm -r {top}",
    "deep ones made at once": "mkdir -p {top}/x/y/z; echo 1 > {top}/x/y/z/file",
    "a hard link": "ln {top}/a/one {top}/a/deep/another",
    "a hard link gone": "ln {top}/a/one {top}/0; rm {top}/a/one",
    "modes and owners": "chmod 700 {top}/a; chmod 600 {top}/a/one",
    "a symbolic link": "ln -s one {top}/a/link; ln -sfn two {top}/a/link",
    "what a pass has beside": "mkdir {top}/.zcluster-1; echo 1 > {top}/a/.zcluster-2",
    "names with newlines": "echo 1 > {top}/$(printf 'a\\nb')",
}


@pytest.mark.parametrize("what", MOVES)
def test_hints_lead_to_everything(root: Path, watcher: inotify.Watcher, what: str) -> None:
    scanner = Scanner([str(root)], [], watch=watcher)
    scanner.scan()
    assert os.system(MOVES[what].format(top=root, beside=root.parent / "beside")) == 0
    agree(scanner)
    # And afterwards all that is there is heard of.
    for path in [root, *(p for p in root.rglob("*") if p.is_dir())] if root.is_dir() else []:
        (path / "later").write_text("later")
    agree(scanner)
    assert not scanner._hints.everything


def test_random_changes_are_found_by_hints_alone(root: Path, watcher: inotify.Watcher) -> None:
    scanner = Scanner([str(root)], [f"{root}/a/own*"], watch=watcher)
    scanner.scan()
    chosen = random.Random(7)
    for _ in range(150):
        for _ in range(chosen.randrange(1, 6)):
            change(root, chosen)
        agree(scanner)


def change(root: Path, chosen: random.Random) -> None:
    """Something a user may do, anywhere."""
    there = [*sorted(root.rglob("*")), root, root.parent / "beside"]
    one, other = chosen.choice(there), chosen.choice(there)
    name = other / f"{chosen.choice('abcd')}" if other.is_dir() else other
    with contextlib.suppress(OSError, shutil.Error):
        match chosen.randrange(8):
            case 0:
                name.write_text(str(chosen.random()))
            case 1:
                name.mkdir()
            case 2:
                if one != root.parent / "beside" and (one.is_dir() or one.stat().st_nlink == 1):
                    one.rename(name)
            case 3:
                if one.is_file() or one.is_symlink():
                    one.unlink()
            case 4:
                if one not in (root, root.parent / "beside") and chosen.random() < 0.3:
                    shutil.rmtree(one)
            case 5:
                if root in name.parents:  # of other names nobody would tell
                    os.link(one, name)
            case 6:
                name.symlink_to(one.name)
            case 7:
                one.chmod(chosen.choice([0o700, 0o755]))
    root.mkdir(exist_ok=True)


def test_writers_that_never_stop_lose_nothing(root: Path, watcher: inotify.Watcher) -> None:
    scanner = Scanner([str(root)], [], watch=watcher)
    scanner.scan()
    over = threading.Event()

    def write(seed: int) -> None:
        chosen = random.Random(seed)
        while not over.is_set():
            with contextlib.suppress(OSError):  # the other one was faster
                change(root, chosen)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    for _ in range(100):
        with contextlib.suppress(tree.UnstableError):
            scanner.scan()
        scanner.listen()
    over.set()
    for writer in writers:
        writer.join()
    agree(scanner)


def test_file_that_is_being_written_is_not_there_yet_or_is_what_it_was(
    root: Path, watcher: inotify.Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = Scanner([str(root)], [], watch=watcher)
    before = scanner.scan()
    real = tree.digest_file
    written = {str(root / "a/one"), str(root / "a/large")}

    def digest_file(path: str, copy_to: int | None = None) -> tuple[str, os.stat_result]:
        if path in written:
            raise tree.UnstableError("changes while it is read")
        return real(path, copy_to)

    with monkeypatch.context() as patched:
        patched.setattr(tree, "digest_file", digest_file)
        (root / "a/one").write_text("changed")
        # What it was may not be for those to read who may read this.
        (root / "a/one").chmod(0o777)
        (root / "a/large").write_text("new")
        (root / "a/small").write_text("calm")
        os.link(root / "a/large", root / "a/larger")
        for doubt in (False, True):
            if doubt:
                scanner.doubt()
            found = scanner.scan()
            assert tree.differing(before, found) == [str(root / "a/larger"), str(root / "a/small")]
            assert not found[str(root / "a/larger")].link
            assert scanner.written(0) == sorted(written)
            assert scanner.written(60) == []
        with pytest.raises(tree.UnstableError):  # that is not "it is gone"
            fresh(scanner)
    # The end of the writing is an event of its own.
    for name in ("one", "large"):
        (root / "a" / name).open("a").close()
    agree(scanner)
    assert scanner.written(0) == []


def test_file_with_two_names_that_is_written_between_their_reads_has_one_content(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(root / "a/one", root / "a/other")
    real = tree.digest_file

    def digest_file(path: str, copy_to: int | None = None) -> tuple[str, os.stat_result]:
        found = real(path, copy_to)
        if path == str(root / "a/one"):
            (root / "a/one").write_text("written since")
        return found

    monkeypatch.setattr(tree, "digest_file", digest_file)
    scanner = Scanner([str(root)], [])
    found = scanner.scan()
    assert found[str(root / "a/other")].link == str(root / "a/one")
    assert outside(found, scanner) == []


def test_content_is_offered_with_the_mode_that_it_was_read_with(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "key").write_text("secret")
    (root / "key").chmod(0o600)
    real = tree.digest_file

    def digest_file(path: str, copy_to: int | None = None) -> tuple[str, os.stat_result]:
        if path == str(root / "a/one"):
            (root / "key").rename(root / "a/one")
        return real(path, copy_to)

    monkeypatch.setattr(tree, "digest_file", digest_file)
    entry = Scanner([str(root)], []).scan()[str(root / "a/one")]
    assert (entry.size, oct(entry.mode)) == (6, "0o600")


def test_what_is_no_file_any_more_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(tmp_path / "socket"))
        before = sorted(p.name for p in Path("/proc/self/fd").iterdir())
        for name in ("link", "directory", "fifo", "socket"):
            with pytest.raises(tree.UnstableError, match=name):
                tree.digest_file(str(tmp_path / name))
        assert sorted(p.name for p in Path("/proc/self/fd").iterdir()) == before


def test_large_file_that_is_written_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(10 * tree.READ_AT_ONCE))
    states = iter(range(1000))
    fstat = os.fstat

    def changing(descriptor: int) -> os.stat_result:
        info = list(fstat(descriptor))
        info[6] = next(states)  # its size
        return os.stat_result(info)

    read = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", changing)
        patched.setattr(tree.hashlib, "sha256", lambda: Counting(read))
        with pytest.raises(tree.UnstableError):
            tree.digest_file(str(large))
    assert sum(read) == 3 * tree.READ_AT_ONCE


class Counting:
    """A digest that knows how much it was given."""

    def __init__(self, read: list[int]) -> None:
        self.read = read

    def update(self, chunk: bytes) -> None:
        self.read.append(len(chunk))


def test_a_change_right_after_a_read_is_seen_though_size_and_times_are_the_same(
    root: Path, watcher: inotify.Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanner = Scanner([str(root)], [], watch=watcher)
    (root / "a/one").write_text("1")
    scanner.scan()
    info = (root / "a/one").stat()
    # The kernel's clock has not moved on: the file looks as it did.
    lstat = os.lstat
    monkeypatch.setattr(
        os, "lstat", lambda path: info if str(path) == str(root / "a/one") else lstat(path)
    )
    (root / "a/one").write_text("2")
    found = scanner.scan()[str(root / "a/one")]
    assert found.sha256 == tree.digest_file(str(root / "a/one"))[0]


def test_many_hints_are_one(root: Path) -> None:
    few = Hints(frozenset({"/r/a"})) | Hints(frozenset({"/r/b"}))
    assert few == Hints(frozenset({"/r/a", "/r/b"}))
    many = Hints(frozenset(f"/r/{n}" for n in range(tree.MANY_HINTS)))
    assert (many | few) == Hints(everything=True)
    assert (few | Hints(everything=True)).everything


def test_one_change_in_a_large_tree_takes_no_more_than_in_a_small_one(
    tmp_path: Path, watcher: inotify.Watcher
) -> None:
    top = tmp_path / "top"
    for number in range(20):
        (top / str(number)).mkdir(parents=True)
        for name in range(100):
            (top / str(number) / str(name)).write_text("x")
    scanner = Scanner([str(top)], [], watch=watcher)
    scanner.scan()

    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        scanner.scan()
        return resource.getrusage(resource.RUSAGE_SELF).ru_utime - before

    changes = []
    for number in range(20):
        (top / "7/7").write_text(str(number))
        changes.append(cost())
    whole = []
    for _ in range(5):
        scanner.doubt()
        whole.append(cost())
    assert sum(changes) / 20 < sum(whole) / 5 / 2
