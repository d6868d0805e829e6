#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Holds, on a node, the lease of the action that changes its cluster now."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_lease
short_description: Lease of an action on a cluster
version_added: 0.1.0
description:
  - One action at a time changes a cluster. Each takes a lease on the nodes first (V(held)), renews
    it by taking it again, and gives it back (V(released)).
  - A lease ends by itself after O(seconds), or with a reboot of the node. That of a run of the same
    controller that has died is taken over at once; one that lives keeps it, however long it takes.
  - Needs nothing on the node but Python; role C(zcluster.ha.lease) takes it in the right order.
  - On a node that is in a cluster its history gets who acted, since when, and with what outcome.
options:
  state:
    description: Whether the run is to hold the lease.
    type: str
    choices: [held, released]
    default: held
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  verb:
    description: What the run does, for whoever else would, and for the history.
    type: str
    default: ""
  outcome:
    description: What came of it, for the history; for O(state=released).
    type: str
    choices: [done, failed]
    default: done
  why:
    description: Why it failed, for the history.
    type: str
    default: ""
  seconds:
    description: How long the lease lasts unless it is renewed.
    type: int
    default: 600
  run:
    description: Identity of the run; the action plugin fills it in.
    type: str
    default: ""
  who:
    description: User and controller; the action plugin fills it in.
    type: str
    default: ""
  dead:
    description: Identity of a run that is known to have ended; the action plugin fills it in.
    type: str
    default: ""
  controller:
    description: Identity of the controller; the action plugin fills it in.
    type: str
    default: ""
author:
  - zcluster contributors (@zcluster)
attributes:
  check_mode:
    description: Can run in check mode; then nothing is taken, and nothing refused.
    support: full
  diff_mode:
    description: A lease is no state of the node, so there is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Take the lease
  zcluster.ha.node_lease:
    cluster: web
    verb: update

- name: Give it back
  zcluster.ha.node_lease:
    cluster: web
    state: released

- name: Give it back after a failure
  zcluster.ha.node_lease:
    cluster: web
    state: released
    outcome: failed
    why: lb2 did not become green
"""

RETURN = r"""
granted:
  description: Whether the run holds the lease (V(held)), or has given it back (V(released)).
  returned: success
  type: bool
held_by:
  description: Identity of the run that holds it instead; empty if this one does.
  returned: success
  type: str
message:
  description: Who holds it instead, in words; empty if this run does.
  returned: success
  type: str
who:
  description: Who acts, as the history has it.
  returned: success
  type: str
  sample: alice@ops
"""

import contextlib
import fcntl
import json
import os
import time
import typing as t
from dataclasses import asdict, fields

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.zcluster.ha.plugins.module_utils._lease import (
    Event,
    Lease,
    events_of_taking,
    granted,
    refusal,
    renewed,
)

# Beside zcluster's own directory: it outlives unset, and is there before create.
PATH = "/run/zcluster.lease"
MANAGER = "/usr/sbin/zclustermanager"
SETTINGS = "/etc/zcluster/cluster.json"


@contextlib.contextmanager
def locked(path: str) -> t.Iterator[t.IO[str]]:
    """The lease file, locked; who waited for one that was removed meanwhile takes the new one."""
    while True:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                same = os.stat(path).st_ino == os.fstat(stream.fileno()).st_ino
            except FileNotFoundError:
                same = False
            if same:
                yield stream
                return


def read(stream: t.IO[str]) -> t.Optional[Lease]:
    """The lease in the file; None for an empty or torn one. A newer version may say more in it."""
    try:
        told = json.load(stream)
        return Lease(**{field.name: told[field.name] for field in fields(Lease)})
    except (KeyError, TypeError, ValueError):
        return None


def take(
    path: str, wanted: Lease, now: float, dead: str, controller: str = ""
) -> t.Tuple[t.Optional[Lease], t.List[Event]]:
    """Take or renew the lease: the one in the way, or None; and what the history is told."""
    with locked(path) as stream:
        held = read(stream)
        if held is not None and not granted(held, wanted.run, now, dead, controller):
            return held, []
        stream.seek(0)
        stream.truncate()
        json.dump(asdict(renewed(held, wanted)), stream)
    return None, events_of_taking(held, wanted)


def release(path: str, run: str) -> t.Optional[Lease]:
    """Give the lease back, and return it; that of another run stays."""
    with locked(path) as stream:
        held = read(stream)
        if held is None or held.run == run:
            os.unlink(path)
            return held
    return None


def record(module: AnsibleModule, event: Event) -> None:
    """Put it into the node's history, if the node is in a cluster."""
    if not (event.lease.verb and os.path.exists(MANAGER) and os.path.exists(SETTINGS)):
        return
    words = [MANAGER, "event", "--state=" + event.state, "--who=" + event.lease.who]
    words += ["--run-id=" + event.lease.run, "--why=" + event.why, "--", event.lease.verb]
    code, _out, err = module.run_command(words)
    if code != 0:
        # The action itself is what counts: it is not stopped for a note about it.
        module.warn("the action could not be recorded in the history: %s" % err.strip())


def main() -> None:
    """Take it, or give it back."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["held", "released"], "default": "held"},
            "cluster": {"type": "str", "required": True},
            "verb": {"type": "str", "default": ""},
            "outcome": {"type": "str", "choices": ["done", "failed"], "default": "done"},
            "why": {"type": "str", "default": ""},
            "seconds": {"type": "int", "default": 600},
            "run": {"type": "str", "default": ""},
            "who": {"type": "str", "default": ""},
            "dead": {"type": "str", "default": ""},
            "controller": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    asked = module.params
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    other = None
    if not module.check_mode:
        if asked["state"] == "held":
            wanted = Lease(
                asked["cluster"],
                asked["verb"],
                asked["run"],
                asked["who"],
                now,
                now,
                now + asked["seconds"],
            )
            other, events = take(PATH, wanted, now, asked["dead"], asked["controller"])
            for event in events:
                record(module, event)
        elif held := release(PATH, asked["run"]):
            record(module, Event(held, asked["outcome"], asked["why"]))
    module.exit_json(
        changed=False,
        granted=other is None,
        held_by=other.run if other else "",
        message=refusal(other, now) if other else "",
        who=asked["who"],
    )


if __name__ == "__main__":
    main()
