# SPDX-License-Identifier: GPL-3.0-or-later
"""``start()``: a run beside its caller, its events as an iterator. Prints nothing, asks nothing."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from typing import Any, Self

from zcluster_runner import api
from zcluster_runner.errors import DriverError
from zcluster_runner.result import Event, Result
from zcluster_runner.secret import Secret


class Running:
    """A run under way: iterate over its events, then read ``result``.

    As a context manager it never outlives its block: one that is left early stops the run.
    """

    def __init__(self, verb: str, **options: Any) -> None:
        """Start the run in a thread of its own; ``options`` are those of ``run()``."""
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._canceled = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._work, args=(verb, options), name=f"zcluster {verb}"
        )
        self._thread.start()

    def _work(self, verb: str, options: dict[str, Any]) -> None:
        try:
            self._result = api.run(
                verb, on_event=self._events.put, cancel=self._canceled.is_set, **options
            )
        except BaseException as error:  # noqa: BLE001  it is raised where the result is read
            self._error = error
        finally:
            self._events.put(None)

    def __iter__(self) -> Iterator[Event]:
        """Yield each event as it happens, once, until the run has ended."""
        while (event := self._events.get()) is not None:
            yield event
        self._events.put(None)  # whoever iterates again, or in another thread, ends too

    @property
    def result(self) -> Result:
        """What came of it; waits for the end. Raises what ``run()`` would have raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise DriverError("the run ended without a result")
        return self._result

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Stop it in order, as Ctrl-C would; ``result`` then says how far it got."""
        self._canceled.set()

    def __enter__(self) -> Self:
        """Be the run of this block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what is still running, and wait until nothing of it is left."""
        self.cancel()
        self._thread.join()


def start(
    verb: str,
    *,
    inventory: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    limit: str | None = None,
    check: bool = False,
    diff: bool = False,
    verbosity: int = 0,
    password: Secret | str | None = None,
    **params: Any,
) -> Running:
    """Start a verb and return at once; iterate over what comes back for its events.

    The keywords are those of ``run()``. Raises UsageError for a verb or parameter that cannot be;
    what is found out later (an inventory that is not there) is raised where ``result`` is read.
    """
    api.checked(api.action_for(verb), params)
    return Running(
        verb,
        inventory=inventory,
        cluster=cluster,
        limit=limit,
        check=check,
        diff=diff,
        verbosity=verbosity,
        password=password,
        **params,
    )
