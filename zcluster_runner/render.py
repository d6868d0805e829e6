# SPDX-License-Identifier: GPL-3.0-or-later
"""How results are shown: as text for people, one function per kind, and as JSON for programs."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcluster_runner import api
from zcluster_runner.actions import Action, Place, Shown
from zcluster_runner.result import Failure, Health, NodeStatus, Outcome, Result, worst

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


def as_json(action: Action, result: Result) -> object:
    """Return what ``--output json`` prints.

    ``nodes`` is a list of nodes, ``interfaces`` a list of addresses, ``status`` one node, ``show``
    one cluster's settings. Everything else, and every run that failed before there was anything
    to show, is one object with result, changes, nodes and errors.
    """
    if action.shown is Shown.NODES and not action.writes and result.nodes:
        return [node.to_dict() for node in result.nodes]
    if action.shown is Shown.STATUS and result.nodes:
        nodes = [node.to_dict() for node in result.nodes]
        return nodes[0] if len(nodes) == 1 else nodes
    if action.asks_for in LISTS and result.report(action.asks_for):
        return LISTS[action.asks_for](result)
    if action.shown is Shown.SETTINGS and api.settings(result):
        content = api.settings(result)
        return content[0] if len(content) == 1 else content
    if action.shown is Shown.FINDINGS and "findings" in result.reports:
        return {**result.to_dict(), "findings": api.findings(result)}
    return result.to_dict()


def interfaces(result: Result) -> list[dict[str, Any]]:
    """Return the offered addresses of all hosts as one list."""
    return [
        {"host": host, **entry}
        for host, entries in result.report("interfaces").items()
        for entry in entries
    ]


LISTS: Mapping[str, Callable[[Result], list[dict[str, Any]]]] = {
    "interfaces": interfaces,
    "services": api.services,
    "history": api.history,
}
"""Reports that are lists, and nothing else is to be said about them."""


def show(action: Action, result: Result, out: Console, err: Console) -> None:
    """Show a result to people: what it says on ``out``, what went wrong on ``err``."""
    for renderable in SHOWS[action.shown](result):
        # what a program reads must not be broken where the terminal ends
        out.print(renderable, soft_wrap=action.shown is Shown.SCRIPT)
    if result.not_persisted:
        out.print(result.not_persisted, markup=False)
    if action.writes:
        for renderable in changes(result):
            out.print(renderable)
    if action.takes_password and result.succeeded:
        for said in result.report("key_added").values():
            out.print(str(said))
    if action.writes and result.check:
        for renderable in differences(result):
            out.print(renderable)
    for renderable in troubles(action, result):
        err.print(renderable)


def table(*columns: str) -> Table:
    """Return a table in the house's style: no frames, a bold head."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in NARROW)
    return made


NARROW = frozenset(
    {
        "CLUSTER",
        "NODE",
        "ROLE",
        "IP",
        "STATUS",
        "SYNC",
        "INTERFACE",
        "ADDRESS",
        "SEVERITY",
        "WHEN",
        "FROM",
        "TO",
        "TOOK",
    }
)
"""Columns that are never broken into lines."""


def nodes(result: Result) -> Iterable[RenderableType]:
    """The nodes table; of several clusters, each is named once, and they are counted."""
    if not result.nodes:
        return
    yield nodes_table(result.nodes, several=len(clusters(result.nodes)) > 1)
    if len(clusters(result.nodes)) > 1:
        yield ""
        yield counted(result.nodes)


def clusters(rows: Iterable[NodeStatus]) -> dict[str, list[NodeStatus]]:
    """Return the rows of each cluster, in their order."""
    found: dict[str, list[NodeStatus]] = {}
    for row in rows:
        found.setdefault(row.cluster, []).append(row)
    return found


def nodes_table(rows: Iterable[NodeStatus], several: bool) -> Table:
    """The table itself; a column for the cluster when there are several."""
    from rich.text import Text

    columns = ("NODE", "ROLE", "IP", "HOSTNAME", "STATUS", "SYNC", "MESSAGE")
    made = table(*(("CLUSTER",) if several else ()), *columns)
    before = None
    for node in rows:
        cells = [node.node, node.role, node.ip, node.hostname]
        status = Text(node.status, style=node.health.colour)
        grey = node.health.colour if node.health.exit_code == 3 else ""
        made.add_row(
            *((Text("" if node.cluster == before else node.cluster),) if several else ()),
            *(Text(cell, style=grey) for cell in cells),
            status,
            Text(node.sync),
            Text(node.message, style=node.health.colour),
        )
        before = node.cluster
    return made


def health_of(rows: Iterable[NodeStatus]) -> Health:
    """Return the health of a cluster: that of its worst node."""
    found = [row.health for row in rows]
    code = worst([health.exit_code for health in found])
    return next((health for health in found if health.exit_code == code), Health.UNKNOWN)


def counted(rows: Iterable[NodeStatus]) -> RenderableType:
    """How many clusters there are, and how they are."""
    from rich.text import Text

    healths = [health_of(members) for members in clusters(rows).values()]
    text = Text(f"{len(healths)} clusters: ")
    parts = [(h, healths.count(h)) for h in Health if h in healths]
    for number, (health, count) in enumerate(parts):
        text.append(", " if number else "").append(f"{count} {health.word}", style=health.colour)
    return text


def screenful(head: str, result: Result, height: int) -> RenderableType:
    """The nodes as a terminal of this height can show them: what is not well comes first."""
    from rich.console import Group
    from rich.text import Text

    by_cluster = clusters(result.nodes)
    several = len(by_cluster) > 1
    lines: list[RenderableType] = [Text(head, style="dim")]
    lines += [counted(result.nodes)] if several else []
    fits = len(result.nodes) + len(lines) + 2 <= height
    order = list(by_cluster.values())
    if not fits:  # sorted() keeps the order of those that are alike
        order = sorted(order, key=lambda rows: health_of(rows) is Health.OK)
    return Group(*lines, nodes_table([row for rows in order for row in rows], several))


def status(result: Result) -> Iterable[RenderableType]:
    """One line for a node: status, role, and why."""
    from rich.text import Text

    for node in result.nodes:
        yield Text.assemble(
            (node.status, f"bold {node.health.colour}"),
            f"  {node.role}  {node.hostname}",
            f"  {node.message}" if node.message else "",
        )


SETTINGS: tuple[tuple[str, str], ...] = (
    ("name", "Cluster"),
    ("interface", "Interface"),
    ("local", "Local IP"),
    ("remote", "Remote IP"),
    ("failback", "Failback"),
    ("profile", "Profile"),
    ("check_interval", "Check interval"),
    ("vrid", "Virtual router id"),
    ("vips", "Virtual IPs"),
    ("witnesses", "Witnesses"),
    ("track_interfaces", "Tracked interfaces"),
    ("services", "Services"),
    ("sync_paths", "Synchronized"),
    ("sync_excludes", "Not synchronized"),
    ("revision", "Revision"),
)
"""What ``show`` shows, in this order, under these words."""


def cell(value: object) -> str:
    """Return a setting as text: lists one per line."""
    if isinstance(value, Mapping):
        if "address" in value:
            prefix = f"/{value['prefix']}" if "prefix" in value else ""
            interface = f" on {value['interface']}" if value.get("interface") else ""
            return f"{value['address']}{prefix}{interface}"
        if "name" in value:
            unit = f" ({value['unit']})" if value.get("unit") else ""
            return f"{value['name']}{unit}"
        return ", ".join(f"{key}: {cell(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(cell(item) for item in value) or "none"
    if value is None or value == "":
        return "none"
    return str(value)


def settings(result: Result) -> Iterable[RenderableType]:
    """The settings, one block per cluster."""
    from rich.table import Table
    from rich.text import Text

    for number, content in enumerate(api.settings(result)):
        if number:
            yield ""
        made = Table.grid(padding=(0, 3))
        for key, label in SETTINGS:
            if key in content:
                unit = " s" if key == "check_interval" else ""
                made.add_row(Text(label, style="bold"), Text(cell(content[key]) + unit))
        yield made
    if result.report("settings") and not api.settings(result):
        yield "Cluster not configured"


def offered(result: Result) -> Iterable[RenderableType]:
    """The addresses a cluster can be built on."""
    entries = interfaces(result)
    if not entries:
        return
    made = table("HOST", "INTERFACE", "ADDRESS", "KIND")
    for entry in entries:
        address = str(entry.get("address", ""))
        if "prefix" in entry and "/" not in address:
            address = f"{address}/{entry['prefix']}"
        columns = (entry["host"], entry.get("interface", ""), address, entry.get("kind", ""))
        made.add_row(*(str(column) for column in columns))
    yield made


SEVERITY_COLOURS = {"error": "red", "warning": "dark_orange"}


def found(result: Result) -> Iterable[RenderableType]:
    """What preflight found: node, field, what, and the way out."""
    from rich.text import Text

    listed = sorted(api.findings(result), key=lambda finding: finding.get("severity") != "error")
    for finding in listed:
        severity = str(finding.get("severity", "error"))
        yield Text.assemble(
            (f"{severity.upper()}  ", f"bold {SEVERITY_COLOURS.get(severity, '')}"),
            (f"{finding.get('node', '')}, {finding.get('field', '')}: ", "bold"),
            str(finding.get("message", "")),
        )
        if finding.get("found"):
            yield Text(f"       found: {finding['found']}")
        if finding.get("way_out"):
            yield Text(f"       way out: {finding['way_out']}")
    if not listed and "findings" in result.reports:
        yield "Nothing stands in the way."


def machines(result: Result) -> Iterable[RenderableType]:
    """The lab's machines and their addresses, and what to do with them."""
    for said in result.report("lab").values():
        if not isinstance(said, Mapping):
            continue
        machine_list = said.get("nodes")
        rows = dict(machine_list) if isinstance(machine_list, Mapping) else {}
        made = table("MACHINE", "STATE", "FRONT", "BACK", "LINK")
        for name, machine in rows.items():
            addresses = machine.get("addresses", {})
            made.add_row(
                str(name),
                str(machine.get("state", "")),
                *(str(addresses.get(net, {}).get("ipv4", "")) for net in ("front", "back", "link")),
            )
        yield made
        if said.get("inventory"):
            yield f"Root's password on the bare nodes: {said.get('root_password', '')}"
            yield f"Next: zcluster -i {short(str(said['inventory']))} create"
        elif not said.get("up"):
            yield "The lab is down."


def short(path: str) -> str:
    """Return a path as one would type it here."""
    return path.removeprefix(f"{Path.cwd()}/")


def written(result: Result) -> Iterable[RenderableType]:
    """What was written, and the next step."""
    if result.written:
        place = short(str(result.written))
        yield f"Written: {place}/hosts.yml. Edit it, then: zcluster -i {place} preflight"


def script(result: Result) -> Iterable[RenderableType]:
    """A text for a program: not a word of it is for rich."""
    from rich.text import Text

    for text in result.report("script").values():
        yield Text(str(text))


STATE_COLOURS = {
    "active": "green",
    "standby": "green",
    "accepted": "green",
    "starting": "yellow",
    "unknown": "",
}


def services(result: Result) -> Iterable[RenderableType]:
    """The services of both nodes, the same service on both nodes one under the other."""
    from rich.text import Text

    rows = api.services(result)
    if not rows:
        return
    order = list(dict.fromkeys(row["service"] for row in rows))
    made = table("SERVICE", "NODE", "STATE", "WHY")
    for row in sorted(rows, key=lambda row: (order.index(row["service"]), row["node"])):
        state = str(row["state"])
        made.add_row(
            Text(str(row["service"])),
            Text(str(row["node"])),
            Text(state, style=STATE_COLOURS.get(state, "red")),
            Text(str(row.get("why", ""))),
        )
    yield made


def sync(result: Result) -> Iterable[RenderableType]:
    """What the nodes say about synchronization: states, kept versions, or what differs."""
    from rich.text import Text

    said = {host: told for host, told in result.report("sync").items() if isinstance(told, Mapping)}
    states = {host: told for host, told in said.items() if "state" in told}
    if states:
        made = table("NODE", "SYNC", "LAG", "GENERATION", "RELATION", "VERSIONS", "MESSAGE")
        for host, told in states.items():
            known = told.get("generation") or {}
            made.add_row(
                Text(host),
                Text(str(told["state"])),
                Text(f"{told.get('lag', 0):g} s"),
                Text(f"{known.get('number', '')} {str(known.get('id') or 'none')[:8]}".strip()),
                Text(str(told.get("relation", ""))),
                Text(f"{told.get('versions', '')} {_size(told.get('versions_bytes'))}".strip()),
                Text(str(told.get("why", ""))),
            )
        yield made
    for host, told in said.items():
        for kept in told.get("versions", ()) if isinstance(told.get("versions"), list) else ():
            words = f"{kept['size']} bytes  {kept.get('why', '')}".rstrip()
            yield Text(f"{host}  {kept['path']}@{kept['version']}  {words}")
        for path in told.get("restored", ()):
            yield Text(f"{host}  {path} restored from {told['version']}")
        if "relation" in told and "state" not in told:
            yield Text(f"{host} is {told['relation']}, as {told.get('peer', 'the other')} stands")
        if told.get("gives_way"):
            yield Text(f"what {told['gives_way']} had is kept there: zcluster sync versions")
        for entry in told.get("differing", ()):
            if isinstance(entry, Mapping):
                yield Text(f"{entry['path']}: {entry['here']} here, {entry['there']} there")
                for line in str(entry["diff"]).splitlines():
                    yield Text(line, style=DIFF_COLOURS.get(line[:1], ""))
        if told.get("paused"):
            yield Text(f"{host}  paused by {told['paused']['who']}: {told['paused']['why']}")


def _size(count: object) -> str:
    """Bytes in the unit that a person reads them in."""
    if not isinstance(count, int) or not count:
        return ""
    unit = next((u for u in UNITS if count >= UNITS[u]), "bytes")
    return f"({count / UNITS.get(unit, 1):.3g} {unit})"


def left(result: Result) -> Iterable[RenderableType]:
    """Which node goes on serving after unset, and by what."""
    for host, said in result.report("unset").items():
        addresses = said.get("keeps_serving") if isinstance(said, Mapping) else None
        if addresses:
            unit = f" (at boot: {said['unit']})" if said.get("unit") else ""
            yield f"{host} keeps {', '.join(map(str, addresses))}{unit}."


def done(result: Result) -> Iterable[RenderableType]:
    """What was done, in the words of the node that did it."""
    for said in result.report("done").values():
        yield f"{said}."


def configured(result: Result) -> Iterable[RenderableType]:
    """Old and new values, said once for the nodes of a cluster; then how the nodes are."""
    rows = {
        (str(change["setting"]), str(change["old"]), str(change["new"])): None
        for said in result.report("configured").values()
        for change in (said if isinstance(said, list) else [])
    }
    if rows:
        made = table("SETTING", "OLD", "NEW")
        for row in rows:
            made.add_row(*row)
        yield made
    yield from nodes(result)


def history(result: Result) -> Iterable[RenderableType]:
    """The history as a table, oldest first; a ~ where the order is by clock."""
    from rich.text import Text

    made = table("WHEN", "NODE", "WHAT", "FROM", "TO", "TOOK", "WHO", "WHY")
    for entry in api.history(result):
        when = datetime.datetime.fromtimestamp(float(entry["when"])).astimezone()
        took = entry.get("seconds")
        guessed = "~" if entry.get("order") == "by clock" else ""
        cells = (
            guessed + when.strftime("%Y-%m-%d %H:%M:%S"),
            entry.get("node", ""),
            entry.get("event", ""),
            entry.get("from", ""),
            entry.get("to", ""),
            "" if took is None else f"{took:g} s",
            entry.get("who", ""),
            entry.get("cause") or ("" if entry.get("to") else entry.get("text", "")),
        )
        made.add_row(*(Text(str(cell)) for cell in cells))
    if api.history(result):
        yield made
    elif "history" in result.reports:
        yield "Nothing has happened yet."


def changes(result: Result) -> Iterable[RenderableType]:
    """How much was changed; what, has been said while it happened."""
    if result.outcome is not Outcome.SUCCEEDED:
        return
    hosts = sorted({change.host for change in result.changes})
    if not hosts:
        yield f"Nothing to do: all is as it should be ({result.elapsed:.0f} s)."
        return
    verb = "would be changed" if result.check else "changed"
    yield f"{len(result.changes)} steps {verb} on {', '.join(hosts)} ({result.elapsed:.0f} s)."


def differences(result: Result) -> Iterable[RenderableType]:
    """In check mode: each step that would change something, with its differences."""
    from rich.text import Text

    for change in result.changes:
        yield Text(f"{change.host}: {change.step}", style="bold")
        if change.diff:
            for line in change.diff.splitlines():
                yield Text(line, style=DIFF_COLOURS.get(line[:1], ""))


UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
DIFF_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def troubles(action: Action, result: Result) -> Iterable[RenderableType]:
    """What went wrong, in the order people want to read it: what, why, what to do."""
    from rich.text import Text

    listed = {node.host for node in result.nodes}
    for host, why in result.unreachable.items():
        if host not in listed:
            yield Text(f"{host} cannot be reached: {why}", style="red")
    if action.shown is Shown.FINDINGS and "findings" in result.reports:
        return  # they are the result; the failing step only repeats them
    for text in told(result.causes):
        yield Text(text, style="red")
    for text in told(f for f in result.failures if f.host not in listed or action.writes):
        yield Text(text, style="bold red")
    if result.outcome is Outcome.CANCELED:
        yield Text(stopped(0 if result.check else len(result.changes)))
        if action.writes and not result.check and action.place is not Place.HERE:
            yield Text(LEASE_STAYS, style="dim")
    if result.outcome is Outcome.FAILED and action.writes and result.log:
        yield Text(f"The whole story: {result.log}", style="dim")


LEASE_STAYS = (
    "Its lease on the cluster ends by itself: the next action from here takes it over at once, one "
    "from elsewhere waits for up to ten minutes, after an update for an hour."
)


def stopped(steps: int) -> str:
    """Return what is said of a verb that was stopped, and what to do."""
    return f"Stopped. {steps} steps had been changed; run the same command again to go on."


def told(failures: Iterable[Failure]) -> Iterable[str]:
    """Return failures as text; what several hosts say alike is said once."""
    hosts: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        hosts.setdefault((failure.step, failure.message), []).append(failure.host)
    for (step, message), names in hosts.items():
        place = ", ".join([*sorted(filter(None, names)), step])
        yield f"{place}:\n{message}" if "\n" in message else f"{place}: {message}"


SHOWS: Mapping[Shown, Callable[[Result], Iterable[RenderableType]]] = {
    Shown.NODES: nodes,
    Shown.STATUS: status,
    Shown.SETTINGS: settings,
    Shown.INTERFACES: offered,
    Shown.FINDINGS: found,
    Shown.CHANGES: lambda _: (),
    Shown.DONE: done,
    Shown.CONFIGURED: configured,
    Shown.LEFT: left,
    Shown.MACHINES: machines,
    Shown.SERVICES: services,
    Shown.SYNC: sync,
    Shown.WRITTEN: written,
    Shown.SCRIPT: script,
    Shown.HISTORY: history,
}
