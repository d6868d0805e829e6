# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of zclustermanager: one subcommand per thing the node can be asked."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from . import __version__, asking
from .settings import SettingsError, load


def _answer() -> dict[str, Any]:
    if (answer := asking.status()) is not None:
        return answer
    from . import observe, status

    cluster = load()
    if cluster is None:
        return status.not_configured(socket.gethostname())
    return status.decide(cluster, observe.look(cluster))


def _status(options: argparse.Namespace) -> int:
    if options.each_line:
        for _ in sys.stdin:
            print(json.dumps(_answer()), flush=True)
        return 0
    answer = _answer()
    if options.json:
        print(json.dumps(answer))
    else:
        print(f"{answer['hostname']}: {answer['role']}, {answer['status']}: {answer['message']}")
    return {"ok": 0, "maintenance": 1, "failure": 2}.get(answer["status"], 3)


def _wait(options: argparse.Namespace) -> int:
    """Wait for a role. `settled`: master, or backup of a master that advertises."""
    from . import keepalived

    deadline = time.monotonic() + options.timeout
    wanted = {"master": {keepalived.State.MASTER}}.get(
        options.role, {keepalived.State.MASTER, keepalived.State.BACKUP, keepalived.State.FAULT}
    )
    last = None
    while time.monotonic() < deadline:
        seen = keepalived.ask()
        # The same answer twice: a node on its way to master says backup first.
        if seen.state in wanted and (options.role == "master" or seen.state == last):
            print(seen.state.name.lower() if seen.state else "")
            return 0
        last = seen.state
        time.sleep(0.5)
    seen = keepalived.ask()
    state = seen.state.name if seen.state else "not running"
    print(
        f"keepalived is {state}, not {options.role}, after {options.timeout:g} s. {seen.why}",
        file=sys.stderr,
    )
    return 1


def _reach(options: argparse.Namespace) -> int:
    """Say which addresses nobody answers for; what matters is that a host is there, not a port."""
    from . import addresses

    silent = [address for address in options.address if not addresses.answers(address)]
    for address in silent:
        print(f"nobody answers for {address}", file=sys.stderr)
    return 1 if silent else 0


def _daemon(_: argparse.Namespace) -> int:
    from .daemon import Daemon

    cluster = load()
    if cluster is None:
        print("this node is in no cluster", file=sys.stderr)
        return 1
    Daemon(cluster).serve()
    return 0


def _services(options: argparse.Namespace) -> int:
    from . import activation, addresses, apply, peer

    cluster = load()
    if cluster is None:
        print("this node is in no cluster", file=sys.stderr)
        return 3
    master = bool(addresses.held(cluster))
    nodes = {cluster.local.hostname: activation.report(cluster, master=master)}
    if not options.local:
        try:
            said = peer.ask(cluster, "ping", timeout=4.0)
            nodes[cluster.peer.hostname] = said["services"]
        except peer.PeerError as error:
            print(error, file=sys.stderr)
    rows = [
        {"service": told["name"], "node": node, "state": told["state"], "why": told["why"]}
        for node, services in nodes.items()
        for told in services
    ]
    if options.json:
        print(json.dumps({"hostname": cluster.local.hostname, "services": rows}))
    else:
        print("\n".join(apply.table(rows)))
    return apply.code(rows)


def _apply(options: argparse.Namespace) -> int:
    from . import apply

    cluster = load()
    if cluster is None:
        print("this node is in no cluster", file=sys.stderr)
        return 3
    try:
        # What is noted on the way is in the events; here the answer is all that is wanted.
        with contextlib.redirect_stderr(io.StringIO()):
            if options.check:
                answer = apply.check(cluster, options.service, options.candidate)
            else:
                answer = apply.apply(cluster, options.service)
    except apply.ApplyError as error:
        print(error, file=sys.stderr)
        return 64
    print(json.dumps(answer) if options.json else "\n".join(apply.table(answer["services"])))
    return apply.code(answer["services"])


def _firewall(options: argparse.Namespace) -> int:
    """The validator of preset nftables."""
    from . import firewall

    cluster = load()
    if cluster is None:
        print("this node is in no cluster", file=sys.stderr)
        return 1
    if why := firewall.complaint(cluster, options.file):
        print(why, file=sys.stderr)
        return 1
    return 0


def _receive(_: argparse.Namespace) -> int:
    from . import receive

    return receive.main()


def _planned(options: argparse.Namespace) -> int:
    from . import maintenance, switchover
    from .takeover import RefusedError

    cluster = load()
    if cluster is None:
        print("this node is in no cluster", file=sys.stderr)
        return 1
    try:
        if options.verb == "switchover":
            done = switchover.away(cluster, check=options.check)
        elif options.state == "enable":
            done = maintenance.enable(cluster, force=options.force, check=options.check)
        else:
            done = maintenance.disable(cluster, check=options.check)
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"changed": done.changed, "message": done.message}))
    return 0


def _boot(_: argparse.Namespace) -> int:
    from . import revision

    cluster = load()
    why = revision.gate(cluster) if cluster else ""
    if why:
        print(why, file=sys.stderr)
    return 1 if why else 0


def _hold(options: argparse.Namespace) -> int:
    from . import switchover
    from .takeover import RefusedError

    cluster = load()
    if cluster is None:
        return 0
    try:
        print(switchover.hold(cluster) if options.action == "begin" else switchover.release())
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _heartbeat(_: argparse.Namespace) -> int:
    """Say on which networks this node is master, as JSON."""
    from . import newcomers
    from .takeover import RefusedError

    try:
        print(json.dumps({"master": sorted(newcomers.serves_on())}))
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _introduce(_: argparse.Namespace) -> int:
    from . import newcomers
    from .takeover import RefusedError

    # Whoever asked may be gone before it is done: what it leaves must be whole all the same.
    for signum in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    try:
        newcomers.introduce(sys.stdin.read())
    except (RefusedError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _timing(_: argparse.Namespace) -> int:
    from . import timing

    cluster = load()
    if cluster is None:
        print("this node is in no cluster", file=sys.stderr)
        return 1
    print(json.dumps(timing.measure(cluster)))
    return 0


def _recover(_: argparse.Namespace) -> int:
    from .sync import tree
    from .sync.disk import LocalDisk
    from .sync.replica import Replica
    from .sync.store import Store, new_id

    cluster = load()
    if cluster is None:
        return 0
    store = Store(limits=cluster.sync_keep)
    store.ensure()
    disk = LocalDisk(store, tree.Scanner(cluster.sync_paths, cluster.sync_excludes))
    changed = Replica(disk, new_id).recover()
    if changed:
        print(f"finished a pass: {len(changed)} paths")
    return 0


def _undo(_: argparse.Namespace) -> int:
    from .sync import stage
    from .sync.store import Store

    store = Store()
    with store.lock():
        restored = stage.undo(store)
    print(f"brought back: {len(restored)} paths")
    return 0


def _operate(options: argparse.Namespace) -> int:
    from .sync import operate

    cluster = load()
    if cluster is None:
        print("this node is in no cluster", file=sys.stderr)
        return 3
    said = {name: getattr(options, name, "") for name in ("path", "version", "keep", "why", "who")}
    path, _, version = said["path"].rpartition("@") if options.action == "restore" else ("", "", "")
    if options.action == "restore":
        said |= {"path": path, "version": version}
    try:
        answer = operate.run(cluster, options.action, operate.Asked(**said, check=options.check))
    except operate.OperateError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(answer) if options.json else operate.text(options.action, answer))
    return 0


SYNC_VERBS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("status", "state, lag, last pass, generation of both nodes, differences by path", {}),
    ("now", "a full pass at once; waits for its end", {}),
    ("pause", "stop synchronization, durably", {"why": "the reason", "--who": "who pauses"}),
    ("resume", "end a pause", {"--who": "who resumes"}),
    ("versions", "what passes overwrote or removed here", {"path?": "only this path"}),
    ("restore", "bring a kept version back (on the master)", {"path": "PATH@VERSION"}),
    ("resolve", "after divergence: what differs, and who gives way", {"--keep": "node that stays"}),
)


def _sync_parser(verb: argparse.ArgumentParser) -> None:
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("recover", help="finish or drop a half-applied pass (at boot)")
    action.set_defaults(run=_recover)
    action = actions.add_parser("undo", help="bring back what all passes replaced on this node")
    action.set_defaults(run=_undo)
    for name, text, arguments in SYNC_VERBS:
        action = actions.add_parser(name, help=text)
        for argument, meaning in arguments.items():
            if argument.endswith("?"):
                action.add_argument(argument[:-1], help=meaning, default="", nargs="?")
            else:
                action.add_argument(argument, help=meaning, default="")
        action.add_argument("--json", action="store_true", help="as one JSON object")
        action.add_argument("--check", action="store_true", help="say what would be, do nothing")
        action.set_defaults(run=_operate)


def _add_planned(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("maintenance", help="hand over and never serve; or serve again")
    verb.add_argument("state", choices=["enable", "disable"])
    verb.add_argument("--force", action="store_true", help="even if nobody could take over")
    verb.add_argument("--check", action="store_true", help="change nothing, say what would be")
    verb.set_defaults(run=_planned)

    verb = verbs.add_parser("switchover", help="have the other node serve, without a loss")
    verb.add_argument("--check", action="store_true", help="change nothing, say what would be")
    verb.set_defaults(run=_planned)

    verb = verbs.add_parser("hold", help="keep the backup from taking over while settings change")
    verb.add_argument("action", choices=["begin", "end"])
    verb.set_defaults(run=_hold)

    verb = verbs.add_parser("heartbeat", help="on which networks this node is master, as JSON")
    verb.set_defaults(run=_heartbeat)

    verb = verbs.add_parser(
        "introduce", help="become master on new networks by the settings on standard input"
    )
    verb.set_defaults(run=_introduce)

    verb = verbs.add_parser("timing", help="measure the cluster link and this machine's scheduling")
    verb.set_defaults(run=_timing)


def _history(options: argparse.Namespace) -> int:
    from . import exchange, history, journal, peer

    log = journal.Log()
    cluster = load()
    if cluster is None:
        print("this node is in no cluster", file=sys.stderr)
        return 1
    if not options.merge and peer.answers(cluster):
        with contextlib.suppress(peer.PeerError):
            exchange.Exchange(lambda verb, given: peer.ask(cluster, verb, given, 10.0)).run()
    mine = log.read()
    if options.events:
        print(json.dumps(mine))
        return 0
    told: Sequence[history.Event] = log.read_copies()
    if options.merge:
        told = history.joined(told, exchange.sound(json.load(sys.stdin), most=None))
    line = history.merge((cluster.local.hostname, mine), (cluster.peer.hostname, told))
    shown = history.shown(line, options.limit, everything=options.all)
    if options.json:
        print(json.dumps([entry.plain() for entry in shown]))
    else:
        for entry in shown:
            print(f"{history.clock(entry.when)}  {entry.node}  {entry.text}")
    return 0


def _event(options: argparse.Namespace) -> int:
    from . import journal

    details = {"verb": options.action, "state": options.state, "who": options.who}
    journal.record("operator", **details, run=options.run_id, why=options.why)
    return 0


def _event_verbs(verbs: Any) -> None:
    verb = verbs.add_parser("history", help="what happened on both nodes, in one time line")
    verb.add_argument("--json", action="store_true", help="as a JSON list of entries")
    verb.add_argument("--limit", type=int, default=100, help="the last so many entries")
    verb.add_argument("--all", action="store_true", help="details, too (keepalived's own events)")
    verb.add_argument("--events", action="store_true", help="this node's events as recorded, JSON")
    verb.add_argument(
        "--merge", action="store_true", help="take the peer's events from standard input"
    )
    verb.set_defaults(run=_history)

    verb = verbs.add_parser("event", help="record an action of an operator")
    verb.add_argument("action", help="the verb, for example switchover")
    verb.add_argument("--state", choices=["begun", "done", "failed"], required=True)
    verb.add_argument("--who", default="", help="who did it, for example alice@ops")
    verb.add_argument("--run-id", default="", help="the same for begun and done of one run")
    verb.add_argument("--why", default="", help="why it failed")
    verb.set_defaults(run=_event)


def parser() -> argparse.ArgumentParser:
    """Everything that can be asked."""
    top = argparse.ArgumentParser(
        prog="zclustermanager",
        description="The manager of one zcluster node. Users speak to it through `zcluster`.",
    )
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = verbs.add_parser("status", help="probe this node and say how it is (exit: 0, 1, 2, 3)")
    verb.add_argument("--json", action="store_true", help="everything, as one JSON object")
    verb.add_argument(
        "--each-line", action="store_true", help="one JSON line for each line of standard input"
    )
    verb.set_defaults(run=_status)

    verb = verbs.add_parser("wait", help="wait until keepalived has a role")
    verb.add_argument("--role", choices=["master", "settled"], default="settled")
    verb.add_argument("--timeout", type=float, default=30.0, help="seconds")
    verb.set_defaults(run=_wait)

    verb = verbs.add_parser("reach", help="check from this node that addresses are answered for")
    verb.add_argument("address", nargs="*")
    verb.set_defaults(run=_reach)

    _add_planned(verbs)

    verb = verbs.add_parser("services", help="the managed services, here and on the peer")
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--local", action="store_true", help="do not ask the peer")
    verb.set_defaults(run=_services)

    verb = verbs.add_parser("apply", help="validate and activate services on both nodes")
    verb.add_argument("service", nargs="*", help="default: all")
    verb.add_argument("--check", action="store_true", help="validate on both, activate nothing")
    verb.add_argument("--candidate", default="", help="for --check: a tree to try, DIR/etc/…")
    verb.add_argument("--json", action="store_true")
    verb.set_defaults(run=_apply)

    verb = verbs.add_parser(
        "firewall", help="judge a ruleset of nftables: it must load, and admit the peer"
    )
    verb.add_argument("file", nargs="?", default="/etc/zcluster/ruleset.nft")
    verb.set_defaults(run=_firewall)

    _event_verbs(verbs)

    verb = verbs.add_parser("daemon", help="the resident daemon (started by systemd)")
    verb.set_defaults(run=_daemon)

    verb = verbs.add_parser("receive", help="answer one request of the peer (started by systemd)")
    verb.set_defaults(run=_receive)

    verb = verbs.add_parser("boot", help="check the peer's settings before keepalived starts")
    verb.set_defaults(run=_boot)

    _sync_parser(verbs.add_parser("sync", help="synchronization of this node"))
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit code."""
    options = parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
