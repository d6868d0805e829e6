# SPDX-License-Identifier: GPL-3.0-or-later
"""The resident daemon: watches the role, applies it, and on the master keeps the peer in sync.

Nothing on the path of a takeover waits for it (keepalived does that alone). It is level-triggered:
each event and a slow timer make it compare what is applied with what is, and converge.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import (
    __version__,
    addresses,
    answers,
    asking,
    cause,
    conntrack,
    durable,
    fence,
    journal,
    keepalived,
    observe,
    peer,
    prober,
    processes,
    readiness,
    reconcile,
    restarts,
    revision,
    switchover,
)
from .activator import Activator
from .herald import Herald
from .keeper import Keeper
from .prober import Prober
from .promotion import Teller
from .reconcile import Action, Role
from .settings import RUNTIME_DIR, Cluster
from .stepdown import FAULT
from .sync import stage
from .sync.disk import DiskError
from .sync.store import Store
from .sync.worker import SyncWorker

FIFO = RUNTIME_DIR / "keepalived.fifo"
TICK = 1.0


def notify(state: str) -> None:
    """Tell systemd how it is (sd_notify(3): READY=1, WATCHDOG=1, STATUS=…)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link, contextlib.suppress(OSError):
        link.connect("\0" + address[1:] if address.startswith("@") else address)
        link.send(state.encode())


class Daemon:
    """The loop: events in, at most one transition at a time, its effects, a word about it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.store = Store(limits=cluster.sync_keep)
        self.worker = SyncWorker(cluster, self.store)
        self.keeper = Keeper(cluster, peer_able=self._peer_could_serve)
        self.teller = Teller(cluster)
        self.activator = Activator(cluster, self.store)
        self.herald = Herald(cluster)
        self.statuses, self.pings = answers.statuses(), answers.pings()
        self.heard: deque[str] = deque(maxlen=50)
        self.link = conntrack.Link()
        self.switch = switchover.Switch(cluster)
        self.linked: bool | None = None
        self.applied = Role.UNKNOWN
        self.stopping = False
        self.serving = False
        self.restarts = restarts.Restarts()
        self.fence = fence.Fence(cluster.check_interval)
        self.fifo = -1
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.prober = Prober(
            cluster,
            able=self._could_serve,
            serving=lambda: self.serving,
            wake=lambda: os.eventfd_write(self.wakeup, 1),
        )
        self.readiness = readiness.Watch(cluster, self.prober.blind, lambda: self.linked)
        self._peer_seen_at = time.monotonic()
        self._peer_away = False
        self._unasked_at = time.monotonic()
        self.commits = conntrack.Commits(
            [vip.address for vip in cluster.vips],
            standing_by=lambda: self.applied is Role.BACKUP and not addresses.held(cluster),
            tracked=lambda: prober.number(prober.COUNT),
            serving=lambda: bool(addresses.held(cluster)),
            complete=self.readiness.complete,
            share=lambda: self._conntrackd("-B"),
        )
        self._effects: dict[Action, Callable[[], None]] = {
            Action.OPEN_TERM: self._open_term,
            Action.CLOSE_TERM: self._close_term,
            Action.START_SENDER: self.worker.start_sending,
            Action.STOP_SENDER: self.worker.stop_sending,
            Action.SHARE_CONNECTIONS: self._share_connections,
            Action.REQUEST_CONNECTIONS: self._request_connections,
        }

    def _open_term(self) -> None:
        # Whole generations only: what was left half applied is finished before it counts.
        self.activator.changed(self.worker.replica.promote())

    def _close_term(self) -> None:
        self.worker.replica.demote()

    def _conntrackd(self, *arguments: str) -> None:
        outcome = conntrack.command(*arguments, timeout=10.0)
        if not outcome.ok:
            journal.record("conntrackd-failed", arguments=arguments, why=outcome.words)

    def _share_connections(self) -> None:
        if self.applied is Role.BACKUP:
            # keepalived has started it, too: the one that comes second has nothing left to do, and
            # what is committed after the bulk would never be sent.
            processes.bounded([conntrack.PROMOTE], 15.0)
            self.commits.promoted()
        if refused := conntrack.release():
            journal.record("guard-failed", step="release", why=refused)
        # What the kernel has, for a daemon that started late; then all of it for the peer.
        self._conntrackd("-R")
        self._conntrackd("-B")

    def _request_connections(self) -> None:
        # Not in the middle of a commit, which would have the flush ignored, or followed by another.
        with durable.locked(conntrack.COMMIT_LOCK, patience=5.0):
            if self.applied is Role.MASTER:
                # What conntrackd heard when it was started on a master is of that time, and would
                # be committed over what this node tracks.
                self._conntrackd("-f", "external")
            self._conntrackd("-n")

    def converge(self) -> None:
        """Apply the role that the kernel shows this node to have."""
        try:
            self.serving = serving = bool(addresses.held(self.cluster))
        except OSError as error:
            # Not known is not "backup": what is applied stays until the next look.
            journal.record("look-failed", why=str(error))
            return
        step = reconcile.transition(self.applied, serving=serving)
        if step is None:
            return
        began = time.monotonic()
        if step.to is Role.BACKUP:
            self._services(step.to)
        journal.record(
            "role",
            was=self.applied.value,
            now=step.to.value,
            cause=cause.here(self.applied, step.to, self.heard, gives_up=self._gives_up()),
            number=self.store.generation().number,
        )
        self.heard.clear()
        for action in step.actions:
            try:
                self._effects[action]()
            except (OSError, stage.StageError, DiskError) as error:
                journal.record("action-failed", action=action.value, why=str(error))
        was, self.applied = self.applied, step.to
        self.readiness.role_changed(promoted=was is Role.BACKUP and step.to is Role.MASTER)
        self._services(step.to)
        journal.record(
            "role-applied", role=step.to.value, seconds=round(time.monotonic() - began, 3)
        )
        self.herald.turned(was, step.to)

    def _services(self, role: Role) -> None:
        self.activator.role = role
        self.keeper.become(role)
        self.teller.become(role)

    def _gives_up(self) -> str:
        """Why this node has put itself out of service; empty when it has not."""
        if observe.in_maintenance():
            return "maintenance"
        return "switchover" if self.switch.hands_over else str(self.prober.told()["out"])

    def _could_serve(self) -> bool:
        """Whether this node can take over: asked by the prober, so without starting anything.

        Its heartbeat must not be in fault: the peer leaves service for a node that is able.
        """
        flags = (observe.MAINTENANCE, FAULT, switchover.FAULT)
        if any(observe.in_maintenance(flag) for flag in flags):
            return False
        return keepalived.runs() and all(map(observe.carrier, needed_links(self.cluster)))

    def _peer_could_serve(self) -> bool:
        """Whether the peer's latest report says the same of the peer."""
        told = self.prober.peer()
        return told is not None and told.able

    def guard(self) -> None:
        """End a keepalived that lives, but does not run, while the peer serves."""
        peer = self.prober.peer()
        if self.fence.step(
            time.monotonic(),
            serving=self.serving,
            peer_serves=peer is not None and peer.master,
            sent=fence.adverts_sent,
        ):
            self._end_keepalived()

    def _end_keepalived(self) -> None:
        # The addresses once more, now: what the loop knows may be a second old.
        with contextlib.suppress(OSError):
            if addresses.held(self.cluster):
                fence.end_keepalived()

    def _rejoin(self) -> None:
        """A keepalived that is kept down starts once the peer has no newer settings."""
        peer, now = self.prober.peer(), time.monotonic()
        if peer is not None:
            if self._peer_away:
                self.worker.peer_is_back()
            self._peer_seen_at = now
        self._peer_away = peer is None
        if not revision.held_back() and not self._unasked(now):
            return
        if peer is None:
            if now - self._peer_seen_at > revision.WAIT:
                revision.release()
        elif not revision.refusal(self.cluster, peer.revision):
            revision.release()

    def _unasked(self, now: float) -> bool:
        """Whether keepalived is down because the peer could not even be asked."""
        if keepalived.runs() or now - self._unasked_at < revision.LOOK_EVERY:
            return False
        self._unasked_at = now
        return revision.unasked()

    def tick(self) -> None:
        """What is looked at again and again, whether or not anything was heard."""
        self.converge()
        for thread in (
            *(self.worker, self.keeper, self.teller, self.activator, self.prober),
            *(self.commits, self.readiness, self.herald),
        ):
            if not thread.is_alive():
                raise SystemExit(f"thread {thread.name} has ended")  # systemd starts us again
        now = time.monotonic()
        if self.restarts.due(now):
            self.restarts.sample(now, restarts.look())
        self._rejoin()
        if self.link.due(now):
            seen = self.link.sample()
            self.linked = seen.linked
            if seen.anew and self.applied is Role.MASTER:
                # What was opened while it was dead, it has read from the kernel and told nobody.
                self._conntrackd("-B")
        notify(f"WATCHDOG=1\nSTATUS={self.applied.value}; {self.worker.result.state}")

    def report(self) -> dict[str, Any]:
        """What `status` is told."""
        peer = self.prober.peer()
        return {
            "at": time.time(),
            "role": self.applied.value,
            "sending": self.worker.sending,
            "sync": self.worker.report(),
            "conntrackd_linked": self.linked,
            "readiness": self.readiness.report(),
            "path": self.prober.told(),
            "restarts": self.restarts.loops(),
            "peer": vars(peer) if peer else None,
            "peer_silent": 0.0 if peer else round(time.monotonic() - self._peer_seen_at, 1),
        }

    def serve(self) -> None:
        """Run until told to stop."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: setattr(self, "stopping", True))
        signal.signal(signal.SIGUSR1, lambda *_: self.worker.look_again())
        # First of all: of two that may make it, keepalived unlinks at its end what it made.
        self.fifo = open_fifo(FIFO)
        self.store.ensure()
        self.store.sweep()
        self.switch.clear()
        journal.record("daemon", state="started", version=__version__)
        try:
            self.activator.changed(self.worker.replica.recover())
        except (stage.StageError, DiskError, OSError) as error:
            # A node that cannot finish a pass can still serve, and the peer is told why.
            journal.record("recover-failed", why=str(error))
        listener = listen(Path(asking.SOCKET))
        pings = listen(answers.PING_SOCKET, group=peer.USER)
        with selectors.DefaultSelector() as selector:
            selector.register(self.fifo, selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            selector.register(pings, selectors.EVENT_READ)
            selector.register(self.wakeup, selectors.EVENT_READ)
            self.prober.start()
            self.commits.start()
            self.converge()
            for thread in (
                self.worker,
                self.readiness,
                self.keeper,
                self.teller,
                self.activator,
                self.herald,
            ):
                thread.start()
            notify("READY=1")
            ticked = 0.0
            while not self.stopping:
                wait = max(0.0, ticked + TICK - time.monotonic())
                if self.fence.watching:
                    wait = min(wait, self.fence.window / fence.INTERVALS)
                for key, _ in selector.select(wait):
                    if key.fileobj is listener:
                        self._answer(listener)
                    elif key.fileobj is pings:
                        with contextlib.suppress(OSError):
                            self.pings.give(pings.accept()[0])
                    elif key.fileobj == self.wakeup:
                        os.eventfd_read(self.wakeup)
                    else:
                        self._heard()
                self.guard()
                if time.monotonic() >= ticked + TICK:
                    ticked = time.monotonic()
                    self.tick()
                    self._hear_again(selector)
        self._end()

    def _hear_again(self, selector: selectors.BaseSelector) -> None:
        """Open the FIFO anew when keepalived writes to another one, or will."""
        if not replaced(self.fifo, FIFO):
            return
        selector.unregister(self.fifo)
        os.close(self.fifo)
        self.fifo = open_fifo(FIFO)
        selector.register(self.fifo, selectors.EVENT_READ)
        journal.record("fifo", why="it was replaced")

    def _heard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self.fifo, 65536).decode(errors="replace").splitlines():
                journal.record("keepalived", line=line)
                self.heard.append(line)
        self.converge()

    def _answer(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            link, _ = listener.accept()
            with contextlib.ExitStack() as stack:
                stack.enter_context(link)
                link.settimeout(1.0)
                request = _request(link)
                if request.get("status"):
                    stack.pop_all()
                    self.statuses.give(link)
                    return
                switchover.answer(self.switch, request)
                link.sendall(json.dumps(self.report()).encode())

    def _end(self) -> None:
        # The term stays open: this node may serve on without its daemon, and a change then counts.
        self.prober.stop()
        self.worker.stop_sending()
        self.keeper.close()
        journal.record("daemon", state="stopped")
        notify("STOPPING=1")


def needed_links(cluster: Cluster) -> set[str]:
    """The interfaces without whose carrier keepalived does not serve (keepalived.conf.j2)."""
    served = {network.interface for network in cluster.networks if network.kind == "served"}
    return served | {vip.interface for vip in cluster.vips} | set(cluster.track_interfaces)


def open_fifo(path: Path) -> int:
    """The event FIFO of keepalived, opened so that no end blocks or sees an end of file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or not stat.S_ISFIFO(path.stat().st_mode):
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def replaced(fifo: int, path: Path) -> bool:
    """Whether another file than the one that is open has its name by now, or none."""
    try:
        return not os.path.samestat(os.fstat(fifo), path.stat())
    except FileNotFoundError:
        return True


def _request(link: socket.socket) -> dict[str, Any]:
    data = b""
    while len(data) < 4096 and (chunk := link.recv(4096)):
        data += chunk
    document = json.loads(data or b"{}")
    return document if isinstance(document, dict) else {}


def listen(path: Path, group: str = "") -> socket.socket:
    """A socket on which root is answered, and a group."""
    path.unlink(missing_ok=True)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.bind(str(path))
    os.chmod(path, 0o600)
    if group:
        with contextlib.suppress(LookupError):  # without it, the peer is answered by the receiver
            shutil.chown(path, group=group)
            os.chmod(path, 0o660)
    link.listen(16)
    link.setblocking(False)
    return link
