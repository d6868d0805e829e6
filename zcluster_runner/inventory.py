# SPDX-License-Identifier: GPL-3.0-or-later
"""Which inventory a command works on, and what Ansible makes of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zcluster_runner import environment
from zcluster_runner.errors import DriverError, InventoryError, NoInventoryError

VARIABLE = "ZCLUSTER_INVENTORY"

NOT_CLUSTERS = {"example"}
"""Directories under inventories/ that are for reading."""

HOSTS_FILES = ("hosts.yml", "hosts.yaml", "hosts", "hosts.ini", "inventory.yml", "inventory.yaml")


def config_home(caller: Mapping[str, str]) -> Path:
    """Return where ``create`` writes inventories: ~/.config/zcluster."""
    home = Path(caller.get("HOME") or Path.home())
    return Path(caller.get("XDG_CONFIG_HOME") or home / ".config") / "zcluster"


def is_inventory(directory: Path) -> bool:
    """Return whether a directory holds hosts (a lab that is down leaves only its keys)."""
    return any((directory / name).is_file() for name in HOSTS_FILES)


def known(caller: Mapping[str, str], cwd: Path) -> Iterator[Path]:
    """Yield the inventories that can be found without being named."""
    for parent in (cwd / "inventories", config_home(caller)):
        if parent.is_dir():
            for directory in sorted(parent.iterdir()):
                if directory.name not in NOT_CLUSTERS and is_inventory(directory):
                    yield directory


def locate(given: str | None, caller: Mapping[str, str], cwd: Path, name: str = "") -> Path:
    """Return the inventory: the one given, $ZCLUSTER_INVENTORY, or the only one there is.

    ``name`` is the cluster asked for; it decides between several.
    """
    for source, value in (("-i", given), (f"${VARIABLE}", caller.get(VARIABLE))):
        if value:
            path = (cwd / Path(value).expanduser()).absolute()
            if not path.exists():
                raise InventoryError(
                    f"inventory {value} (from {source}): no such file or directory"
                )
            return path
    found = list(known(caller, cwd))
    named = [path for path in found if path.name == name]
    if len(named) == 1:
        return named[0].absolute()
    if len(found) == 1:
        return found[0].absolute()
    if not found:
        raise NoInventoryError(
            "no cluster is known here. Make one with 'zcluster create', "
            f"or name an inventory with -i or ${VARIABLE}"
        )
    choices = "\n".join(f"  -i {shown(path, cwd)}" for path in found)
    raise InventoryError(f"several clusters are known. Choose one:\n{choices}")


def shown(path: Path, cwd: Path) -> str:
    """Return a path as short as one would type it."""
    try:
        return str(path.relative_to(cwd))
    except ValueError:
        return str(path)


@dataclass(frozen=True)
class Host:
    """What the inventory says about a host."""

    name: str
    cluster: str
    ip: str
    is_local: bool
    """It is this machine (connection: local)."""
    initial_master: str
    address: str = ""
    """Where Ansible reaches it; empty where that is its name, or a template."""

    @classmethod
    def of(cls, name: str, variables: Mapping[str, Any]) -> Host:
        """Read the variables of one host."""
        address = str(variables.get("ansible_host") or "")
        return cls(
            name=name,
            cluster=str(variables.get("zcluster_name") or ""),
            ip=str(variables.get("zcluster_ip") or variables.get("ansible_host") or ""),
            is_local=variables.get("ansible_connection") in ("local", "ansible.builtin.local"),
            initial_master=str(variables.get("zcluster_initial_master") or ""),
            address="" if "{{" in address else address,
        )


@dataclass(frozen=True)
class Inventory:
    """The hosts of all clusters, in inventory order."""

    hosts: tuple[Host, ...]

    def of_cluster(self, cluster: str) -> tuple[Host, ...]:
        """Return the hosts of ``cluster``."""
        return tuple(host for host in self.hosts if host.cluster == cluster)

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters' names, in inventory order."""
        return tuple(dict.fromkeys(host.cluster for host in self.hosts if host.cluster))

    def host(self, name: str) -> Host | None:
        """Return the host called ``name``."""
        return next((host for host in self.hosts if host.name == name), None)

    def local(self, cluster: str) -> Host | None:
        """Return the local node: this machine, else the initial master, else the first."""
        hosts = self.of_cluster(cluster)
        chosen = [host for host in hosts if host.is_local]
        chosen += [host for host in hosts if host.initial_master == host.name]
        return next(iter([*chosen, *hosts]), None)


def read(
    paths: tuple[Path, ...], caller: Mapping[str, str], cwd: Path, limit: str = ""
) -> Inventory:
    """Return the hosts of these paths, all or those that ``limit`` means."""
    return parse(content(paths, caller, cwd, limit))


def content(
    paths: tuple[Path, ...], caller: Mapping[str, str], cwd: Path, limit: str = ""
) -> dict[str, Any]:
    """Return what ``ansible-inventory`` makes of these paths: any plugin, any format."""
    program = environment.ansible_playbook().with_name("ansible-inventory")
    command = [str(program), "--list", *([f"--limit={limit}"] if limit else [])]
    for path in paths:
        command += ["-i", str(path)]
    done = subprocess.run(
        command,
        env=environment.build(caller, {}, cwd, ""),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise InventoryError(f"the inventory cannot be read: {done.stderr.strip()[-2000:]}")
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise DriverError("ansible-inventory did not answer with JSON") from error
    return said


def hosts_in(paths: tuple[Path, ...], caller: Mapping[str, str], cwd: Path) -> Inventory:
    """Return the hosts: from the file itself where it says it all, else from Ansible."""
    simple = written(paths[0]) if len(paths) == 1 else None
    return simple or read(paths, caller, cwd)


def written(path: Path) -> Inventory | None:
    """Return what the YAML file of an inventory says, if it says it all: no Ansible starts then.

    None where Ansible itself must be asked: another format, variables in files of their own.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes what Ansible adds to YAML (``!vault``) for a text."""

    Loader.add_multi_constructor("!", lambda *_: "")
    try:
        beside = [e for e in (path if path.is_dir() else path.parent).iterdir() if e != path]
        files = [e for e in beside if e.is_file() and e.suffix not in (".md", ".txt")]
        if any(entry.name in ("group_vars", "host_vars") for entry in beside):
            return None
        file = path if path.is_file() else files[0]
        if file.suffix not in (".yml", ".yaml") or (path.is_dir() and len(files) > 1):
            return None
        content = yaml.load(file.read_text(encoding="utf-8"), Loader)  # noqa: S506  (a SafeLoader)
        found = tuple(Host.of(name, more) for name, more in walked(content, {}))
    except (AttributeError, IndexError, OSError, TypeError, ValueError, yaml.YAMLError):
        return None
    return Inventory(found) if found and all(host.cluster for host in found) else None


def walked(groups: object, inherited: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each host of these groups with its variables."""
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if not isinstance(group, Mapping):
            continue
        variables = {**inherited, **(group.get("vars") or {})}
        for name, more in (group.get("hosts") or {}).items():
            yield str(name), {**variables, **(more or {})}
        yield from walked(group.get("children"), variables)


def parse(content: Mapping[str, Any]) -> Inventory:
    """Return the hosts of ``ansible-inventory --list``, groups walked in their order."""
    variables = content.get("_meta", {}).get("hostvars", {})
    order: dict[str, None] = {}

    def walk(group: str, seen: frozenset[str]) -> None:
        members = content.get(group, {})
        for host in members.get("hosts", []):
            order.setdefault(str(host))
        for child in members.get("children", []):
            if child not in seen:
                walk(child, seen | {child})

    walk("all", frozenset({"all"}))
    for host in variables:
        order.setdefault(str(host))
    return Inventory(tuple(Host.of(name, variables.get(name, {})) for name in order))


def default_directory(name: str, caller: Mapping[str, str] | None = None) -> Path:
    """Return where ``create NAME`` writes its inventory when no place is given."""
    return config_home(os.environ if caller is None else caller) / name
