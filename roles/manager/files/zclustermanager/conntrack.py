# SPDX-License-Identifier: GPL-3.0-or-later
"""conntrackd's own word: whether it answers, and whether the two tables are linked."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import durable, journal, processes, zombies
from .settings import RUNTIME_DIR

CONFIGURATION = "/etc/zcluster/conntrackd.conf"
UNIT = "conntrackd.service"
# FTFW speaks at least once a second, if only to say that it is alive (conntrackd's sync-ftfw.c).
# Seconds without a word that make a link silent, and between two looks (each starts a process).
SILENCE, LOOK_EVERY = 3.0, 2.0
# Held by whoever commits or empties the external cache: conntrackd skips a commit, and ignores a
# flush, while a commit runs (its cache-ct.c, sync-mode.c), and the ones at a takeover, which
# keepalived starts under the same lock, must not be skipped.
COMMIT_LOCK = RUNTIME_DIR / "commit.lock"
# The last commit, and all that follows from it; harmless when it has run already.
PROMOTE = "/usr/lib/zcluster/promote"
# The backup commits what it heard now and then, so that the last commit at a takeover is short; it
# spends at most this part of its time on it.
COMMIT_EVERY, COMMIT_SHARE = 1.0, 0.3
# Seconds after a promotion at which a new master brings in what the old one, which may live, had
# still passed and told meanwhile: without it nothing more of such a connection would get through.
# Soon, for a commit puts back what has changed here since the peer told it.
STRAGGLERS = (0.03, 0.07, 0.12, 0.2)
# A standby's kernel is weeded (zombies.py): seconds on standby before the first time, and between
# two; what it spends at most of its time on that.
WEED_FIRST, WEED_EVERY, WEED_SHARE = 60.0, 3.0, 0.2
# Seconds after which a standby that died holds nothing back any more (nft(8), timeout), and after
# which one that lives says so again.
HOLD, HOLD_AGAIN = 10, 4.0
HELD = {"inet zcluster hold": "udp", "inet zcluster hold_ended": "tcp"}
# What the guard against resets needs of the kernel (sysctl.conf.j2), below /proc/sys.
KERNEL = {
    "net/netfilter/nf_conntrack_tcp_loose": "0",
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
}


@dataclass(frozen=True)
class Traffic:
    """Messages over the cluster link since conntrackd started."""

    sent: int
    received: int


@dataclass(frozen=True)
class Figures:
    """Connections this node tracks and knows of its peer's, messages the peer has not confirmed."""

    tracked: int
    foreign: int
    unconfirmed: int
    lost: int


@dataclass(frozen=True)
class Conntrackd:
    """Whether it answers, and (None: not known yet) whether it hears its peer.

    anew: it was started since the last look.
    """

    answers: bool
    linked: bool | None = None
    why: str = ""
    anew: bool = False


def command(*arguments: str, timeout: float = 5.0) -> processes.Outcome:
    """Ask the running conntrackd something."""
    return processes.run(["conntrackd", "-C", CONFIGURATION, *arguments], timeout=timeout)


def parse(text: str) -> Traffic | None:
    """Bytes sent and received, from `conntrackd -s link` or `-s network` (conntrackd(8))."""
    sent = re.search(r"(\d+)\s+Bytes sent", text)
    received = re.search(r"(\d+)\s+Bytes recv", text)
    if not sent or not received:
        return None
    return Traffic(int(sent[1]), int(received[1]))


def look() -> tuple[Traffic | None, str]:
    """Its counters now; None and the reason when it does not answer."""
    outcome = command("-s", "network", timeout=2.0)
    if not outcome.ok:
        return None, outcome.words
    return parse(outcome.out), ""


def entries(cache: str) -> int | None:
    """Entries of its `internal` (this node's) or `external` (the peer's) cache; None: no answer."""
    outcome = command("-s", "cache", timeout=2.0)
    counted = re.search(rf"cache:{cache}\s+active objects:\s+(\d+)", outcome.out)
    return int(counted[1]) if outcome.ok and counted else None


def parse_figures(caches: str, queues: str) -> Figures | None:
    """The counters of `conntrackd -s` and `-s queue` (conntrackd(8)); None if they are not there.

    What is in the resend queue is not confirmed yet: up to an acknowledgement window of it is
    normal (ACKWindowSize), more is how far the peer is behind.
    """

    def number(pattern: str, text: str) -> int | None:
        found = re.search(pattern, text, re.DOTALL)
        return int(found[1]) if found else None

    tracked = number(r"cache internal:.*?current active connections:\s+(\d+)", caches)
    foreign = number(r"cache external:.*?current active connections:\s+(\d+)", caches)
    waiting = number(r"queue rsqueue:.*?current elements:\s+(\d+)", queues)
    lost = number(r"(\d+)\s+Lost msgs", caches)
    if tracked is None or foreign is None:
        return None
    return Figures(tracked, foreign, waiting or 0, lost or 0)


def figures() -> Figures | None:
    """The counters now; None when conntrackd does not answer."""
    caches, queues = command("-s", timeout=2.0), command("-s", "queue", timeout=2.0)
    return parse_figures(caches.out, queues.out) if caches.ok and queues.ok else None


def commit(timeout: float) -> None:
    """Bring the kernel what the external cache has; waits for whoever does so at the moment."""
    with durable.locked(COMMIT_LOCK):
        command("-c", timeout=timeout)


def ask_again() -> None:
    """On a standby: the external cache anew, from what the peer tracks now.

    What it had is in the kernel before it goes: a takeover while the peer sends loses nothing.
    """
    with durable.locked(COMMIT_LOCK):
        command("-c", timeout=30.0)
        command("-f", "external")
        command("-n")


def instance() -> str:
    """The id of this run of conntrackd (systemd.exec(5), INVOCATION_ID); empty: none."""
    shown = processes.run(["systemctl", "show", "--property=InvocationID", "--value", UNIT])
    return shown.out.strip() if shown.ok else ""


def hold() -> str:
    """On a standby: what its kernel may take for another waits, until a takeover's last commit.

    The sets are read by the node's own table (zcluster.nft), and emptied by keepalived's `promote`.
    Returns what was refused, and why; empty: nothing.
    """
    return _refused(
        {
            held: f"flush set {held}\nadd element {held} {{ {protocol} timeout {HOLD}s }}\n"
            for held, protocol in HELD.items()
        }
    )


def release() -> str:
    """On a master, once its last commit is done: nothing waits any more. Returns as hold does."""
    return _refused({held: f"flush set {held}\n" for held in HELD})


def _refused(changes: Mapping[str, str]) -> str:
    # Each set by itself: one that a table of an older version lacks must not keep the others.
    done = {held: processes.run(["nft", "-f", "-"], given=to) for held, to in changes.items()}
    return "; ".join(f"{held}: {said.finding}" for held, said in done.items() if not said.ok)


class Commits(threading.Thread):
    """Commits on the backup, again and again, so that a takeover finds almost nothing to do.

    And a few times on a node that was promoted just now (share: what it then tells its peer).
    """

    def __init__(
        self,
        vips: Sequence[str],
        *,
        standing_by: Callable[[], bool],
        serving: Callable[[], bool],
        tracked: Callable[[], int],
        complete: Callable[[int], bool],
        share: Callable[[], None],
    ) -> None:
        super().__init__(name="commits", daemon=True)
        self._vips = vips
        self._standing_by = standing_by
        self._serving = serving
        self._tracked = tracked
        self._complete = complete
        self._share = share
        self._promoted = threading.Event()
        self._held_at: float | None = None
        self._refused = ""
        self._anew(time.monotonic())

    def run(self) -> None:
        """Until the daemon ends."""
        pause = COMMIT_EVERY
        while True:
            promoted = self._promoted.wait(pause)
            try:
                if promoted:
                    self._promoted.clear()
                    self.collect()
                pause = self.once()
            except OSError as error:
                journal.record("conntrackd-failed", arguments="-c", why=str(error))
                pause = COMMIT_EVERY

    def promoted(self) -> None:
        """This node has become master, and has done its last commit."""
        self._promoted.set()

    def collect(self) -> None:
        """On a new master: what its peer has told since the last commit, and only that."""
        began, found = time.monotonic(), False
        # Should this node stand by again in a moment, it is as one that has not done so before.
        self._anew(began)
        for moment in STRAGGLERS:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            with durable.locked(COMMIT_LOCK):
                if not self._serving():
                    return
                if entries("external"):
                    command("-c", timeout=10.0)
                    command("-f", "external")
                    found = True
        if found and self._serving():
            self._share()

    def _anew(self, now: float) -> None:
        self._weed_at, self._held_at, self._commit_at = now + WEED_FIRST, None, now

    def once(self) -> float:
        """What is due if this node stands by: to hold, to commit; seconds until something is."""
        if not self._standing_by():
            # What a former master tracks is all there is, until its peer has sent the same.
            self._anew(time.monotonic())
            return COMMIT_EVERY
        began = time.monotonic()
        if not self._alone(lambda: self._hold(began)):
            return COMMIT_EVERY
        if began >= self._commit_at:
            # Large tables take long to read: no takeover waits for that.
            ended = self._ended(began)
            began = time.monotonic()
            if not self._alone(lambda: self._commit(ended)):
                return COMMIT_EVERY
            done = time.monotonic()
            self._commit_at = done + max(COMMIT_EVERY, (done - began) / COMMIT_SHARE)
        # Large tables are committed seldom: what is held back must not run out meanwhile.
        hold_at = began + COMMIT_EVERY if self._held_at is None else self._held_at + HOLD_AGAIN
        return max(0.0, min(self._commit_at, hold_at) - time.monotonic())

    def _alone(self, act: Callable[[], None]) -> bool:
        """Do it with no takeover in between; False, and nothing, once this node does not stand by.

        The lock may have been that of a takeover, after which nothing here may be touched.
        """
        with durable.locked(COMMIT_LOCK):
            standing_by = self._standing_by()
            if standing_by:
                act()
            return standing_by

    @staticmethod
    def _commit(ended: set[zombies.Flow]) -> None:
        # Should one be wanted after all, the commit that follows brings it back.
        if ended:
            zombies.delete(ended)
        command("-c", timeout=30.0)

    def _hold(self, now: float) -> None:
        if self._held_at is None or now - self._held_at >= HOLD_AGAIN:
            refused = hold()
            self._held_at = None if refused else now
            if refused and refused != self._refused:
                journal.record("guard-failed", step="hold", why=refused)
            self._refused = refused

    def _ended(self, now: float) -> set[zombies.Flow]:
        """What this node tracks and its peer does not, when it is time to look for that."""
        # Who knows of no connection at all has not been told, or has just been promoted.
        if now < self._weed_at:
            return set()
        foreign = entries("external")
        if not foreign or self._tracked() <= foreign:
            return set()
        here = processes.run(["conntrack", "-L"], timeout=10.0)
        told = command("-e", timeout=10.0)
        ended: set[zombies.Flow] = set()
        if here.ok and told.ok and self._complete(foreign):
            ended = zombies.flows(here.out, self._vips) - zombies.flows(told.out, self._vips)
        took = time.monotonic() - now
        self._weed_at = now + max(WEED_EVERY, took / WEED_SHARE)
        return ended


def kernel_settings(base: Path = Path("/proc/sys")) -> tuple[str, ...]:
    """What the kernel has otherwise than it must, in words; a setting that is not there is one."""
    wrong = []
    for name, wanted in KERNEL.items():
        try:
            found = (base / name).read_text(encoding="ascii").strip()
        except OSError:
            found = "missing"
        if found != wanted:
            wrong.append(f"{name.rpartition('/')[2]} is {found}, not {wanted}")
    return tuple(wrong)


class Link:
    """Watches the counters: a link that lives goes on receiving."""

    def __init__(self) -> None:
        self._received = -1
        self._gone = False
        self._heard_at: float | None = None
        self._since = time.monotonic()
        self._looked_at: float | None = None

    def due(self, now: float) -> bool:
        """Whether it is time for a look."""
        return self._looked_at is None or now - self._looked_at >= LOOK_EVERY

    def sample(self) -> Conntrackd:
        """Look once; `linked` is None until there was time to hear something."""
        traffic, why = look()
        now = self._looked_at = time.monotonic()
        if traffic is None:
            self._received, self._heard_at, self._since = -1, None, now
            self._gone = True
            return Conntrackd(False, None, why or "conntrackd says nothing of its link")
        anew, self._gone = self._gone or traffic.received < self._received, False
        if self._received >= 0 and traffic.received != self._received:
            self._heard_at = now
        self._received = traffic.received
        if self._heard_at is not None:
            return Conntrackd(True, now - self._heard_at <= SILENCE, anew=anew)
        return Conntrackd(True, None if now - self._since <= SILENCE else False, anew=anew)


def probe() -> Conntrackd:
    """The same without a daemon: look until the counter moves, at most SILENCE seconds."""
    link = Link()
    deadline = time.monotonic() + SILENCE
    while True:
        state = link.sample()
        if not state.answers or state.linked is not None or time.monotonic() > deadline:
            return state
        time.sleep(0.2)
