# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of actions: each verb, its playbook, parameters, exit code, how its result is shown.

Command line, help, Python API and documentation all come from here. To add a verb, add a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a parameter's value is; decides how it is read, checked and completed."""

    TEXT = "text"
    FLAG = "flag"
    HOST = "host"
    NAME = "name"
    ADDRESS = "address"
    VIP = "addr/prefix[@interface]"
    PATH = "path"
    SECONDS = "seconds"
    INTEGER = "number"
    INTERFACE = "interface"


class Goes(Enum):
    """Where a parameter's value goes."""

    VARIABLE = "an extra variable of the playbook"
    INVENTORY = "the inventory that create writes"
    LIMIT = "the hosts of the run"
    SETTING = "the run, and once that went through the inventory"
    DRIVER = "the driver itself"


@dataclass(frozen=True)
class Param:
    """A parameter of a verb: an option of the command line, a keyword of ``run()``."""

    name: str
    kind: Kind
    help: str
    goes: Goes
    variable: str = ""
    """The Ansible variable it becomes."""
    host_variable: str = ""
    """What it becomes in the inventory once the run went through: a variable of the verb's node."""
    positional: bool = False
    multiple: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    changes_list: bool = False
    """It adds to or removes from a list: two words, ``add`` or ``remove`` and the entry."""
    bare: float | None = None
    """The value of the option given without one."""

    @property
    def option(self) -> str:
        """The option's name on the command line."""
        return f"--{self.name.replace('_', '-')}"


class Shown(Enum):
    """How a result is shown as text (``render.py`` has a function for each)."""

    NODES = "the nodes table"
    STATUS = "one line for one node"
    SETTINGS = "the cluster's settings"
    INTERFACES = "the addresses a cluster can be built on"
    FINDINGS = "what preflight found"
    CHANGES = "what was changed"
    DONE = "what was done, in words"
    CONFIGURED = "old and new values of settings, and the nodes table"
    LEFT = "what goes on without a cluster"
    MACHINES = "the lab's machines"
    SERVICES = "the services of both nodes"
    SYNC = "synchronization of both nodes"
    WRITTEN = "what was written, and what to do with it"
    SCRIPT = "a text for a program, as it is"
    HISTORY = "what happened, in one time line"


class ExitRule(Enum):
    """What decides the exit code of a run that went through; a failed run is always grey."""

    RUN = "green when it went through"
    NODES = "the worst status among the nodes"
    FINDINGS = "red with an error among the findings, orange with a warning"
    SERVICES = "red with a service that is not as it should be, grey with one not known"


class Place(Enum):
    """Which inventory a verb works on."""

    CLUSTER = "the inventory of existing clusters"
    CREATE = "an existing inventory, or one that it writes"
    ANY_HOST = "an existing inventory, or just a host's name"
    HERE = "this machine"


@dataclass(frozen=True)
class Action:
    """A verb."""

    verb: str
    playbook: str
    """Empty: the driver does it by itself, without Ansible (``builtin.py``)."""
    summary: str
    text: str
    examples: tuple[str, ...]
    shown: Shown
    params: tuple[Param, ...] = ()
    exit_rule: ExitRule = ExitRule.RUN
    place: Place = Place.CLUSTER
    confirm: str = ""
    """The question asked before it starts; without a terminal ``--yes`` answers it."""
    takes_password: bool = False
    asks_for: str = ""
    """The report it is all about; a run without it looked at no host at all."""
    writes: bool = True
    """It changes something, so ``--check`` and ``--diff`` have a meaning."""

    @property
    def words(self) -> tuple[str, ...]:
        """The verb as typed: ``lab up`` is two words."""
        return tuple(self.verb.split())

    def param(self, name: str) -> Param | None:
        """Return the parameter called ``name``."""
        return next((param for param in self.params if param.name == name), None)


PASSWORD_STDIN = Param(
    "password_stdin",
    Kind.FLAG,
    "read the remote root password from one line of standard input",
    Goes.DRIVER,
)


def _inventory(name: str, kind: Kind, text: str, **more: object) -> Param:
    return Param(name, kind, text, Goes.INVENTORY, **more)  # type: ignore[arg-type]


REPLACE_BACKUP = Param(
    "replace_backup",
    Kind.FLAG,
    "yes, replace managed configuration on the future backup (the old one is kept)",
    Goes.VARIABLE,
    variable="zcluster_replace_backup",
)

CREATE_PARAMS = (
    _inventory("name", Kind.NAME, "name of the cluster", positional=True),
    _inventory(
        "local", Kind.HOST, "the node that is to be master: a host, or localhost for this machine"
    ),
    _inventory("remote", Kind.HOST, "the node that is to be backup"),
    _inventory("local_ip", Kind.ADDRESS, "the local node's address on the cluster link"),
    _inventory("remote_ip", Kind.ADDRESS, "the remote node's address on the cluster link"),
    _inventory(
        "vip", Kind.VIP, "a virtual address, 192.0.2.10/24 or 192.0.2.10/24@eth0", multiple=True
    ),
    _inventory(
        "failback",
        Kind.HOST,
        "who gets the VIPs back after a failure: disabled (default), local, remote",
    ),
    _inventory(
        "profile",
        Kind.TEXT,
        "how fast a dead master is noticed: standard (0.3 s, default), fast (0.06 s), wan (3 s)",
    ),
    _inventory(
        "check_interval",
        Kind.SECONDS,
        "seconds between two signs of life of the master (default: the profile's)",
        minimum=0.01,
        maximum=40.95,
    ),
    _inventory(
        "sync_path", Kind.PATH, "a file or directory to keep the same on both nodes", multiple=True
    ),
    _inventory(
        "vrid",
        Kind.INTEGER,
        "virtual router id (default: one that is free on the networks)",
        minimum=1,
        maximum=255,
    ),
    _inventory("user", Kind.TEXT, "the user Ansible logs in as (default root)"),
    _inventory("key", Kind.PATH, "your private SSH key (default ~/.ssh/id_ed25519)"),
    REPLACE_BACKUP,
    PASSWORD_STDIN,
)


def _setting(name: str, kind: Kind, text: str, **more: object) -> Param:
    more.setdefault("variable", f"zcluster_{name}")
    return Param(name, kind, text, Goes.SETTING, **more)  # type: ignore[arg-type]


CONFIGURE_PARAMS = (
    _setting(
        "failback",
        Kind.HOST,
        "who gets the VIPs back when it returns: disabled, or one of the nodes",
    ),
    _setting(
        "check_interval",
        Kind.SECONDS,
        "seconds between two signs of life of the master",
        minimum=0.01,
        maximum=40.95,
    ),
    _setting(
        "profile",
        Kind.TEXT,
        "how fast a dead master is noticed",
        choices=("standard", "fast", "wan"),
    ),
    _setting(
        "preempt_delay",
        Kind.SECONDS,
        "seconds for which a node must be ready before it gets the VIPs back",
        minimum=0,
        maximum=3600,
    ),
    _setting(
        "vip",
        Kind.VIP,
        "add or remove a virtual address",
        variable="zcluster_vips",
        multiple=True,
        changes_list=True,
    ),
    _setting(
        "witness",
        Kind.ADDRESS,
        "add or remove a machine whose answer proves that a network is alive",
        variable="zcluster_witnesses",
        multiple=True,
        changes_list=True,
    ),
    _setting(
        "track_interface",
        Kind.INTERFACE,
        "add or remove an interface without whose carrier a node does not serve",
        variable="zcluster_track_interfaces",
        multiple=True,
        changes_list=True,
    ),
)

NODE = Param(
    "node",
    Kind.HOST,
    "the node, by its name in the inventory",
    Goes.VARIABLE,
    variable="zcluster_node",
    positional=True,
)

LAB_NETWORKS = (
    ("front", "of the client and the virtual addresses", "198.18.10.0/24", "2001:db8:10::/64"),
    ("back", "of the backend", "198.18.20.0/24", "2001:db8:20::/64"),
    ("link", "between the nodes", "198.18.30.0/24", "2001:db8:30::/64"),
)
"""Name, what is in it, and the defaults of role lab for both families."""

ACTIONS: tuple[Action, ...] = (
    Action(
        verb="init",
        playbook="",
        summary="Write an inventory to fill in, every setting explained",
        text=(
            "Writes inventories/NAME/hosts.yml here, or into the directory given with -i: two\n"
            "hosts, every variable with its meaning. Edit it, then create. Overwrites nothing."
        ),
        examples=("zcluster init web", "zcluster -i clusters/web init web"),
        shown=Shown.WRITTEN,
        params=(Param("name", Kind.NAME, "name of the cluster", Goes.DRIVER, positional=True),),
        place=Place.HERE,
        writes=False,
    ),
    Action(
        verb="create",
        playbook="zcluster.ha.create",
        summary="Make a cluster of two nodes",
        text=(
            "Checks both nodes, then installs and configures them, and verifies the result.\n"
            "With options it writes an inventory (no secret in it) that all other verbs and plain\n"
            "ansible-playbook use; on a terminal it asks for what is missing. With an inventory\n"
            "that exists it uses that. Run again, it changes nothing, or repairs.\n"
            "The remote root password is asked for only if your SSH key is not accepted yet."
        ),
        examples=(
            "zcluster create web --local localhost --remote 192.0.2.12 --vip 192.0.2.100/24",
            "zcluster -i inventories/lab create",
            "zcluster create web --local lb1 --remote lb2 --local-ip 10.0.0.1 --remote-ip 10.0.0.2 "
            "--vip 192.0.2.100/24 --password-stdin < password",
            "zcluster -i inventories/web create --check --diff",
        ),
        shown=Shown.NODES,
        params=CREATE_PARAMS,
        exit_rule=ExitRule.NODES,
        place=Place.CREATE,
        takes_password=True,
    ),
    Action(
        verb="preflight",
        playbook="zcluster.ha.preflight",
        summary="Say what would stand in the way of a cluster",
        text=(
            "Looks at both nodes and reports everything it finds at once. Changes nothing: where\n"
            "your SSH key is not accepted yet, the root password serves for this one look."
        ),
        examples=("zcluster -i inventories/web preflight",),
        shown=Shown.FINDINGS,
        params=(PASSWORD_STDIN,),
        exit_rule=ExitRule.FINDINGS,
        takes_password=True,
        asks_for="findings",
        writes=False,
    ),
    Action(
        verb="interfaces",
        playbook="zcluster.ha.interfaces",
        summary="List the addresses a cluster can be built on",
        text=(
            "Real network cards, bonds and VLANs that are up, with their own IPv4 addresses: of\n"
            "all hosts of the inventory, or of HOST; of this machine where no cluster is known."
        ),
        examples=("zcluster interfaces", "zcluster interfaces lb1"),
        shown=Shown.INTERFACES,
        params=(
            Param(
                "host",
                Kind.HOST,
                "a host of the inventory; without an inventory, any host",
                Goes.LIMIT,
                positional=True,
            ),
            Param("user", Kind.TEXT, "the user Ansible logs in as", Goes.INVENTORY),
            Param("key", Kind.PATH, "your private SSH key", Goes.INVENTORY),
            PASSWORD_STDIN,
        ),
        place=Place.ANY_HOST,
        takes_password=True,
        asks_for="interfaces",
        writes=False,
    ),
    Action(
        verb="show",
        playbook="zcluster.ha.show",
        summary="Show the cluster's settings",
        text="Interface, local and remote IP, failback, check interval, VIPs, services.",
        examples=("zcluster show", "zcluster -i inventories/web show --output json"),
        shown=Shown.SETTINGS,
        asks_for="settings",
        writes=False,
    ),
    Action(
        verb="nodes",
        playbook="zcluster.ha.nodes",
        summary="Show the nodes: role, status, synchronization",
        text=(
            "Each node is asked now; nothing comes from a file. A node that cannot be reached is\n"
            "grey. Exit code: 0 green, 1 orange (maintenance), 2 red (failure), 3 grey (unknown).\n"
            "An inventory may hold many clusters: all, one (--cluster), or some hosts (--limit).\n"
            "--watch keeps one SSH connection per node open and asks through it, without Ansible."
        ),
        examples=(
            "zcluster nodes",
            "zcluster nodes --watch",
            "zcluster nodes --watch 10",
            "zcluster -i inventories/all --cluster web nodes",
            "zcluster nodes --output json | jq '.[].status'",
        ),
        shown=Shown.NODES,
        params=(
            Param(
                "watch",
                Kind.SECONDS,
                "show it again and again, so many seconds apart (1); Ctrl-C ends it",
                Goes.VARIABLE,
                variable="zcluster_watch",
                minimum=0.1,
                maximum=86400,
                bare=1,
            ),
        ),
        exit_rule=ExitRule.NODES,
        asks_for="node",
        writes=False,
    ),
    Action(
        verb="status",
        playbook="zcluster.ha.status",
        summary="Say in one line how a node is",
        text=(
            "Status and role of the local node (this machine, or the one create named so), or of\n"
            "HOST. Exit code as monitoring has it: 0 green, 1 orange, 2 red, 3 grey."
        ),
        examples=("zcluster status", "zcluster status lb2"),
        shown=Shown.STATUS,
        params=(
            Param(
                "host",
                Kind.HOST,
                "a host of the inventory (default: the local node)",
                Goes.DRIVER,
                positional=True,
            ),
        ),
        exit_rule=ExitRule.NODES,
        asks_for="node",
        writes=False,
    ),
    Action(
        verb="maintenance",
        playbook="zcluster.ha.maintenance",
        summary="Take a node out of service; a master hands over first, without a loss",
        text=(
            "The node does not serve until it is started again, reboots included. Refused, with\n"
            "the reason, when the other node could not take over; --force does it all the same,\n"
            "and then nobody may serve. In maintenance already: says so, and is content."
        ),
        examples=("zcluster maintenance lb2", "zcluster maintenance lb1 --check"),
        shown=Shown.DONE,
        params=(
            NODE,
            Param(
                "force",
                Kind.FLAG,
                "even if the other node could not take over",
                Goes.VARIABLE,
                variable="zcluster_force",
            ),
        ),
        asks_for="done",
    ),
    Action(
        verb="start",
        playbook="zcluster.ha.start",
        summary="Bring a node back from maintenance",
        text=(
            "As backup first; as master only if failback prefers it, and only when it has caught\n"
            "up with configuration and connections. Started already: says so, and is content."
        ),
        examples=("zcluster start lb2",),
        shown=Shown.DONE,
        params=(NODE,),
        asks_for="done",
    ),
    Action(
        verb="services",
        playbook="zcluster.ha.services",
        summary="Show the managed services on both nodes",
        text=(
            "active: serves. standby: ready, running (hot) or to be started (cold). starting: on\n"
            "its way up. rejected: its program does not accept the new configuration, and goes on\n"
            "with the old one. failed: cannot be kept alive, or could not be told. stopped by\n"
            "operator: somebody stopped it; nobody starts it."
        ),
        examples=("zcluster services", "zcluster services --output json"),
        shown=Shown.SERVICES,
        exit_rule=ExitRule.SERVICES,
        asks_for="services",
        writes=False,
    ),
    Action(
        verb="apply",
        playbook="zcluster.ha.apply",
        summary="Roll a change of a service's configuration to both nodes",
        text=(
            "On the master: validates and activates it, then waits for the backup's answer.\n"
            "--check validates on both nodes and activates nothing. With --candidate it tries the\n"
            "files below a directory of the master instead of the live ones:\n"
            "/root/new/etc/haproxy for /etc/haproxy, say, before anything is edited in place."
        ),
        examples=(
            "zcluster apply",
            "zcluster apply haproxy",
            "zcluster apply haproxy --check",
            "zcluster apply haproxy --check --candidate /root/new",
        ),
        shown=Shown.SERVICES,
        params=(
            Param(
                "service",
                Kind.TEXT,
                "one of the managed services (default: all)",
                Goes.VARIABLE,
                variable="zcluster_apply_service",
                positional=True,
            ),
            Param(
                "candidate",
                Kind.PATH,
                "with --check: a directory on the master that holds the files to try",
                Goes.VARIABLE,
                variable="zcluster_candidate",
            ),
        ),
        exit_rule=ExitRule.SERVICES,
        asks_for="apply",
    ),
    Action(
        verb="switchover",
        playbook="zcluster.ha.switchover",
        summary="Change who serves, without a loss",
        text=(
            "The backup becomes master, or NODE does (which is safe to repeat). Waits until it\n"
            "has configuration and connections, switches, and verifies from both nodes. Refused,\n"
            "with the ways out, when failback would bring the VIPs back at once."
        ),
        examples=("zcluster switchover", "zcluster switchover lb2", "zcluster switchover --check"),
        shown=Shown.DONE,
        params=(NODE,),
        asks_for="done",
    ),
    Action(
        verb="configure",
        playbook="zcluster.ha.configure",
        summary="Change settings of the running cluster, without a loss",
        text=(
            "Old and new values are shown; --check --diff says what would be done. What cannot\n"
            "work is refused before anything changes. The inventory gets the new values once the\n"
            "nodes have them. Without options it shows the settings that the nodes have, and asks\n"
            "what is to change; --yes brings the cluster to what the inventory says, unasked."
        ),
        examples=(
            "zcluster configure",
            "zcluster configure --failback disabled",
            "zcluster configure --check-interval 0.05 --check --diff",
            "zcluster configure --vip add 192.0.2.101/24 --vip remove 192.0.2.100",
        ),
        shown=Shown.CONFIGURED,
        params=CONFIGURE_PARAMS,
        exit_rule=ExitRule.NODES,
    ),
    Action(
        verb="update",
        playbook="zcluster.ha.update",
        summary="Update both nodes, one after the other; the service runs on",
        text=(
            "Debian packages: keepalived, conntrackd and those of the managed services, or those\n"
            "that --package names; with --zcluster, zcluster itself, too. The backup first, in\n"
            "maintenance; green again it takes over, then the other. Stops at the first red and\n"
            "says the way on; run again, it goes on from there. In the end the former backup\n"
            "serves, unless --back."
        ),
        examples=(
            "zcluster update",
            "zcluster update --check",
            "zcluster update --zcluster --back",
            "zcluster update --package haproxy --package libssl3",
        ),
        shown=Shown.NODES,
        params=(
            Param(
                "package",
                Kind.TEXT,
                "a Debian package to update instead of the usual ones",
                Goes.VARIABLE,
                variable="zcluster_update_packages",
                multiple=True,
            ),
            Param(
                "zcluster",
                Kind.FLAG,
                "bring zcluster on the nodes to the version that runs here, too",
                Goes.VARIABLE,
                variable="zcluster_update_self",
            ),
            Param(
                "back",
                Kind.FLAG,
                "let the node serve again that served before",
                Goes.VARIABLE,
                variable="zcluster_update_back",
            ),
        ),
        exit_rule=ExitRule.NODES,
    ),
    Action(
        verb="replace",
        playbook="zcluster.ha.replace",
        summary="Put a new machine in the place of a dead node; the other serves on",
        text=(
            "NODE is the dead node's name in the inventory. The new machine is prepared as create\n"
            "does it, and gets configuration and connections from the node that serves. The old\n"
            "machine must never come back as it was: switch it off, wipe its disk.\n"
            "Addresses other than the old machine's go into your inventory once it is a node."
        ),
        examples=(
            "zcluster replace lb2",
            "zcluster replace lb2 --with 192.0.2.13 --with-ip 10.0.0.3",
        ),
        shown=Shown.NODES,
        params=(
            NODE,
            Param(
                "with",
                Kind.HOST,
                "where the new machine is reached (default: as the inventory says)",
                Goes.VARIABLE,
                variable="zcluster_with",
                host_variable="ansible_host",
            ),
            Param(
                "with_ip",
                Kind.ADDRESS,
                "its address on the cluster link (default: as the inventory says)",
                Goes.VARIABLE,
                variable="zcluster_with_ip",
                host_variable="zcluster_ip",
            ),
            REPLACE_BACKUP,
            PASSWORD_STDIN,
        ),
        exit_rule=ExitRule.NODES,
        takes_password=True,
        confirm="Replace the node? The old machine must be off, and never come back as it was.",
    ),
    Action(
        verb="history",
        playbook="zcluster.ha.history",
        summary="Tell what happened on both nodes, in one time line",
        text=(
            "Changes of role and actions: when, where, from, to, why, how long, who. One node is\n"
            "enough: each keeps a copy of the other's events. The order does not depend on the\n"
            "clocks, but where the nodes knew nothing of each other; such lines have a ~."
        ),
        examples=("zcluster history", "zcluster history --last 500 --output json"),
        shown=Shown.HISTORY,
        params=(
            Param(
                "last",
                Kind.INTEGER,
                "the last so many entries (default 100)",
                Goes.VARIABLE,
                variable="zcluster_history_last",
                minimum=1,
                maximum=100000,
            ),
            Param(
                "detailed",
                Kind.FLAG,
                "details, too, such as keepalived's own events",
                Goes.VARIABLE,
                variable="zcluster_history_detailed",
            ),
        ),
        asks_for="history",
        writes=False,
    ),
    Action(
        verb="sync status",
        playbook="zcluster.ha.sync_status",
        summary="Show synchronization: state, lag, generations, what differs",
        text="Each node is asked now. RELATION says how it stands to the other's.",
        examples=("zcluster sync status", "zcluster sync status --output json"),
        shown=Shown.SYNC,
        asks_for="sync",
        writes=False,
    ),
    Action(
        verb="sync now",
        playbook="zcluster.ha.sync_now",
        summary="Send a full pass at once, and wait for its end",
        text="Every byte is read again on the master. Changes travel by themselves.",
        examples=("zcluster sync now",),
        shown=Shown.SYNC,
        asks_for="sync",
    ),
    Action(
        verb="sync pause",
        playbook="zcluster.ha.sync_pause",
        summary="Stop synchronization on both nodes, until it is resumed",
        text="Survives a reboot; both nodes are orange and say who paused, and why.",
        examples=("zcluster sync pause 'comparing two kernels'",),
        shown=Shown.SYNC,
        params=(
            Param(
                "why",
                Kind.TEXT,
                "the reason",
                Goes.VARIABLE,
                variable="zcluster_why",
                positional=True,
            ),
        ),
    ),
    Action(
        verb="sync resume",
        playbook="zcluster.ha.sync_resume",
        summary="End a pause of synchronization",
        text="What was changed meanwhile is sent at once.",
        examples=("zcluster sync resume",),
        shown=Shown.SYNC,
    ),
    Action(
        verb="sync versions",
        playbook="zcluster.ha.sync_versions",
        summary="List what passes overwrote or removed on each node",
        text="Each line can be given to sync restore.",
        examples=("zcluster sync versions", "zcluster sync versions /etc/haproxy/haproxy.cfg"),
        shown=Shown.SYNC,
        params=(
            Param(
                "path",
                Kind.TEXT,
                "only this path, and below it (default: all)",
                Goes.VARIABLE,
                variable="zcluster_path",
                positional=True,
            ),
        ),
        asks_for="sync",
        writes=False,
    ),
    Action(
        verb="sync restore",
        playbook="zcluster.ha.sync_restore",
        summary="Bring a kept version back, on both nodes",
        text=(
            "PATH@VERSION as sync versions lists it, whichever node keeps it. It is written on\n"
            "the master, which sends it; what it replaces is kept."
        ),
        examples=("zcluster sync restore /etc/haproxy/haproxy.cfg@00000012-20260101T120000-drift",),
        shown=Shown.SYNC,
        params=(
            Param(
                "kept",
                Kind.TEXT,
                "PATH@VERSION",
                Goes.VARIABLE,
                variable="zcluster_kept",
                positional=True,
            ),
        ),
    ),
    Action(
        verb="sync resolve",
        playbook="zcluster.ha.sync_resolve",
        summary="After divergence: show what differs, decide which node's content stays",
        text=(
            "Without --keep it shows the differing paths, with a diff where everybody may read a\n"
            "file and digests elsewhere. With --keep that node's content becomes the one of both;\n"
            "what gives way is kept on the other node (sync versions)."
        ),
        examples=("zcluster sync resolve", "zcluster sync resolve --keep lb2"),
        shown=Shown.SYNC,
        params=(
            Param(
                "keep",
                Kind.HOST,
                "the node whose content stays",
                Goes.VARIABLE,
                variable="zcluster_keep",
            ),
        ),
        asks_for="sync",
    ),
    Action(
        verb="unset",
        playbook="zcluster.ha.unset",
        summary="Take the cluster apart; the active node goes on serving",
        text=(
            "Removes services, files, keys, user, units and firewall rules of zcluster from both\n"
            "nodes. The active node keeps its VIPs and its connections."
        ),
        examples=("zcluster unset", "zcluster -i inventories/web unset --yes"),
        shown=Shown.LEFT,
        confirm="Take the cluster apart? Its VIPs stay where they are, and nobody takes over.",
    ),
    Action(
        verb="lab up",
        playbook="zcluster.ha.lab_up",
        summary="Start the lab: two bare nodes, a client and a backend in containers",
        text=(
            "Nothing aimed at a lab address leaves this machine. Writes inventories/lab.\n"
            "Where one of its networks is this machine's already, name another: IPv4 of /24 or\n"
            "larger, IPv6 of /112 or larger."
        ),
        examples=(
            "zcluster lab up",
            "zcluster lab up --debian 13",
            "zcluster lab up --front 10.97.10.0/24 --front6 fd00:97:10::/64",
        ),
        shown=Shown.MACHINES,
        params=(
            Param(
                "debian",
                Kind.TEXT,
                "the Debian release of the nodes (default 12)",
                Goes.VARIABLE,
                variable="lab_release",
                choices=("12", "13"),
            ),
            Param(
                "root_login",
                Kind.TEXT,
                "how sshd of the bare nodes lets root in; Debian ships prohibit-password",
                Goes.VARIABLE,
                variable="lab_root_login",
                choices=("password", "prohibit-password"),
            ),
            *(
                Param(
                    f"{name}{suffix}",
                    Kind.TEXT,
                    f"IPv{version} network {what} (default {default})",
                    Goes.VARIABLE,
                    variable=f"lab_{name}{suffix}",
                )
                for name, what, default4, default6 in LAB_NETWORKS
                for suffix, version, default in (("", 4, default4), ("6", 6, default6))
            ),
        ),
        place=Place.HERE,
    ),
    Action(
        verb="lab down",
        playbook="zcluster.ha.lab_down",
        summary="Stop the lab and put back all it changed on this machine",
        text="The image stays cached, so that the next lab up is quick; --purge removes it too.",
        examples=("zcluster lab down", "zcluster lab down --purge"),
        shown=Shown.CHANGES,
        params=(
            Param(
                "purge",
                Kind.FLAG,
                "remove the cached images, too",
                Goes.VARIABLE,
                variable="lab_purge",
            ),
        ),
        place=Place.HERE,
    ),
    Action(
        verb="lab status",
        playbook="zcluster.ha.lab_status",
        summary="Show the lab's machines",
        text="Which containers run, and their addresses.",
        examples=("zcluster lab status",),
        shown=Shown.MACHINES,
        place=Place.HERE,
        writes=False,
    ),
    Action(
        verb="completion",
        playbook="",
        summary="Print what makes the shell complete verbs, options, hosts and clusters",
        text=(
            'bash: eval "$(zcluster completion bash)" in ~/.bashrc.\n'
            'zsh:  eval "$(zcluster completion zsh)" in ~/.zshrc.\n'
            "fish: zcluster completion fish > ~/.config/fish/completions/zcluster.fish"
        ),
        examples=("zcluster completion bash", "zcluster completion fish"),
        shown=Shown.SCRIPT,
        params=(
            Param(
                "shell",
                Kind.TEXT,
                "bash, zsh or fish",
                Goes.DRIVER,
                positional=True,
                choices=("bash", "zsh", "fish"),
            ),
        ),
        place=Place.HERE,
        writes=False,
    ),
)


def verbs() -> Iterator[str]:
    """Yield all verbs."""
    return (action.verb for action in ACTIONS)


def find(verb: str) -> Action | None:
    """Return the action for ``verb``; ``lab_up`` is as good as ``lab up``."""
    wanted = verb.strip().replace("_", " ")
    return next((action for action in ACTIONS if action.verb == wanted), None)


def similar(verb: str) -> str | None:
    """Return the verb somebody probably meant."""
    import difflib

    known = {verb: verb for verb in verbs()} | dict(COMMONLY_MEANT)
    close = difflib.get_close_matches(verb.lower(), known, n=1, cutoff=0.6)
    return known[close[0]] if close else None


COMMONLY_MEANT = {
    "install": "create",
    "setup": "create",
    "new": "create",
    "destroy": "unset",
    "delete": "unset",
    "remove": "unset",
    "list": "nodes",
    "node": "nodes",
    "info": "show",
    "settings": "show",
    "check": "preflight",
    "ip": "interfaces",
    "inventory": "init",
    "complete": "completion",
    "upgrade": "update",
    "log": "history",
    "events": "history",
}
"""What other tools call it."""
