# SPDX-License-Identifier: GPL-3.0-or-later
"""``run()``: one verb, from its row in the table to a Result. Prints nothing, asks nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zcluster_runner import actions
from zcluster_runner.actions import Action, ExitRule, Goes, Kind, Param, Place
from zcluster_runner.errors import InventoryError, NoInventoryError, UsageError
from zcluster_runner.result import Change, Event, ExitCode, Failure, Outcome, Result, worst
from zcluster_runner.secret import Secret

if TYPE_CHECKING:
    from zcluster_runner.execution import Run, RunSpec
    from zcluster_runner.inventory import Inventory
    from zcluster_runner.result import NodeStatus

AskPassword = Callable[[Sequence[str]], Secret | None]
"""Called with the hosts that need the root password; None means there is none to be had."""

PASSWORD_VARIABLE = "zcluster_root_password"  # noqa: S105  the name, not the password

NEEDS_PASSWORD = "needs_password"  # noqa: S105
"""The report with which create says that it cannot get in without one, nothing changed yet."""


def action_for(verb: str) -> Action:
    """Return the action for a verb; an unknown one gets a suggestion."""
    action = actions.find(verb)
    if action is None:
        meant = actions.similar(verb)
        hint = f"; did you mean {meant!r}?" if meant else "."
        raise UsageError(f"there is no verb {verb!r}{hint} Verbs: {', '.join(actions.verbs())}")
    return action


def checked(action: Action, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that were given, each checked; missing ones are left out."""
    values: dict[str, Any] = {}
    for name, value in params.items():
        param = action.param(name)
        if param is None:
            known = ", ".join(p.name for p in action.params) or "none"
            raise UsageError(f"{action.verb} has no parameter {name!r}; it has: {known}")
        if value is None or value is False or value == ():
            continue
        if param.multiple:
            several = (value,) if isinstance(value, str) else tuple(value)
            values[name] = tuple(checked_value(param, one) for one in several)
        else:
            values[name] = checked_value(param, value)
    return values


def checked_value(param: Param, value: Any) -> Any:
    """Return one value as its kind says, or say what is allowed."""

    def wrong(allowed: str) -> UsageError:
        return UsageError(f"{param.option}: {value!r} is not possible; allowed: {allowed}")

    if param.changes_list:
        what, _, text = (value, "", "") if isinstance(value, str) else (value[0], "", value[1])
        if what not in ("add", "remove") or not text:
            raise wrong(f"add {param.kind.value}, remove {param.kind.value.partition('/')[0]}")
        return what, text
    if param.kind is Kind.FLAG:
        return bool(value)
    if param.kind in (Kind.SECONDS, Kind.INTEGER):
        allowed = f"{param.minimum:g} to {param.maximum:g}"  # every number has both
        try:
            number = int(value) if param.kind is Kind.INTEGER else float(value)
        except (TypeError, ValueError) as error:
            raise wrong(allowed) from error
        if not (param.minimum or 0) <= number <= (param.maximum or number):
            raise wrong(allowed)
        return number
    text = str(value)
    if param.choices and text not in param.choices:
        raise wrong(", ".join(param.choices))
    if not text:
        raise wrong("not empty")
    return text


@dataclass(frozen=True)
class Target:
    """The inventory of a run, and the cluster's nodes that it is limited to."""

    inventory: tuple[Path, ...]
    hosts: tuple[str, ...] = ()
    """The nodes of the cluster that is meant; none: whatever the inventory has."""
    written: Path | None = None
    """The inventory directory that this run made."""
    just_the_host: bool = False
    """The inventory holds the host asked for, and nothing else."""


def nodes_of(inventory: Inventory, cluster: str) -> tuple[str, ...]:
    """Return the names of a cluster's nodes."""
    hosts = inventory.of_cluster(cluster)
    if not hosts:
        known = ", ".join(inventory.clusters) or "none"
        raise InventoryError(f"the inventory has no cluster {cluster!r}; it has: {known}")
    return tuple(host.name for host in hosts)


def narrowed(limit: str | None, host: str, nodes: Sequence[str]) -> str | None:
    """Return the host pattern of what is meant by a pattern, a host and a cluster's nodes alike.

    Ansible parts a pattern at its commas, and only if there is none at its colons: what narrows the
    first of them down is a term of its own (``&``), parted from it in its own way.
    """
    pattern = limit or host or ",".join(nodes)
    comma = "," in pattern or ":" not in pattern or is_address(pattern)
    terms = [pattern]
    if limit and host:
        terms.append(f"&{host}")
    if nodes and (limit or host):
        # the colons of an IPv6 address would part it
        names = "|".join(re.escape(name).replace(":", r"\x3a") for name in nodes)
        terms.append(f"&~^({names})$")
    return ("," if comma else ":").join(terms) or None


def is_address(text: str) -> bool:
    """Return whether a host is named by its address."""
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def target_for(
    action: Action,
    values: Mapping[str, Any],
    given: str | None,
    cluster: str | None,
    check: bool,
    stack: ExitStack,
) -> Target:
    """Find, or for create write, the inventory of the run."""
    from zcluster_runner import inventory

    cwd = Path.cwd()
    if action.place is Place.HERE:
        return Target(())
    wanted = {p.name for p in action.params if p.goes is Goes.INVENTORY} & set(values)
    if action.place is Place.ANY_HOST:
        host = str(values.get("host") or "")
        if wanted and not host:
            options = ", ".join(f"--{name}" for name in sorted(wanted))
            raise UsageError(
                f"{action.verb}: {options} is for a host that is named: HOST is missing"
            )
        try:
            found = inventory.locate(given, os.environ, cwd, cluster or "")
        except NoInventoryError:
            host = host or "localhost"
        except InventoryError:
            if given or not host:
                raise
        else:
            if not wanted and not (host and given is None and not _holds(found, host)):
                name = cluster or ""
                known = inventory.hosts_in((found,), os.environ, cwd) if name else None
                return Target((found,), nodes_of(known, name) if known else ())
        from zcluster_runner import draft

        # no inventory knows this host: one for this run alone
        content = draft.draft({**values, "name": "interfaces", "local": host})
        written = draft.write(content, _scratch(stack) / "inventory")
        return Target((written,), just_the_host=True)
    if action.place is Place.CREATE and wanted - {"name"}:
        return _new_inventory(values, given, check, stack)
    name = cluster or str(values.get("name") or "")
    if action.place is Place.CREATE and name and given is None:
        directory = inventory.default_directory(name)
        if not directory.exists() and "ZCLUSTER_INVENTORY" not in os.environ:
            raise UsageError(
                f"there is no inventory of a cluster {name!r} yet: "
                "say --local HOST and --remote HOST, or name an inventory with -i"
            )
    found = inventory.locate(given, os.environ, cwd, name)
    if not name:
        return Target((found,))
    return Target((found,), nodes_of(inventory.hosts_in((found,), os.environ, cwd), name))


def _holds(path: Path, host: str) -> bool:
    from zcluster_runner import inventory

    return inventory.hosts_in((path,), os.environ, Path.cwd()).host(host) is not None


def _scratch(stack: ExitStack) -> Path:
    import tempfile

    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zcluster-")))


def _new_inventory(
    values: Mapping[str, Any], given: str | None, check: bool, stack: ExitStack
) -> Target:
    from zcluster_runner import draft, inventory

    missing = [name for name in ("name", "local", "remote") if not values.get(name)]
    if missing:
        words = ", ".join("NAME" if name == "name" else f"--{name} HOST" for name in missing)
        raise UsageError(f"create: {words} is missing")
    directory = (
        (Path.cwd() / Path(given).expanduser()).absolute()
        if given
        else inventory.default_directory(str(values["name"]))
    )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InventoryError(
            f"{directory} exists already, and create takes a cluster's settings from it: "
            f"leave the options away (zcluster -i {directory} create), or edit its hosts.yml first"
        )
    content = draft.draft(dict(values))
    if check:  # nothing is written anywhere
        return Target((draft.write(content, _scratch(stack) / content.name),))
    return Target((draft.write(content, directory),), written=directory)


def run(
    verb: str,
    *,
    inventory: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    limit: str | None = None,
    check: bool = False,
    diff: bool = False,
    verbosity: int = 0,
    password: Secret | str | None = None,
    ask_password: AskPassword | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    **params: Any,
) -> Result:
    """Run a verb and return what came of it.

    ``inventory``: a directory or file; else ``$ZCLUSTER_INVENTORY``, else the only cluster known.
    ``cluster`` and ``limit``: one cluster of it; an Ansible host pattern. Without them a verb that
    changes something goes through the clusters one by one; a failure of one is none of the next.
    ``password``: the remote root password, for create and what looks before it; ``ask_password`` is
    called only if it turns out to be needed, with nothing changed until then.
    ``on_event``: gets each Event as it happens. ``cancel``: is asked several times a second.
    Other keywords are the verb's parameters (``actions.py``).

    Raises UsageError (and its kind, InventoryError) before anything runs. A run that fails is no
    exception: look at ``outcome``, ``failures`` and ``exit_code`` of the Result.
    """
    action = action_for(verb)
    values = checked(action, params)
    secret = Secret(password) if isinstance(password, str) else password
    if secret and not action.takes_password:
        raise UsageError(f"{action.verb} takes no password")
    given = os.fspath(inventory) if inventory is not None else None
    if not action.playbook:
        from zcluster_runner import builtin

        return builtin.perform(action.verb, values, given)
    with ExitStack() as stack:
        target = target_for(action, values, given, cluster, check, stack)
        settings, cluster = settings_for(action, values, target, cluster)
        targets = one_by_one(action, target, values, limit)
        access = Access(secret, ask_password)
        results: list[Result] = []
        for part in targets:
            spec = spec_for(action, values, part, limit, check, diff, verbosity)
            spec = replace(spec, variables={**spec.variables, **settings})
            done = run_one(action, spec, values, access, part, on_event, cancel)
            results.append(persisted(action, values, done, target, cluster, settings))
            if results[-1].stopped:
                break
        whole = merged(results)
        if len(results) < len(targets):  # even if the stop came too late for the last of them
            whole = replace(whole, outcome=Outcome.CANCELED, exit_code=ExitCode.GREY)
        return whole


def settings_for(
    action: Action, values: Mapping[str, Any], target: Target, cluster: str | None
) -> tuple[dict[str, Any], str]:
    """Return the inventory's variables that the parameters change, and the cluster they are of."""
    if not any(p.goes is Goes.SETTING and p.name in values for p in action.params):
        return {}, cluster or ""
    from zcluster_runner import configure, persisting

    name, hosts = configure.hosts_of(persisting.variables_of(target.inventory), cluster or "")
    return configure.settings(action, values, hosts), name


def persisted(
    action: Action,
    values: Mapping[str, Any],
    result: Result,
    target: Target,
    cluster: str,
    settings: Mapping[str, Any],
) -> Result:
    """Return the result; what the nodes go by from now on is in the inventory, or would be."""
    of_host = any(p.host_variable and p.name in values for p in action.params)
    if not (settings or of_host) or not result.succeeded:
        return result
    from zcluster_runner import persisting

    wanted = persisting.host_settings(action, values) if of_host else settings
    host = str(values["node"]) if of_host else ""
    done = persisting.persist(target.inventory, cluster, wanted, host, check=result.check)
    if done.diff:
        change = Change("localhost", persisting.WRITE, done.diff)
        result = replace(result, changes=(*result.changes, change))
    if not done.lost:
        return result
    code = worst([result.exit_code, ExitCode.ORANGE])
    return replace(result, not_persisted=done.lost, exit_code=code)


def one_by_one(
    action: Action, target: Target, values: Mapping[str, Any], limit: str | None
) -> list[Target]:
    """Return a target for each cluster: what fails on one must not stop, or undo, another.

    A verb that only looks takes all hosts at once; there a host that fails harms no other.
    """
    from zcluster_runner import inventory

    if not action.writes or target.hosts or target.written or action.place is Place.HERE:
        return [target]
    found = inventory.hosts_in(target.inventory, os.environ, Path.cwd())
    if len(found.clusters) < 2:
        return [target]
    node = found.host(str(values.get("node"))) if action.param("node") else None
    if node and node.cluster:
        return [replace(target, hosts=nodes_of(found, node.cluster))]
    clusters = found.clusters
    if limit:
        meant = inventory.read(target.inventory, os.environ, Path.cwd(), limit)
        clusters = meant.clusters
        if not clusters:
            return [target]
    if len(clusters) > 1 and (action.confirm or action.param("node")):
        raise UsageError(
            f"{action.verb}: {'--limit means' if limit else 'the inventory has'} several clusters, "
            f"name one with --cluster: {', '.join(clusters)}"
        )
    return [replace(target, hosts=nodes_of(found, name)) for name in clusters]


def spec_for(
    action: Action,
    values: Mapping[str, Any],
    target: Target,
    limit: str | None,
    check: bool,
    diff: bool,
    verbosity: int,
) -> RunSpec:
    """Return what is to be run."""
    from zcluster_runner.execution import RunSpec

    named = [
        p.name
        for p in action.params
        if p.goes is Goes.LIMIT and p.name in values and not target.just_the_host
    ]
    return RunSpec(
        verb=action.verb,
        playbook=action.playbook,
        inventory=target.inventory,
        limit=narrowed(limit, str(values[named[0]]) if named else "", target.hosts),
        variables={
            p.variable: values[p.name]
            for p in action.params
            if p.goes is Goes.VARIABLE and p.name in values
        },
        check=check,
        diff=diff,
        verbosity=verbosity,
    )


@dataclass
class Access:
    """The root password, once it is known, and how to get it."""

    secret: Secret | None
    ask: AskPassword | None


def run_one(
    action: Action,
    spec: RunSpec,
    values: Mapping[str, Any],
    access: Access,
    target: Target,
    on_event: Callable[[Event], None] | None,
    cancel: Callable[[], bool] | None,
) -> Result:
    """Run a playbook, a second time if it turns out that a password is needed."""
    from zcluster_runner.execution import execute

    secrets = {PASSWORD_VARIABLE: access.secret} if access.secret else {}
    done = execute(spec, secrets=secrets, on_event=on_event, cancel=cancel)
    lacking = hosts_without_password(done)
    if lacking and not access.secret and access.ask:
        try:
            access.secret = access.ask(lacking)
        except BaseException:  # Ctrl-C at the question: then nothing at all was done
            if target.written:
                import shutil

                shutil.rmtree(target.written, ignore_errors=True)
            raise
    if lacking and access.secret and not secrets:
        secrets = {PASSWORD_VARIABLE: access.secret}
        done = execute(spec, secrets=secrets, on_event=on_event, cancel=cancel)
    return replace(result_of(action, spec, done, values), written=target.written)


OUTCOMES_WORST_FIRST = (Outcome.CANCELED, Outcome.FAILED, Outcome.SUCCEEDED)


def merged(results: Sequence[Result]) -> Result:
    """Return the results of several clusters as one; its log is that of a run that failed."""
    first = results[0]
    if len(results) == 1:
        return first
    reports: dict[str, dict[str, Any]] = {}
    for result in results:
        for key, said in result.reports.items():
            reports.setdefault(key, {}).update(said)
    outcomes = {result.outcome: result for result in reversed(results)}
    outcome = next(outcome for outcome in OUTCOMES_WORST_FIRST if outcome in outcomes)
    return replace(
        first,
        outcome=outcome,
        exit_code=worst([result.exit_code for result in results]),
        nodes=tuple(node for result in results for node in result.nodes),
        reports=reports,
        changes=tuple(change for result in results for change in result.changes),
        failures=tuple(failure for result in results for failure in result.failures),
        causes=tuple(cause for result in results for cause in result.causes),
        unreachable={host: why for r in results for host, why in r.unreachable.items()},
        warnings=tuple(dict.fromkeys(text for result in results for text in result.warnings)),
        elapsed=sum(result.elapsed for result in results),
        log=outcomes[outcome].log,
        stopped=any(result.stopped for result in results),
    )


def hosts_without_password(done: Run) -> tuple[str, ...]:
    """Return the hosts for which create said that it needs the root password."""
    hosts: set[str] = set()
    for host, said in done.fold.reports.get(NEEDS_PASSWORD, {}).items():
        names = said if isinstance(said, list) else [host] if said else []
        hosts |= {str(name) for name in names}
    return tuple(sorted(hosts))


def result_of(action: Action, spec: RunSpec, done: Run, values: Mapping[str, Any]) -> Result:
    """Return the Result of a run, its exit code by the action's rule."""
    from zcluster_runner import inventory, nodes
    from zcluster_runner.execution import NO_HOSTS

    def read_inventory() -> Inventory:
        return inventory.hosts_in(spec.inventory, os.environ, Path.cwd())

    rows = nodes.rows(done.fold, read_inventory) if action.exit_rule is ExitRule.NODES else ()
    if action.verb not in {"nodes", "status"} and "node" not in done.fold.reports:
        rows = ()  # create that never got to look at the nodes: its failures say why
    outcome, failures = done.outcome, done.failures
    nothing = action.asks_for and action.asks_for not in done.fold.reports
    if nothing and done.outcome is Outcome.SUCCEEDED:
        outcome, failures = Outcome.FAILED, (Failure("", action.verb, NO_HOSTS),)
    if action.verb == "status":
        wanted = str(values.get("host") or "")
        known, rows = rows, asked_for(rows, wanted)
        if known and not rows:
            names = ", ".join(row.host for row in known)
            why = f"no host {wanted!r} is part of this run; there are: {names}"
            outcome, failures = Outcome.FAILED, (*failures, Failure("", action.verb, why))
    result = Result(
        verb=action.verb,
        outcome=outcome,
        exit_code=ExitCode.GREY,
        check=spec.check,
        nodes=rows,
        reports=done.fold.reports,
        changes=done.changes,
        failures=failures,
        causes=done.fold.causes(),
        unreachable=done.fold.unreachable,
        warnings=tuple(done.fold.warnings),
        elapsed=done.elapsed,
        log=done.log,
        inventory=tuple(str(path) for path in spec.inventory),
        stopped=done.stopped,
    )
    return replace(result, exit_code=exit_code(action, result))


def asked_for(rows: tuple[NodeStatus, ...], host: str) -> tuple[NodeStatus, ...]:
    """Return the row of a host; without a name each cluster's local node, or who is there of it."""
    if host:
        return tuple(row for row in rows if row.host == host)
    local = {row.cluster for row in rows if row.node == "local"}
    return tuple(row for row in rows if row.node == "local" or row.cluster not in local)


def exit_code(action: Action, result: Result) -> ExitCode:
    """Return the exit code of a result."""
    if result.outcome is Outcome.CANCELED:
        return ExitCode.GREY
    if action.exit_rule is ExitRule.FINDINGS and "findings" in result.reports:
        return findings_code(result)
    if action.exit_rule is ExitRule.SERVICES and services(result):
        return services_code(services(result), succeeded=result.succeeded)
    if action.exit_rule is ExitRule.NODES and result.nodes:
        seen = [node.health.exit_code for node in result.nodes]
        # create must not be green when it did not get through; nor a look that some host's row
        # does not explain: others may not have been asked
        explained = bool(result.unreachable) or any(failure.host for failure in result.failures)
        if not result.succeeded and (action.writes or not explained):
            seen.append(ExitCode.GREY)
        return worst(seen)
    if action.verb == "show" and not settings(result):
        return ExitCode.GREY  # nothing is configured, or nobody answered
    return ExitCode.GREEN if result.succeeded else ExitCode.GREY


BAD_SERVICE = frozenset({"rejected", "failed", "stopped by operator"})


def services(result: Result) -> list[dict[str, Any]]:
    """Return the services of all nodes as rows, each with service, node, state and why."""
    return [
        dict(row)
        for key in ("services", "apply")
        for said in result.report(key).values()
        if isinstance(said, Mapping)
        for row in said.get("services", ())
    ]


def services_code(rows: list[dict[str, Any]], *, succeeded: bool) -> ExitCode:
    """Return red for a service that is not as it should be, grey for one that is not known.

    Orange while one is starting.
    """
    states = {row.get("state") for row in rows}
    if states & BAD_SERVICE:
        return ExitCode.RED
    if not succeeded or "unknown" in states:
        return ExitCode.GREY
    return ExitCode.ORANGE if "starting" in states else ExitCode.GREEN


def settings(result: Result) -> list[dict[str, Any]]:
    """Return the settings of each cluster, as its local node has them, in the words of ``show``."""
    from zcluster_runner import nodes

    clusters: dict[str, dict[str, Any]] = {}
    for said in result.report("settings").values():
        if not isinstance(said, Mapping) or not said.get("nodes"):
            continue
        hostnames = [str(node.get("hostname")) for node in said["nodes"]]
        local = nodes.local_of(hostnames, str(said.get("initial_master")))
        if said.get("name") not in clusters or said.get("local") == local:
            clusters[str(said.get("name"))] = settings_of(said, local)
    return list(clusters.values())


def settings_of(plan: Mapping[str, Any], local: str) -> dict[str, Any]:
    """Return a node's cluster.json as ``show`` has it."""
    side = {"local" if node.get("hostname") == local else "remote": node for node in plan["nodes"]}
    networks = plan.get("networks") or []
    sync = plan.get("sync") or {}
    shown: dict[str, Any] = {"name": plan.get("name")}
    if "local" in side:
        shown["interface"] = side["local"].get("interface")
    for name, node in sorted(side.items()):
        shown[name] = f"{node.get('ip')} ({node.get('hostname')})"
        shown[f"{name}_ip"] = node.get("ip")
        shown[f"{name}_hostname"] = node.get("hostname")
    shown |= {
        "failback": plan.get("failback"),
        "profile": plan.get("profile"),
        "check_interval": plan.get("check_interval"),
        "vrid": next((network.get("vrid") for network in networks), None),
        "vips": plan.get("vips") or [],
        "witnesses": plan.get("witnesses") or [],
        "track_interfaces": plan.get("track_interfaces") or [],
        "services": plan.get("services") or [],
        "sync_paths": sync.get("paths") or [],
        "sync_excludes": sync.get("excludes") or [],
        "revision": plan.get("revision"),
    }
    return shown


def history(result: Result) -> list[dict[str, Any]]:
    """Return the entries of all clusters' histories as one list."""
    return [dict(entry) for entries in result.report("history").values() for entry in entries]


def findings(result: Result) -> list[Mapping[str, Any]]:
    """Return what preflight found, as one list; a finding told by both nodes comes once."""
    unique: dict[str, Mapping[str, Any]] = {}
    for said in result.report("findings").values():
        for finding in said if isinstance(said, list) else []:
            if isinstance(finding, Mapping):
                unique.setdefault(repr(sorted(finding.items())), finding)
    return list(unique.values())


def findings_code(result: Result) -> ExitCode:
    """Return red with an error among the findings, orange with a warning."""
    severities = {str(finding.get("severity", "error")) for finding in findings(result)}
    if result.unreachable:
        severities.add("error")
    if "error" in severities:
        return ExitCode.RED
    if "warning" in severities:
        return ExitCode.ORANGE
    return ExitCode.GREEN if result.succeeded else ExitCode.GREY
