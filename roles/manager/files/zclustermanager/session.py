# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of the peer one after another over one channel, answered by one process that remembers.

A request is a line of JSON, and so is its answer. So a small change costs neither the start of a
program nor another look at the whole tree.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from . import processes
from .peer import PeerError, RefusedError, ask, judged, ssh_to
from .settings import Cluster

# Seconds without a request after which the far end leaves; who still needs it says so before.
IDLE = 120.0
KEPT = 45.0
KEEPS_WITHIN = 10.0
# Seconds for an answer.
PATIENCE = 120.0
# Seconds until it is tried again with a peer that has no such thing.
AGAIN = 60.0
CHUNK = 1 << 16
LINE_END = b"\n"


class OverError(PeerError):
    """The far end has ended the session, for good reasons of its own: a new one answers."""


class Session:
    """This node's end. Every call raises peer.PeerError; `open` says whether another can follow.

    `remembered`: what the far end has of the requests so far, for whoever asks.
    """

    def __init__(self, cluster: Cluster, timeout: float) -> None:
        self.cluster = cluster
        self.used = time.monotonic()
        self.open = True
        self.remembered: Any = None
        self._link, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*ssh_to(cluster), "session"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    env=processes.ENVIRONMENT,
                )
            except OSError as error:
                self._link.close()
                raise PeerError(f"ssh: {error}") from error
        try:
            self._hear(b"", timeout)
        except PeerError:
            self.close()
            raise

    def ask(self, request: str, payload: Any, timeout: float) -> Any:
        """As `peer.ask`."""
        line = json.dumps({"request": request, "payload": payload}).encode() + LINE_END
        answer = self._hear(line, timeout)
        self.used = time.monotonic()
        return answer

    def fileno(self) -> int:
        """Readable, while nothing is asked, once the far end has left."""
        return self._link.fileno()

    def close(self) -> None:
        """The far end sees it, and leaves."""
        self.open = False
        self._link.close()
        with self._process:
            self._process.kill()

    def _hear(self, line: bytes, timeout: float) -> Any:
        """Say a line, hear one. An answer that says no leaves the channel open."""
        try:
            said = self._exchange(line, time.monotonic() + timeout)
        except OSError as error:
            words = self._last_words() or str(error)
            self.close()
            raise PeerError(f"{self.cluster.peer.hostname}: {words}") from error
        answer = judged(self.cluster, said)
        if answer.get("over"):
            self.close()
            raise OverError(f"{self.cluster.peer.hostname}: the session is over")
        return answer

    def _exchange(self, line: bytes, deadline: float) -> bytes:
        heard = bytearray()
        self._link.settimeout(deadline - time.monotonic())
        # Who does not listen any more may have said why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._link.sendall(line)
        while not heard.endswith(LINE_END):
            self._link.settimeout(max(0.001, deadline - time.monotonic()))
            if not (chunk := self._link.recv(CHUNK)):
                raise ConnectionError("the connection ended")
            heard += chunk
        if not heard.startswith(b"{"):
            raise ConnectionError("the answer is not JSON")
        return bytes(heard)

    def _last_words(self) -> str:
        """What ssh, or the relay on the far end, said of it."""
        try:
            _, said = self._process.communicate(timeout=0.1)
        except subprocess.TimeoutExpired:
            return ""
        lines = said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


class Channel:
    """`peer.ask` over a session where the peer has one; else each request on its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.session: Session | None = None
        self._none_until = 0.0

    def ask(
        self,
        request: str,
        payload: Callable[[Session | None], Any] = lambda _: None,
        timeout: float = PATIENCE,
    ) -> Any:
        """`payload` is made for the session that it goes to; for None if each stands alone."""
        for _ in range(2):
            if self.session is None or not self.session.open:
                self.session = self._opened(timeout)
            if self.session is None:
                break
            with contextlib.suppress(OverError):
                return self.session.ask(request, payload(self.session), timeout)
        return ask(self.cluster, request, payload(None), timeout=timeout)

    def _opened(self, timeout: float) -> Session | None:
        if time.monotonic() < self._none_until:
            return None
        try:
            return Session(self.cluster, timeout)
        except RefusedError:
            # A version without: the request itself may be answered.
            self._none_until = time.monotonic() + AGAIN
            return None

    def keep(self) -> bool:
        """Now and then, while nothing is asked; False when the far end has gone since."""
        session = self.session
        if session and session.open and time.monotonic() - session.used > KEPT:
            try:
                self.ask("generation", timeout=KEEPS_WITHIN)
            except PeerError:
                return False
        return True

    def close(self) -> None:
        """Nothing will be asked for a while."""
        if self.session:
            self.session.close()
            self.session = None


def _line(limit: int) -> bytes:
    """What the peer says, to the end of the line; nothing at its end."""
    line = bytearray()
    while not line.endswith(LINE_END) and len(line) < limit:
        if not (chunk := os.read(0, CHUNK)):
            return b""
        line += chunk
    return bytes(line)


def say(answer: Any) -> None:
    """One answer."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def heard(limit: int, begun: Callable[[], object], meanwhile: Callable[[], float]) -> bytes:
    """The next request's line; empty when there will be none.

    `begun` is called at its first byte; `meanwhile` while there is none, and says for how many
    seconds it need not be called again.
    """
    left = time.monotonic() + IDLE
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while (now := time.monotonic()) < left:
            if selector.select(min(left - now, meanwhile())):
                begun()
                return _line(limit)
    return b""
