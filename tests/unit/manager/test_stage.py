# SPDX-License-Identifier: GPL-3.0-or-later
# A pass on a real disk: the whole generation arrives, or nothing does.
from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import durable
from zclustermanager.sync import disk as disks
from zclustermanager.sync import operate, tree
from zclustermanager.sync import replica as replicas
from zclustermanager.sync import stage as stages
from zclustermanager.sync.disk import LocalDisk, copy_holes_too
from zclustermanager.sync.generation import Generation, Relation
from zclustermanager.sync.replica import Offer, Replica
from zclustermanager.sync.sender import Sender, freezer
from zclustermanager.sync.store import Store
from zclustermanager.sync.tree import Manifest, Scanner

Disk = Callable[[str], tuple[Path, Store, Scanner]]


def fill(root: Path) -> None:
    """A root with one of everything."""
    (root / "conf.d").mkdir()
    (root / "conf.d/a.cfg").write_text("one")
    (root / "new\nline \udcff".encode("utf-8", "surrogateescape").decode("latin-1")).write_text("x")
    (root / "-dash").write_text("")
    (root / "link").symlink_to("conf.d/a.cfg")
    os.link(root / "conf.d/a.cfg", root / "hard")
    (root / "conf.d/a.cfg").chmod(0o640)


def moved(manifest: Manifest, source: Path, target: Path) -> Manifest:
    """A manifest of one root as it would be of the other: two nodes have the same paths."""
    text = json.dumps(tree.dump(manifest)).replace(str(source), str(target))
    return tree.undump(json.loads(text))


def staged(disk: Disk, change: Callable[[Path], Any]) -> tuple[Path, LocalDisk, stages.Stage]:
    """A receiver with old content, and a stage of new content, ready to be verified."""
    there, _, sender = disk("n1")
    here, store, scanner = disk("n2")
    fill(there)
    shutil.copytree(there, here, symlinks=True, dirs_exist_ok=True)
    change(there)
    target = moved(sender.scan(), there, here)
    generation = Generation("f" * 32, ("e" * 32,), tree.digest(target))
    local = LocalDisk(store, scanner)
    stage = stages.create(local, "0" * 32, generation, target)
    for sha256 in stages.needed(scanner.scan(), target):
        path = next(p for p, e in target.items() if e.sha256 == sha256)
        shutil.copy(path.replace(str(here), str(there)), local.blobs(stage.token) / sha256)
    return here, local, stage


def arrive(local: LocalDisk, stage: stages.Stage) -> list[str]:
    """A pass from verification to the end."""
    stages.verify(local, stage, local.scan())
    stages.begin(local, stage, local.scan())
    changed = stages.redo(local, stage)
    stages.finish(local, stage)
    return changed


def contents(scanner: Scanner) -> dict[str, dict[str, Any]]:
    """What is on disk but for hard links, which undo brings back as files of their own."""
    return {path: entry.identity() | {"link": ""} for path, entry in scanner.scan().items()}


def everything(root: Path) -> None:
    """Change, add, delete, retype."""
    (root / "conf.d/a.cfg").write_text("two")
    (root / "added").mkdir()
    (root / "added/deep.cfg").write_text("three")
    (root / "-dash").unlink()
    (root / "-dash").mkdir()
    (root / "link").unlink()
    (root / "link").write_text("a file now")


def test_pass_brings_the_whole_generation_and_keeps_what_it_replaced(disk: Disk) -> None:
    here, local, stage = staged(disk, everything)
    changed = arrive(local, stage)
    assert tree.digest(local.scan()) == stage.generation.digest
    assert local.generation().id == "f" * 32
    assert str(here / "conf.d/a.cfg") in changed
    (kept,) = local.store.versions.iterdir()
    assert (kept / str(here).lstrip("/") / "conf.d/a.cfg").read_text() == "one"
    assert local.tokens() == []
    assert (here / "hard").stat().st_ino == (here / "conf.d/a.cfg").stat().st_ino


def test_undo_brings_back_everything_that_passes_replaced(disk: Disk) -> None:
    _, local, stage = staged(disk, everything)
    before = contents(local.scanner)
    arrive(local, stage)
    assert contents(local.scanner) != before
    stages.undo(local.store)
    assert contents(Scanner(local.scanner.roots, [])) == before
    assert list(local.store.versions.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_undo_brings_a_directory_back_in_its_place_not_where_a_link_leads(
    disk: Disk, tmp_path: Path, kind: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.cfg").write_text("of nobody's business")

    def retype(root: Path) -> None:
        shutil.rmtree(root / "conf.d")
        if kind == "link":
            (root / "conf.d").symlink_to(elsewhere)
        else:
            (root / "conf.d").write_text("a file now")

    _, local, stage = staged(disk, retype)
    before = contents(local.scanner)
    arrive(local, stage)
    stages.undo(local.store)
    assert contents(Scanner(local.scanner.roots, [])) == before
    assert (elsewhere / "a.cfg").read_text() == "of nobody's business"


STEPS = ("keep", "make", "put", "take_away", "link", "keep_beside", "forget", "dress", "remove")


@pytest.mark.parametrize("step", STEPS)
def test_directory_that_became_a_link_out_of_the_root_leads_nowhere(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Somebody who may write in the root does that after the last look at it."""
    here, store, scanner = disk("n2")
    local, outside, blobs = LocalDisk(store, scanner), tmp_path / "outside", tmp_path / "blobs"
    for directory in (here / "d", here / "d/empty", outside, outside / "empty", blobs):
        directory.mkdir()
    token, path, beside = "0" * 32, f"{here}/d/a", f"{here}/d/.zcluster-{'1' * 32}"
    for place in (here / "d", outside):
        (place / "a").write_text(f"in {place.name}")
        if step != "make":
            (place / Path(beside).name).write_text(f"beside in {place.name}")
    (here / "other").write_text("other")
    live = scanner.scan()
    (blobs / live[f"{here}/other"].sha256).write_text("other")
    new = replace(live[f"{here}/other"], path=path, mode=0o777)
    monkeypatch.setattr(local, "_found", lambda *_: beside)
    (here / "d").rename(here / "moved")
    (here / "d").symlink_to(outside)
    before = Scanner([str(outside)], []).scan()
    version = local.version("replaced")
    acts: dict[str, Callable[[], object]] = {
        "keep": lambda: local.keep(version, live[path]),
        "make": lambda: local.make(new, blobs, token),
        "put": lambda: local.put(token, path),
        "take_away": lambda: local.take_away(token, path),
        "link": lambda: local.link(token, replace(new, link=f"{here}/other")),
        "keep_beside": lambda: local.keep_beside(version, token, path),
        "forget": lambda: local.forget(token, path),
        "dress": lambda: local.dress(new),
        "remove": lambda: local.remove_directory(f"{here}/d/empty"),
    }
    with contextlib.suppress(NotADirectoryError):
        acts[step]()
        assert step == "remove", "what it cannot remove, it leaves"
    after = Scanner([str(outside), *map(str, outside.glob(".*"))], []).scan()
    assert {p: after.get(p) for p in before} == before
    assert sorted(p.name for p in outside.rglob("*")) == sorted(
        ["a", "empty", *([] if step == "make" else [Path(beside).name])]
    )
    assert not [p for p in store.versions.rglob("*") if p.is_file()]


def test_pass_under_which_a_directory_became_a_link_is_finished_inside_the_root(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, local, stage = staged(disk, everything)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.cfg").write_text("theirs")
    put = local.put

    def swap(token: str, path: str) -> bool:
        if path == f"{here}/conf.d/a.cfg" and not (here / "conf.d").is_symlink():
            (here / "conf.d").rename(here / "moved")
            (here / "conf.d").symlink_to(outside)
        return put(token, path)

    monkeypatch.setattr(local, "put", swap)
    stages.verify(local, stage, local.scan())
    stages.begin(local, stage, local.scan())
    with local.lock(), pytest.raises(OSError, match=f"Not a directory: '{here}/conf.d/"):
        stages.redo(local, stage, begun_now=True)
    with local.lock():
        stages.recover(local)
    assert (outside / "a.cfg").read_text() == "theirs"
    assert [p.name for p in outside.iterdir()] == ["a.cfg"]
    assert (here / "added/deep.cfg").read_text() == "three"
    assert local.tokens() == []


def test_mode_of_a_file_is_never_given_to_what_a_link_leads_to(tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", tmp_path / "link"
    secret.write_text("secret")
    secret.chmod(0o600)
    link.symlink_to(secret)
    before = Scanner([str(secret)], []).scan()
    entry = replace(before[str(secret)], mode=0o777, mtime_ns=1)
    tree.dress(str(link), entry)
    assert tree.differing(Scanner([str(secret)], []).scan(), before) == []
    assert link.lstat().st_mtime_ns == 1


def test_damaged_content_touches_nothing(disk: Disk) -> None:
    _, local, stage = staged(disk, everything)
    next(local.blobs(stage.token).iterdir()).write_text("damaged")
    before = tree.digest(local.scan())
    with pytest.raises(stages.StageError, match="arrived damaged"):
        stages.verify(local, stage, local.scan())
    assert stages.recover(local) == []
    assert tree.digest(local.scan()) == before
    assert local.tokens() == []


def test_missing_content_touches_nothing(disk: Disk) -> None:
    _, local, stage = staged(disk, everything)
    next(local.blobs(stage.token).iterdir()).unlink()
    with pytest.raises(stages.StageError, match="did not arrive"):
        stages.verify(local, stage, local.scan())


EFFECTS = [(os, n) for n in ("rename", "unlink", "mkdir", "rmdir", "chown", "link")]
EFFECTS += [(durable, "renameat2")]


class Killed(BaseException):
    """As by kill -9: nothing is cleaned up."""


@pytest.mark.parametrize("survived", range(0, 40, 3))
def test_pass_killed_at_any_step_is_finished_afterwards(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    _, local, stage = staged(disk, everything)
    stages.verify(local, stage, local.scan())
    left = survived
    with monkeypatch.context() as patch:
        for module, name in EFFECTS:
            real = getattr(module, name)

            def step(*args: Any, _real: Any = real, **kwargs: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return _real(*args, **kwargs)

            patch.setattr(module, name, step)
        with contextlib.suppress(Killed):
            stages.begin(local, stage, local.scan())
            stages.redo(local, stage)
            stages.finish(local, stage)
    again = LocalDisk(local.store, Scanner(local.scanner.roots, []))
    stages.recover(again)
    assert tree.digest(again.scan()) == stage.generation.digest
    assert again.generation().id == stage.generation.id
    assert not [p for r in local.scanner.roots for p in Path(r).parent.rglob(".zcluster-*")]


def test_edit_after_a_killed_pass_is_a_change_of_its_own(disk: Disk) -> None:
    here, local, stage = staged(disk, everything)
    stages.verify(local, stage, local.scan())
    stages.begin(local, stage, local.scan())
    (here / "conf.d/a.cfg").write_text("edited since")
    stages.recover(local)
    assert (here / "conf.d/a.cfg").read_text() == "edited since"
    assert (here / "added/deep.cfg").read_text() == "three"


Arrange = Callable[[Callable[[str], None]], None]
THROUGH = re.compile(r"/proc/self/fd/(\d+)")


def plain(path: object) -> str:
    """A path that goes through an open directory, as people know it."""
    return THROUGH.sub(lambda found: str(Path(found[0]).readlink()), str(path))


@pytest.fixture
def before_each_exchange(monkeypatch: pytest.MonkeyPatch) -> Arrange:
    """Have something happen after the last look and before a live path is exchanged."""

    def arrange(act: Callable[[str], None]) -> None:
        for module, name in ((durable, "renameat2"), (os, "rename")):
            real = getattr(module, name)

            def step(source: str, target: str, *flags: int, _real: Any = real) -> None:
                live = plain(target if ".zcluster-" in str(source) else source)
                if "/root/" in live and "/versions/" not in live:
                    act(live)
                _real(source, target, *flags)

            monkeypatch.setattr(module, name, step)

    return arrange


@pytest.mark.parametrize("name", ["conf.d/a.cfg", "hard", "link", "added", "goes"])
def test_edit_in_the_moment_of_the_exchange_is_kept(
    disk: Disk, before_each_exchange: Arrange, name: str
) -> None:
    """A file, a hard link, a link that becomes a file, a new directory, a file that goes."""

    def change(root: Path) -> None:
        everything(root)
        (here_too := root.parents[1] / "n2/root/goes").write_text("to be removed")
        assert here_too.exists()

    here, local, stage = staged(disk, change)
    stage_paths = []

    def edit(path: str) -> None:
        if path == f"{here}/{name}" and not stage_paths:
            stage_paths.append(path)
            Path(path).unlink(missing_ok=True)
            Path(path).write_text("in between")

    before_each_exchange(edit)
    arrive(local, stage)
    assert stage_paths
    assert tree.digest(local.scan()) == stage.generation.digest
    kept = [p.read_text() for p in local.store.versions.rglob(Path(name).name) if p.is_file()]
    assert "in between" in kept
    late = next(p for p in local.store.versions.iterdir() if p.name.endswith("late"))
    (entry,) = json.loads((late / ".replaced.json").read_text())["replaced"]
    assert entry["path"] == f"{here}/{name}"
    assert entry["sha256"] == hashlib.sha256(b"in between").hexdigest()


def test_every_late_edit_of_a_pass_is_in_its_version(
    disk: Disk, before_each_exchange: Arrange
) -> None:
    here, local, stage = staged(disk, everything)

    def edit(path: str) -> None:
        if path.endswith((".cfg", "/link")) and Path(path).exists():
            Path(path).unlink()
            Path(path).write_text(f"late {Path(path).name}")

    before_each_exchange(edit)
    arrive(local, stage)
    late = next(p for p in local.store.versions.iterdir() if p.name.endswith("late"))
    record = json.loads((late / ".replaced.json").read_text())["replaced"]
    assert [e["path"] for e in record] == [f"{here}/conf.d/a.cfg", f"{here}/link"]


def test_what_a_program_that_has_the_old_file_open_writes_is_kept(disk: Disk) -> None:
    here, local, stage = staged(disk, everything)
    with (here / "conf.d/a.cfg").open("a") as writer:
        arrive(local, stage)
        writer.write(", and more")
    kept = [p.read_text() for p in local.store.versions.rglob("a.cfg")]
    assert "one, and more" in kept


def test_writer_in_a_tight_loop_loses_nothing_in_any_pass(disk: Disk) -> None:
    here, store, scanner = disk("n2")
    local = LocalDisk(store, scanner)
    path, written, stop = here / "busy", [0], threading.Event()
    path.write_text("0")

    def write() -> None:
        while not stop.is_set():
            new = path.with_name("busy.new")
            new.write_text(str(written[0] + 1))
            new.rename(path)
            written[0] += 1

    excluding = Scanner([str(here)], ["*.new"])
    local = LocalDisk(store, excluding)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen: set[str] = set()
        for number in range(30):
            live = excluding.scan()
            content = f"sent {number}"
            sha256 = hashlib.sha256(content.encode()).hexdigest()
            entry = replace(live[str(path)], sha256=sha256, size=len(content))
            target = {**live, str(path): entry}
            generation = Generation(f"{number:032x}", (), tree.digest(target))
            stage = stages.create(local, f"{number:032x}", generation, target)
            (local.blobs(stage.token) / sha256).write_text(content)
            before = written[0]
            arrive(local, stage)
            texts = {p.read_text() for p in [*store.versions.rglob("busy"), path]}
            # What was there when the new was put is kept; later writes replaced what was put.
            numbers = {int(t) for t in texts if t.isdigit()}
            assert max(numbers, default=0) >= before
            seen |= texts
    finally:
        stop.set()
        writer.join()


def test_power_that_fails_between_exchange_and_keeping_loses_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, local, stage = staged(disk, everything)
    stages.verify(local, stage, local.scan())
    stages.begin(local, stage, local.scan())
    put = local.put

    def killed(token: str, path: str) -> bool:
        if path.endswith("a.cfg"):
            Path(path).write_text("in between")
            put(token, path)
            raise Killed
        return put(token, path)

    monkeypatch.setattr(local, "put", killed)
    with contextlib.suppress(Killed):
        stages.redo(local, stage, begun_now=True)
    again = LocalDisk(local.store, Scanner(local.scanner.roots, []))
    stages.recover(again)
    assert (here / "conf.d/a.cfg").read_text() == "two"
    assert "in between" in [p.read_text() for p in local.store.versions.rglob("a.cfg")]
    assert not [p for r in local.scanner.roots for p in Path(r).parent.rglob(".zcluster-*")]


def test_disk_without_room_for_the_new_removes_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, local, stage = staged(disk, everything)
    before = tree.digest(local.scan())
    stages.verify(local, stage, local.scan())
    make = local.make

    def full(entry: tree.Entry, contents: Path, token: str) -> None:
        if entry.path.endswith("deep.cfg"):
            raise OSError(errno.ENOSPC, "No space left on device", entry.path)
        make(entry, contents, token)

    monkeypatch.setattr(local, "make", full)
    with pytest.raises(OSError, match="No space left"):
        stages.begin(local, stage, local.scan())
    assert tree.digest(local.scan()) == before
    assert local.tokens() == []
    assert not list(here.parent.rglob(".zcluster-*"))


def test_change_of_role_does_not_wait_for_ever_for_a_pass(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, store, scanner = disk("n1")
    fill(here)
    monkeypatch.setattr(replicas, "PROMPT", 0.05)
    replica = Replica(LocalDisk(store, scanner), lambda: "2" * 32)
    with store.lock():
        for turn in (replica.promote, replica.demote):
            with pytest.raises(TimeoutError, match="is held for over"):
                turn()
    # Whoever looks next opens the term all the same.
    replica.observe()
    assert store.generation().term


def test_hole_of_a_file_stays_a_hole(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with one.open("wb") as stream:
        stream.write(b"begin")
        stream.truncate(8 << 20)
        stream.seek(4 << 20)
        stream.write(b"middle")
    with one.open("rb") as source, two.open("wb") as target:
        copy_holes_too(source.fileno(), target.fileno())
    assert two.read_bytes() == one.read_bytes()
    assert two.stat().st_blocks <= one.stat().st_blocks < 100


def test_pass_that_cannot_be_finished_says_what_is_in_the_way(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, local, stage = staged(disk, everything)
    stages.verify(local, stage, local.scan())
    stages.begin(local, stage, local.scan())

    def busy(token: str, path: str) -> bool:
        raise OSError(errno.EBUSY, "Device or resource busy", path)

    with monkeypatch.context() as patch:
        patch.setattr(local, "put", busy)
        with pytest.raises(stages.StageError, match=r"half applied.*busy.*goes on by itself"):
            stages.recover(local)
    stages.recover(local)
    assert tree.digest(local.scan()) == stage.generation.digest


def test_file_system_that_cannot_exchange_names_is_served_as_well(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.renameat2

    def renameat2(source: str, target: str, flags: int) -> None:
        if flags == durable.EXCHANGE and os.path.lexists(target):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(source, target, flags)

    monkeypatch.setattr(durable, "renameat2", renameat2)
    here, local, stage = staged(disk, everything)
    arrive(local, stage)
    assert tree.digest(local.scan()) == stage.generation.digest
    assert not list(here.parent.rglob(".zcluster-*"))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_nothing_gets_its_name_before_it_is_durable(disk: Disk, tmp_path: Path) -> None:
    here, local, stage = staged(disk, everything)
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from zclustermanager.sync import stage\n"
        "from zclustermanager.sync.disk import LocalDisk\n"
        "from zclustermanager.sync.store import Store\n"
        "from zclustermanager.sync.tree import Scanner\n"
        "store = Store(Path(sys.argv[3]), Path(sys.argv[4]))\n"
        "stage.recover(LocalDisk(store, Scanner([sys.argv[2]], [])))\n"
    )
    stages.verify(local, stage, local.scan())
    shipped = Path(stages.__file__).parents[2]
    trace = tmp_path / "trace"
    calls = "trace=openat,fsync,syncfs,link,linkat,rename,renameat,renameat2"
    state, run = local.store.state, local.store.runtime
    subprocess.run(
        ["strace", "-f", "-y", "-e", calls, "-o", trace, sys.executable, "-c", program]
        + [str(p) for p in (shipped, here, state, run)],
        check=True,
    )
    not_yet: set[str] = set()
    renamed, linked = [], []
    opened: dict[str, str] = {}
    for raw in trace.read_text().splitlines():
        line = raw
        for through in THROUGH.finditer(raw):
            line = line.replace(f"{through[0]}/", f"{opened[through[1]]}/")
        opened |= dict(re.findall(r"= (\d+)<([^>]*)>$", line))
        if found := re.search(r'openat\(.*"([^"]*\.zcluster-[^"]+)", [^,]*O_CREAT', line):
            not_yet.add(found[1])
        elif found := re.search(r'link\w*\(.*/blobs/[^"]*".*"([^"]*\.zcluster-[^"]+)"', line):
            not_yet.add(found[1])
            linked.append(found[1])
        elif found := re.search(r"fsync\(\d+<([^>]*)>\)\s+= 0", line):
            not_yet.discard(found[1])
        elif "syncfs(" in line and line.endswith("= 0"):
            not_yet.clear()
        elif found := re.search(r'rename\w*\(.*?"([^"]+)".*?"([^"]+)"', line):
            renamed.append(found[2])
            if str(here) in found[2] and ".zcluster-" in found[1]:
                assert found[1] not in not_yet, f"renamed before it was durable: {line}"
                assert any("versions" in p for p in renamed)
    assert [p for p in renamed if p.startswith(str(here))]
    assert linked, "what arrives is put itself"
    assert (here / "conf.d/a.cfg").read_text() == "two"


@pytest.mark.parametrize("many", [False, True])
def test_root_that_is_not_there_yet_is_durable_before_it_has_its_name(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    here, local, stage = staged(disk, lambda _: None)
    for path, entry in stage.target.items():
        if entry.kind == "file":
            shutil.copy(path, local.blobs(stage.token) / entry.sha256)
    shutil.rmtree(here)
    stages.verify(local, stage, local.scan())
    done: list[str] = []
    put, settled = local.put, durable.sync_filesystems

    def sync(paths: Iterable[Path]) -> None:
        found = list(paths)
        # It may be another file system than any that a scan came across.
        assert here.parent in found
        done.append("settle")
        settled(found)

    monkeypatch.setattr(durable, "sync_filesystems", sync)
    monkeypatch.setattr(local, "put", lambda *words: done.append("put") or put(*words))
    monkeypatch.setattr(disks, "FEW", 0 if many else 1000)
    stages.begin(local, stage, local.scan())
    stages.redo(local, stage, begun_now=True)
    assert done[0] == "settle"
    assert (done[-1] == "settle") == many


def test_manifest_outside_the_roots_is_found(disk: Disk) -> None:
    here, _, scanner = disk("n2")
    fill(here)
    good = scanner.scan()
    assert stages.outside(good, scanner) == []
    for path in ("/etc/passwd", f"{here}/../../x", f"{here}x"):
        entry = tree.Entry(path, "file", 0o644, "root", "root")
        assert stages.outside({path: entry}, scanner) == [path]


@pytest.mark.parametrize(
    "unsound",
    [
        {"path": "{root}/link/x", "kind": "file", "sha256": "0" * 64},
        {"path": "{root}/nowhere/x", "kind": "file", "sha256": "0" * 64},
        {"path": "{root}/x", "kind": "file", "sha256": "0" * 64, "link": "/usr/bin/dash"},
        {"path": "{root}/x", "kind": "odd", "sha256": "/etc/shadow"},
        {"path": "{root}/x", "kind": "file", "sha256": "/etc/shadow"},
        {"path": "{root}/x", "kind": "symlink", "sha256": "0" * 64},
    ],
)
def test_entry_that_no_honest_sender_could_have_read_is_found(
    disk: Disk, unsound: dict[str, str]
) -> None:
    here, _, scanner = disk("n2")
    fill(here)
    target = scanner.scan()
    path = unsound["path"].format(root=here)
    entry = tree.Entry(mode=0o644, owner="root", group="root", **(unsound | {"path": path}))
    assert stages.outside({**target, path: entry}, scanner) == [path]


def test_directory_with_files_of_the_node_is_not_removed_and_nothing_is_touched(
    disk: Disk,
) -> None:
    here, local, stage = staged(disk, lambda root: shutil.rmtree(root / "conf.d"))
    (here / "conf.d/own.sock").write_text("")
    excluding = Scanner(local.scanner.roots, [f"{here}/conf.d/own.sock"])
    with pytest.raises(stages.StageError, match=r"holds own\.sock of this node"):
        stages.verify(local, stage, excluding.scan())


def test_owner_that_this_node_lacks_is_named_and_nothing_is_touched(disk: Disk) -> None:
    here, local, stage = staged(disk, lambda root: (root / "conf.d/a.cfg").write_text("two"))
    path = f"{here}/conf.d/a.cfg"
    stage.target[path] = replace(stage.target[path], owner="nobody-here", group="none-here")
    with pytest.raises(stages.StageError, match="lacks group none-here, user nobody-here"):
        stages.verify(local, stage, local.scan())
    assert (here / "conf.d/a.cfg").read_text() == "one"


@pytest.mark.parametrize("name", ["conf.d/a.cfg", "conf.d", "-dash", "added"])
def test_mount_point_that_would_have_to_go_is_named_and_nothing_is_begun(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here, local, stage = staged(disk, everything)
    monkeypatch.setattr(local, "mounts", lambda: {"/", f"{here}/{name}"})
    if name == "conf.d":  # what is in it changes, no more
        stages.verify(local, stage, local.scan())
        return
    with pytest.raises(stages.StageError, match=f"{name} is a mount point of this node"):
        stages.verify(local, stage, local.scan())
    assert stages.recover(local) == []


def test_mount_points_are_known_by_their_names(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    _, store, scanner = disk("n2")
    local = LocalDisk(store, scanner)
    assert "/proc" in local.mounts()
    line = rb"36 35 98:0 / /etc/my\040dir\134 rw,noatime - ext4 /dev/sda1 rw"
    monkeypatch.setattr(Path, "read_bytes", lambda _: line)
    assert local.mounts() == {"/etc/my dir\\"}


def test_stage_that_the_node_has_moved_on_from_is_dropped(disk: Disk) -> None:
    here, local, stage = staged(disk, everything)
    stages.verify(local, stage, local.scan())
    (here / "conf.d/a.cfg").write_text("edited by the new master")
    local.save(Generation("8" * 32, (), tree.digest(local.scan()), term=True))
    assert stages.recover(local) == []
    assert (here / "conf.d/a.cfg").read_text() == "edited by the new master"
    assert local.generation().id == "8" * 32


def test_excluded_files_are_neither_read_nor_written(disk: Disk) -> None:
    here, _, _ = disk("n2")
    fill(here)
    scanner = Scanner([str(here)], [f"{here}/conf.d", "*/-dash"])
    assert not [p for p in scanner.scan() if "conf.d" in p or p.endswith("-dash")]


def test_same_content_has_the_same_digest_whatever_the_times_are(disk: Disk) -> None:
    here, _, scanner = disk("n2")
    fill(here)
    before = tree.digest(scanner.scan())
    os.utime(here / "conf.d/a.cfg", (1, 1))
    assert tree.digest(scanner.scan()) == before
    (here / "conf.d/a.cfg").chmod(0o600)
    assert tree.digest(scanner.scan()) != before


def test_edit_that_keeps_size_and_mtime_is_seen(disk: Disk) -> None:
    here, _, scanner = disk("n2")
    fill(here)
    path = here / "conf.d/a.cfg"
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    before = tree.digest(scanner.scan())
    path.write_text("eno")
    os.utime(path, ns=times)
    assert tree.digest(scanner.scan()) != before


def test_writer_that_never_stops_cannot_starve_a_pass(disk: Disk) -> None:
    far = Far("accept")
    here, store, scanner = disk("n1")
    scanner.copies = str(store.frozen)
    fill(here)
    store.save(Generation("1" * 32, (), tree.digest(scanner.scan()), term=True))
    (here / "busy").write_text("first")
    offered = far.offer

    def offer(offer: Offer, frozen: Path | None) -> dict[str, Any]:
        (here / "busy").write_text("written again before it could be sent")
        return offered(offer, frozen)

    far.offer = offer  # type: ignore[method-assign]
    sender = Sender(Replica(LocalDisk(store, scanner), lambda: "2" * 32), far, freezer(store))
    assert sender.run().state == "in sync"
    assert len(far.offers) == 1
    assert far.offers[0].manifest[f"{here}/busy"].sha256 in far.sent[0]


def test_file_that_never_holds_still_does_not_stop_the_others(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _, scanner = disk("n1")
    fill(here)
    before = scanner.scan()
    real = tree.digest_file

    def digest_file(path: str, copy_to: int | None = None) -> tuple[str, os.stat_result]:
        if path.endswith("a.cfg"):
            raise tree.UnstableError("changes while it is read")
        return real(path, copy_to)

    monkeypatch.setattr(tree, "digest_file", digest_file)
    (here / "conf.d/a.cfg").write_text("busy")
    (here / "other").write_text("calm")
    after = scanner.scan()
    assert after[f"{here}/conf.d/a.cfg"].sha256 == before[f"{here}/conf.d/a.cfg"].sha256
    assert f"{here}/other" in after


def test_disk_of_the_sender_that_is_full_is_said(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, store, scanner = disk("n1")
    fill(here)
    store.save(Generation("1" * 32, (), tree.digest(scanner.scan()), term=True))

    def write(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    sender = Sender(
        Replica(LocalDisk(store, scanner), lambda: "2" * 32), Far("accept"), freezer(store)
    )
    with pytest.raises(OSError, match=f"No space left on device.*{store.outgoing}"):
        sender.run()
    assert list(store.outgoing.iterdir()) == [store.frozen]


class Far:
    """A peer that writes down what it is asked."""

    name = "n2"

    def reach(self) -> None:
        pass

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.offers: list[Offer] = []
        self.sent: list[set[str]] = []

    def offer(self, offer: Offer, _: Path | None) -> dict[str, Any]:
        self.offers.append(offer)
        need = sorted({e.sha256 for e in offer.manifest.values() if e.sha256})
        return {"answer": self.answer, "stage": "0" * 32, "need": need}

    def send(self, frozen: Path, token: str) -> None:
        self.sent.append({p.name for p in frozen.iterdir()})

    def commit(self, token: str) -> dict[str, Any]:
        return {"applied": 3, "services": {}}

    def fetch(self, mine: Generation) -> tuple[Relation, Offer]:
        return Relation.BEHIND, Offer(Generation(), {})

    def receive(self, need: list[str], offer: Offer, token: str) -> None:
        raise AssertionError("there is nothing to pull")


def sending(disk: Disk, far: Far) -> tuple[Path, Store, Sender]:
    here, store, scanner = disk("n1")
    fill(here)
    store.save(Generation("1" * 32, (), tree.digest(scanner.scan()), term=True))
    replica = Replica(LocalDisk(store, scanner), lambda: "2" * 32)
    return here, store, Sender(replica, far, freezer(store))


def test_sender_mints_before_it_sends_and_acknowledges_only_what_was_applied(disk: Disk) -> None:
    far = Far("accept")
    here, store, sender = sending(disk, far)
    assert sender.run().state == "in sync"
    assert far.offers[0].generation.id == "1" * 32
    assert far.sent == [{e.sha256 for e in far.offers[0].manifest.values() if e.sha256}]
    assert sender.run().state == "in sync"
    assert len(far.offers) == 1
    (here / "conf.d/a.cfg").write_text("changed")
    assert sender.run().state == "in sync"
    assert far.offers[1].generation.ancestors == ("1" * 32,)
    assert store.generation().offered
    assert list(store.outgoing.iterdir()) == [store.frozen]


@pytest.mark.parametrize(
    ("answer", "state"),
    [("stale", "pending"), ("master", "failed"), ("diverged", "diverged"), ("equal", "in sync")],
)
def test_refused_sender_says_so_and_sends_nothing(disk: Disk, answer: str, state: str) -> None:
    far = Far(answer)
    _, _, sender = sending(disk, far)
    assert sender.run().state == state
    assert far.sent == []


def test_node_that_does_not_serve_sends_nothing(disk: Disk) -> None:
    far = Far("accept")
    _, _, sender = sending(disk, far)
    sender.serving = lambda: False
    assert sender.run().state == "pending"
    assert far.offers == []


def kept_of(local: LocalDisk, path: Path) -> Path:
    (version,) = local.store.versions.iterdir()
    return version / str(path).lstrip("/")


def test_what_goes_is_kept_as_it_is_and_what_stays_is_copied(disk: Disk) -> None:
    def change(root: Path) -> None:
        other = root.parents[1] / "n2/root"
        for place, text in ((root, "new"), (other, "old")):
            (place / "replaced").write_text(text)
            (place / "open to all").write_text("same")
        (other / "gone").write_text("gone")
        (root / "open to all").chmod(0o666)

    here, local, stage = staged(disk, change)
    (here / "open to all").chmod(0o600)
    before = {name: (here / name).lstat() for name in ("replaced", "gone", "open to all")}
    arrive(local, stage)
    for name, text in (("replaced", "old"), ("gone", "gone")):
        kept = kept_of(local, here / name)
        assert (kept.read_text(), kept.lstat().st_ino) == (text, before[name].st_ino)
        assert kept.lstat().st_nlink == 1
    kept = kept_of(local, here / "open to all")
    assert kept.lstat().st_ino != before["open to all"].st_ino
    assert kept.lstat().st_mode & 0o777 == 0o600, "the new mode is the live one's alone"
    assert (here / "open to all").lstat().st_mode & 0o777 == 0o666


def test_another_name_of_what_goes_cannot_change_what_is_kept(disk: Disk) -> None:
    """Of two names of one file, the master has removed one; the other is written to in place."""

    def change(root: Path) -> None:
        (root / "hard").unlink()

    here, local, stage = staged(disk, change)
    (here / "hard").unlink()
    os.link(here / "conf.d/a.cfg", here / "hard")
    arrive(local, stage)
    with (here / "conf.d/a.cfg").open("a") as other:
        other.write(" and more")
    assert kept_of(local, here / "hard").read_text() == "one"


def test_two_new_files_with_one_content_are_two_files(disk: Disk) -> None:
    def change(root: Path) -> None:
        for name in ("first", "second"):
            (root / name).write_text("the same")
        (root / "second").chmod(0o600)

    here, local, stage = staged(disk, change)
    arrive(local, stage)
    first, second = (here / "first").lstat(), (here / "second").lstat()
    assert (first.st_nlink, second.st_nlink, second.st_mode & 0o777) == (1, 1, 0o600)
    assert first.st_ino != second.st_ino
    assert tree.digest(Scanner(local.scanner.roots, []).scan()) == stage.generation.digest


def test_new_file_is_never_more_open_than_it_will_be(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(root: Path) -> None:
        (root / "key").write_text("secret")
        (root / "key").chmod(0o600)

    _, local, stage = staged(disk, change)
    for blob in local.blobs(stage.token).iterdir():
        blob.chmod(0o644)
    modes = []
    link = os.link

    def seen(source: str, target: str, **kwargs: Any) -> None:
        link(source, target, **kwargs)
        if "/blobs/" in source:
            modes.append(os.lstat(target).st_mode & 0o777)

    monkeypatch.setattr(os, "link", seen)
    arrive(local, stage)
    assert modes == [0o600]


def test_way_leads_to_what_stands_at_a_path_now(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/a").write_text("first")
    ways = tree.Ways()
    with ways.to(f"{root}/d/a", str(root)) as name:
        assert Path(name).read_text() == "first"
    (root / "d").rename(root / "moved")
    (root / "d").mkdir()
    (root / "d/a").write_text("second")
    with ways.to(f"{root}/d/a", str(root)) as name:
        assert Path(name).read_text() == "second"
    (root / "d").rename(root / "again")
    (root / "d").symlink_to("moved")
    with pytest.raises(NotADirectoryError), ways.to(f"{root}/d/a", str(root)):
        pytest.fail("it is a link now")
    ways.close()


def test_ways_keep_few_directories_open(tmp_path: Path) -> None:
    def opened() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    ways, before = tree.Ways(), opened()
    for number in range(50):
        (tmp_path / f"{number}").mkdir()
        with ways.to(f"{tmp_path}/{number}/a", str(tmp_path)) as name:
            Path(name).write_text("x")
    assert opened() - before <= tree.OPEN_AT_ONCE
    ways.close()
    assert opened() == before


def gone(disk: Disk, *names: str) -> tuple[Path, LocalDisk, stages.Stage]:
    """A pass that removes these; all have the same content."""
    here, local, stage = staged(disk, lambda _: None)
    for name in names:
        (here / name).write_text("old")
    return here, local, stage


def test_what_somebody_goes_on_writing_to_leaves_what_is_kept_alone(disk: Disk) -> None:
    here, local, stage = gone(disk, "log", "quiet")
    with local.lock(), (here / "log").open("a") as log:
        arrive(local, stage)
        log.write(" and more")
        log.flush()
        kept = {p.parts[p.parts.index("versions") + 1].rpartition("-")[2]: p.read_text()
                for p in local.store.versions.rglob("log")}  # fmt: skip
    assert kept == {"drift": "old", "late": "old and more"}


def test_name_that_somebody_gives_what_goes_leaves_what_is_kept_alone(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, local, stage = gone(disk, "goes")
    take_away = local.take_away

    def also_named(token: str, path: str) -> None:
        os.link(path, here.parent / "other")
        take_away(token, path)

    monkeypatch.setattr(local, "take_away", also_named)
    with local.lock():
        arrive(local, stage)
    (here.parent / "other").write_text("of its own")
    assert kept_of(local, here / "goes").read_text() == "old"


def test_kept_file_that_was_written_to_since_is_brought_back_as_what_it_is(
    disk: Disk, tmp_path: Path
) -> None:
    here, local, stage = gone(disk, "a", "b")
    arrive(local, stage)
    kept_of(local, here / "a").write_text("changed")
    (version,) = local.store.records()
    found = operate.freeze_kept(local.store, version, str(here), tmp_path / "frozen")
    texts = {
        Path(p).name: (tmp_path / "frozen" / e.sha256).read_text()
        for p, e in found.items()
        if Path(p).name in ("a", "b")
    }
    assert texts == {"a": "changed", "b": "old"}
    assert {e.size for p, e in found.items() if p.endswith("/a")} == {len("changed")}


def test_pass_that_could_not_begin_keeps_nothing_of_what_stays(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, local, stage = gone(disk, "stays")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stages, "_log", full)
    stages.verify(local, stage, local.scan())
    with local.lock(), pytest.raises(OSError, match="No space left"):
        stages.begin(local, stage, local.scan())
    assert list(local.store.versions.iterdir()) == []
    assert (here / "stays").stat().st_nlink == 1


def test_what_was_written_to_a_new_file_is_not_put_again_as_what_was_sent(disk: Disk) -> None:
    """It was put, and written to; the pass was cut off, then the file removed."""
    here, local, stage = staged(disk, lambda root: (root / "new").write_text("sent"))
    stages.verify(local, stage, local.scan())
    with local.lock():
        stages.begin(local, stage, local.scan())
        assert local.put(stage.token, str(here / "new"))
    (blob,) = (b for b in local.blobs(stage.token).iterdir() if b.read_text() == "sent")
    assert blob.stat().st_ino == (here / "new").stat().st_ino
    with (here / "new").open("a") as new:
        new.write(" and changed")
    (here / "new").unlink()
    with local.lock():
        stages.recover(local)
    assert not (here / "new").exists()


def test_directory_that_is_moved_away_meanwhile_is_not_made_anew(
    disk: Disk, tmp_path: Path
) -> None:
    here, store, scanner = disk("n2")
    local, blobs = LocalDisk(store, scanner), tmp_path / "blobs"
    for directory in (here / "w/d/e", blobs, tmp_path / "outside"):
        directory.mkdir(parents=True)
    (here / "other").write_text("other")
    entry = scanner.scan()[f"{here}/other"]
    (blobs / entry.sha256).write_text("other")
    with local.lock():
        local.make(replace(entry, path=f"{here}/w/d/e/one"), blobs, "0" * 32)
        (here / "w/d").rename(here / "w/d2")
        (here / "w/d").symlink_to(tmp_path / "outside")
        local.make(replace(entry, path=f"{here}/w/d/e/two"), blobs, "0" * 32)
    assert list((tmp_path / "outside").iterdir()) == []
