# SPDX-License-Identifier: GPL-3.0-or-later
"""The peer as a sender has it: requests of its receiving gate, contents by rsync."""

from __future__ import annotations

import base64
import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import activation, addresses, peer
from ..session import PATIENCE, Channel, Session
from ..settings import Cluster
from . import generation as generations
from . import offers, tree
from .generation import Generation, Relation
from .replica import Offer
from .store import Store


class FarEnd:
    """Every call raises peer.PeerError when the peer does not answer, or refuses."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self.cluster = cluster
        self.store = store
        self.name = cluster.peer.hostname
        self.channel = Channel(cluster)

    def _ask(self, request: str, payload: Any = None) -> Any:
        return peer.ask(self.cluster, request, payload, timeout=PATIENCE)

    def reach(self) -> None:
        """Its gate answers."""
        self.channel.ask("generation")

    def offer(self, offer: Offer, frozen: Path | None) -> dict[str, Any]:
        """The answer of the peer's `Replica.judge`, and of `commit` if that was enough."""
        contents: dict[str, Any] = {}
        if frozen is not None:
            read = {f.name: base64.b64encode(f.read_bytes()).decode() for f in frozen.iterdir()}
            contents["contents"] = read

        def document(session: Session | None) -> dict[str, Any]:
            base = None
            if session:
                # Until it is answered, nobody knows what the far end has of it.
                base, session.remembered = session.remembered, None
            return offers.dump(offer, self.cluster, base) | contents

        answer: dict[str, Any] = self.channel.ask("offer", document, self._patience())
        if self.channel.session:
            self.channel.session.remembered = offer.manifest
        return answer

    def send(self, frozen: Path, token: str) -> None:
        """Bring frozen contents into the stage that the peer opened."""
        peer.send_contents(self.cluster, frozen, token, self._serves_no_more)

    def commit(self, token: str) -> dict[str, Any]:
        """Have the stage applied."""
        answer: dict[str, Any] = self.channel.ask(f"commit {token}", timeout=self._patience())
        return answer

    def _patience(self) -> float:
        """What is applied is answered once all that depends on it is activated there."""
        return PATIENCE + activation.patience(self.cluster.services)

    def fetch(self, mine: Generation) -> tuple[Relation, Offer]:
        """What the peer has; judged as sound as any offer of it."""
        answer = self._ask("fetch", {"generation": generations.dump(mine)})
        try:
            return Relation(answer["relation"]), offers.undump(answer, self.cluster)
        except (KeyError, TypeError, ValueError) as error:
            raise peer.PeerError(f"{self.name} offers what cannot be taken: {error}") from error

    def receive(self, need: list[str], _: Offer, token: str) -> None:
        """Bring contents of the peer into a stage of this node."""
        if need:
            self.take(need, self.store.incoming / token / "blobs", self._serves_no_more)

    def _serves_no_more(self) -> bool:
        """Whether a pass is over: it may take hours, and nothing else is done meanwhile."""
        try:
            return not addresses.held(self.cluster)
        except OSError:
            return False  # not known

    def take(
        self, need: list[str], directory: Path, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """Bring live contents of the peer into a directory, each under its SHA-256."""
        with self._frozen("freeze", {"need": need}, directory, cancelled):
            pass

    def take_kept(self, version: str, path: str, directory: Path) -> tree.Manifest:
        """Bring what the peer keeps of a path in a version into a directory."""
        with self._frozen("kept", {"version": version, "path": path}, directory) as answer:
            return tree.undump(answer["entries"])

    @contextlib.contextmanager
    def _frozen(
        self,
        request: str,
        payload: Any,
        directory: Path,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Any]:
        token = uuid.uuid4().hex
        answer = self._ask(f"{request} {token}", payload)
        try:
            peer.take_contents(self.cluster, token, directory, cancelled)
            yield answer
        finally:
            with contextlib.suppress(peer.PeerError):
                self._ask(f"thaw {token}")
