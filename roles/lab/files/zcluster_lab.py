#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
# The mechanics of the lab: image, networks, nodes, disks, snapshots and faults.
"""Two bare load balancers, a client and a backend, as systemd containers on this machine.

Every name derives from ``Settings.name``, so that several labs can live side by side. Nothing of
the lab is reachable from the host's own network namespace: its ranges are routed ``unreachable``
while it is up, and the way in is ``podman exec`` or the namespaces of a container.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import inspect
import ipaddress
import json
import os
import re
import resource
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# --------------------------------------------------------------------------------------------------
# What the lab is: tables
# --------------------------------------------------------------------------------------------------

NETWORKS: Final = ("front", "back", "link")
DIRECTIONS: Final = ("both", "in", "out")
RELEASES: Final[Mapping[int, str]] = {12: "bookworm", 13: "trixie"}
ROOT_LOGINS: Final = ("password", "prohibit-password")

BASE_PACKAGES: Final = (
    "acl",
    "ca-certificates",
    "dbus",
    "haproxy",
    "iproute2",
    "iputils-arping",
    "iputils-ping",
    "kmod",
    "less",
    "netcat-openbsd",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "socat",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tcpdump",
)
"""What a node is born with: a plain load balancer, nothing of a cluster."""

REPOSITORY_PACKAGES: Final = ("conntrack", "conntrackd", "keepalived", "netbase", "nginx", "rsync")
"""What roles install later, from the repository inside the image."""

MASKED_UNITS: Final = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dev-hugepages.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-logind.service",
)
"""Units that only make sense on a machine, or that would wake a shared one up."""

IMAGE_FILES: Final[Mapping[str, str]] = {
    "/etc/apt/sources.list": "deb [trusted=yes] file:/srv/packages ./\n",
    "/etc/apt/apt.conf.d/90lab": 'Acquire::Languages "none";\n',
    "/etc/systemd/journald.conf.d/lab.conf": "[Journal]\nSystemMaxUse=32M\nRuntimeMaxUse=32M\n",
    "/usr/local/lib/systemd/system/zcluster-echo.service": """\
[Unit]
Description=Echo servers of the lab
After=network.target

[Service]
Type=notify
ExecStart=/usr/bin/python3 /usr/local/bin/zcluster_traffic.py echo
Restart=always
LimitNOFILE=16384

[Install]
WantedBy=multi-user.target
""",
}

READ_ONLY_KNOBS: Final = ("abi", "debug", "dev", "fs", "kernel", "user", "vm")
"""Below /proc/sys: these belong to the machine; a node sets only what is its own, net."""

CAPABILITIES: Final = (
    "AUDIT_WRITE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "LINUX_IMMUTABLE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BROADCAST",
    "NET_RAW",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_NICE",
    "SYS_PTRACE",
    "SYSLOG",
)

TMPFS: Final = (
    "/tmp:rw,nosuid,nodev,mode=1777,size=256m",
    "/run:rw,nosuid,nodev,mode=755,size=128m",
)
"""In memory, so limited: by default each may take half of the machine's."""

CAP_SYS_RESOURCE: Final = 24
ROUTE_PROTOCOL: Final = "218"
"""Unassigned (rt_protos); marks the lab's own routes, so that down removes exactly those."""

HOST_KNOBS: Final[Mapping[str, int]] = {
    "/proc/sys/fs/inotify/max_user_instances": 1024,
    "/proc/sys/fs/inotify/max_user_watches": 262144,
    "/proc/sys/fs/inotify/max_queued_events": 16384,
}
"""At least this much while a lab is up: to the kernel all containers' roots are one user."""

BRIDGE_KNOBS: Final = tuple(
    f"/proc/sys/net/bridge/bridge-nf-call-{family}"
    for family in ("iptables", "ip6tables", "arptables")
)
"""Switched off while a lab is up, or bridged traffic would pass the host's own conntrack."""

KEPT_KNOBS: Final = (
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv6/conf/default/forwarding",
)
"""Not ours, but container engines switch them on: remembered and put back."""

BARE: Final = "bare"
DEAD: Final = "dead"
"""The snapshot that up itself takes, before the nodes boot for the first time."""

RT_NODE_US: Final = 100_000
RT_PARENT_US: Final = 900_000

COMMANDS: Final[Mapping[str, str]] = {
    "dpkg-deb": "dpkg",
    "ip": "iproute2",
    "iptables": "iptables",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "podman": "podman",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
}

NETAVARK: Final = Path("/usr/lib/podman/netavark")
"""Podman's network back end; Debian only recommends it to podman."""

NODE_ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "linux",
}


@dataclass(frozen=True)
class Node:
    """One container: its host numbers per network, and whether it is one of the pair."""

    name: str
    networks: Mapping[str, int]
    balancer: bool = False
    extra_addresses: tuple[int, ...] = ()
    units: tuple[str, ...] = ()

    def interface(self, network: str) -> str:
        """The name of its interface on a network: eth0, eth1 … in the order of its networks."""
        return f"eth{list(self.networks).index(network)}"


NODES: Final[Mapping[str, Node]] = {
    node.name: node
    for node in (
        Node("n1", {"front": 11, "back": 11, "link": 11}, balancer=True),
        Node("n2", {"front": 12, "back": 12, "link": 12}, balancer=True),
        Node("client", {"front": 50}),
        Node(
            "backend", {"back": 60}, extra_addresses=(61, 62, 63), units=("zcluster-echo.service",)
        ),
    )
}
BALANCERS: Final = tuple(node for node in NODES.values() if node.balancer)
VIP_NUMBERS: Final[Mapping[str, tuple[int, ...]]] = {"front": (100, 101), "back": (100,)}
FORWARD_PORT: Final = 7000
HTTP_PORT: Final = 8080


class LabError(Exception):
    """Something a person has to know: what, where, why, what to do."""


@dataclass(frozen=True)
class Settings:
    """Everything about a lab that a user may choose."""

    name: str = "zcluster-lab"
    release: int = 12
    root_login: str = "password"
    root_password: str = "zcluster-lab"  # noqa: S105 - documented, and of no use elsewhere
    front: str = "198.18.10.0/24"
    back: str = "198.18.20.0/24"
    link: str = "198.18.30.0/24"
    front6: str = "2001:db8:10::/64"
    back6: str = "2001:db8:20::/64"
    link6: str = "2001:db8:30::/64"
    root_mb: int = 1536
    zcluster_mb: int = 64
    haproxy_mb: int = 32
    mirror: str = ""
    base_dir: str = "/var/lib/zcluster-lab"

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            raise LabError(f"release: {self.release!r} is unknown, allowed: 12, 13")
        if self.root_login not in ROOT_LOGINS:
            raise LabError(f"root_login: {self.root_login!r}, allowed: {', '.join(ROOT_LOGINS)}")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", self.name):
            raise LabError(f"name: {self.name!r}, allowed: lower case letters, digits and dashes")
        for network in NETWORKS:
            for field, version, longest in ((network, 4, 24), (f"{network}6", 6, 112)):
                value = str(getattr(self, field))
                try:
                    parsed = ipaddress.ip_network(value)
                except ValueError as error:
                    raise LabError(f"{field}: {value!r} is no network: {error}") from error
                if parsed.version != version or parsed.prefixlen > longest:
                    raise LabError(
                        f"{field}: {value!r}, allowed: an IPv{version} network "
                        f"of /{longest} or larger"
                    )
        parsed_all = [ipaddress.ip_network(prefix) for prefix in self.prefixes()]
        for index, one in enumerate(parsed_all):
            for other in parsed_all[index + 1 :]:
                if one.version == other.version and one.overlaps(other):
                    raise LabError(f"networks overlap: {one} and {other}")
        for field in ("root_mb", "zcluster_mb", "haproxy_mb"):
            if int(getattr(self, field)) < 16:
                raise LabError(f"{field}: {getattr(self, field)}, allowed: 16 or more")

    @property
    def suite(self) -> str:
        """Debian's name for the release."""
        return RELEASES[self.release]

    @property
    def directory(self) -> Path:
        """Where this lab's disks and snapshots are."""
        return Path(self.base_dir) / "labs" / self.name

    def prefix(self, network: str, version: int = 4) -> str:
        """The prefix of one network."""
        return str(getattr(self, network if version == 4 else f"{network}6"))

    def named_prefixes(self) -> dict[str, str]:
        """All prefixes of the lab, by the names of their settings."""
        names = [name for network in NETWORKS for name in (network, f"{network}6")]
        return {name: str(getattr(self, name)) for name in names}

    def prefixes(self) -> list[str]:
        """All prefixes of the lab."""
        return [*self.named_prefixes().values()]

    def address(self, network: str, number: int, version: int = 4) -> str:
        """A host's address; IPv6 shows the same digits as IPv4 (…::11)."""
        base = ipaddress.ip_network(self.prefix(network, version)).network_address
        return str(base + (number if version == 4 else int(str(number), 16)))

    def container(self, node: str) -> str:
        """The container's name."""
        return f"{self.name}-{node}"

    def mac(self, network: str, number: int) -> str:
        """A fixed, locally administered hardware address."""
        return f"02:5a:63:00:{NETWORKS.index(network):02x}:{number:02x}"


@dataclass(frozen=True)
class Machine:
    """What this machine can do; everything the lab must work around is derived from it."""

    cgroup_version: int
    runtimes: tuple[str, ...]
    sys_resource: bool
    open_files: int
    processes: int
    loop_devices: bool

    @classmethod
    def look(cls) -> Machine:
        """Read the facts."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        effective = int(re.findall(r"^CapEff:\s+(\S+)", status, re.MULTILINE)[0], 16)
        return cls(
            cgroup_version=2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
            runtimes=tuple(name for name in ("crun", "runc") if shutil.which(name)),
            sys_resource=bool(effective >> CAP_SYS_RESOURCE & 1),
            open_files=_hard_limit(resource.RLIMIT_NOFILE),
            processes=_hard_limit(resource.RLIMIT_NPROC),
            loop_devices=Path("/dev/loop-control").exists(),
        )


def _hard_limit(what: int) -> int:
    hard = resource.getrlimit(what)[1]
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def runtime_arguments(machine: Machine) -> list[str]:
    """Which OCI runtime: runc where there is one (crun insists on limits it may not set)."""
    return ["--runtime", "runc"] if "runc" in machine.runtimes else []


def limit_arguments(machine: Machine) -> list[str]:
    """Without CAP_SYS_RESOURCE podman's default limits cannot be set: ask for what is allowed."""
    if machine.sys_resource:
        return []
    files, processes = min(machine.open_files, 16384), min(machine.processes, 16384)
    return ["--ulimit", f"nofile={files}:{files}", "--ulimit", f"nproc={processes}:{processes}"]


def init_arguments(machine: Machine, release: int) -> list[str]:
    """Debian 13's systemd refuses cgroup v1 unless told twice on its kernel command line."""
    if machine.cgroup_version == 2 or release < 13:
        return []
    return ["systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]


def boot_script(settings: Settings, node: Node, arguments: Sequence[str]) -> str:
    """What PID 1 does before it becomes systemd."""
    lines = [
        f"for d in {' '.join(READ_ONLY_KNOBS)}; do",
        "  if [ -d /proc/sys/$d ]; then",
        "    mount --bind /proc/sys/$d /proc/sys/$d && mount -o remount,bind,ro /proc/sys/$d",
        "  fi",
        "done",
    ]
    for network in node.networks:
        interface, bits = node.interface(network), settings.prefix(network).rpartition("/")[2]
        bits6 = settings.prefix(network, 6).rpartition("/")[2]
        for number in node.extra_addresses:
            lines += [
                f"ip address add {settings.address(network, number)}/{bits} dev {interface}",
                f"ip address add {settings.address(network, number, 6)}/{bits6} dev {interface}",
            ]
    lines.append(" ".join(["exec /sbin/init", *arguments]))
    return "\n".join(lines)


def network_arguments(settings: Settings, node: Node) -> list[str]:
    """One --network per link, with everything about it fixed."""
    arguments: list[str] = []
    for network, number in node.networks.items():
        options = {
            "ip": settings.address(network, number),
            "ip6": settings.address(network, number, 6),
            "mac": settings.mac(network, number),
            "interface_name": node.interface(network),
        }
        text = ",".join(f"{key}={value}" for key, value in options.items())
        arguments += ["--network", f"{settings.name}-{network}:{text}"]
    return arguments


def run_arguments(
    machine: Machine, settings: Settings, node: Node, root: Path, volumes: Mapping[str, str]
) -> list[str]:
    """The whole podman command line of one node: facts in, arguments out."""
    return [
        *runtime_arguments(machine),
        "run",
        "--detach",
        "--name",
        settings.container(node.name),
        "--hostname",
        node.name,
        "--systemd=always",
        "--cap-add",
        ",".join(CAPABILITIES),
        "--security-opt",
        "unmask=ALL",
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "apparmor=unconfined",
        "--security-opt",
        "label=disable",
        "--no-hosts",
        "--dns=none",
        "--restart=no",
        *(part for entry in TMPFS for part in ("--tmpfs", entry)),
        *limit_arguments(machine),
        *network_arguments(settings, node),
        *(part for host, inside in volumes.items() for part in ("--volume", f"{host}:{inside}")),
        "--rootfs",
        str(root),
        "/bin/sh",
        "-c",
        boot_script(settings, node, init_arguments(machine, settings.release)),
    ]


# --------------------------------------------------------------------------------------------------
# Running things
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a command said."""

    returncode: int
    stdout: str
    stderr: str


def run(
    arguments: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float | None = 600,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run a command; its words are in the error when it fails."""
    try:
        done = subprocess.run(
            list(arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=None if env is None else dict(env),
            check=False,
        )
    except FileNotFoundError as error:
        package = COMMANDS.get(arguments[0], "")
        hint = f"; on Debian: apt-get install {package}" if package else ""
        raise LabError(f"{arguments[0]}: not found{hint}") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shlex.join(arguments)[:300]}: no end after {timeout} s") from error
    result = Result(done.returncode, done.stdout, done.stderr)
    if check and result.returncode:
        words = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise LabError(f"{shlex.join(arguments)[:300]}: exit code {result.returncode}: {words}")
    return result


def podman(*arguments: str, check: bool = True, timeout: float | None = 120) -> Result:
    """Podman, without the warnings about what else is configured on the machine."""
    return run(["podman", "--log-level=error", *arguments], check=check, timeout=timeout)


def say(message: str) -> None:
    """Progress for a person."""
    print(message, file=sys.stderr, flush=True)


def wait_until(what: str, probe: Callable[[], bool], timeout: float, pause: float = 0.05) -> None:
    """Poll until true, or say what never came."""
    end = time.monotonic() + timeout
    while not probe():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.chmod(mode)
    part.replace(path)


# --------------------------------------------------------------------------------------------------
# The image
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mirror:
    """Where Debian comes from."""

    main: str
    security: str


def host_mirror(override: str) -> Mirror:
    """The mirrors this machine uses itself, if it is a Debian; else Debian's own."""
    if override:
        return Mirror(override, override.rstrip("/") + "-security")
    found = run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"], check=False
    ).stdout
    mirrors = {"Debian": "http://deb.debian.org/debian"}
    mirrors["Debian-Security"] = "http://security.debian.org/debian-security"
    for line in reversed(found.splitlines()):
        origin, _, rest = line.partition("|")
        label, _, address = rest.partition("|")
        if origin == "Debian" and label in mirrors and address.startswith("http"):
            mirrors[label] = address.rstrip("/")
    return Mirror(mirrors["Debian"], mirrors["Debian-Security"])


def host_proxies() -> list[str]:
    """The apt proxies of this machine, as mmdebstrap options (used while building, not kept)."""
    dump = run(["apt-config", "dump"], check=False).stdout
    lines = re.findall(r"^(Acquire::https?::Proxy(?:::\S+)? \".+\");$", dump, re.MULTILINE)
    return [f"--aptopt={line}" for line in lines]


def source_lines(suite: str, mirror: Mirror) -> str:
    """The sources the image is built from."""
    return "".join(
        f"deb {address} {name} main\n"
        for address, name in (
            (mirror.main, suite),
            (mirror.main, f"{suite}-updates"),
            (mirror.security, f"{suite}-security"),
        )
    )


def recipe(release: int) -> str:
    """Everything that decides what is in the image; its hash is the image's name."""
    return json.dumps(
        {
            "format": 2,
            "release": release,
            "packages": BASE_PACKAGES,
            "repository": REPOSITORY_PACKAGES,
            "masked": MASKED_UNITS,
            "files": dict(IMAGE_FILES),
            "finish": [inspect.getsource(step) for step in FINISHING],
        },
        sort_keys=True,
    )


def recipe_id(release: int) -> str:
    """A short hash of the recipe."""
    return f"debian{release}-" + hashlib.sha256(recipe(release).encode()).hexdigest()[:12]


def keyring_for(suite: str, directories: Sequence[Path] | None = None) -> None:
    """Say clearly when this machine cannot check the signatures of the suite."""
    for directory in directories or (Path("/usr/share/keyrings"), Path("/etc/apt/trusted.gpg.d")):
        if any(directory.glob(f"debian-archive-{suite}-stable.*")):
            return
    raise LabError(
        f"this machine has no archive key of Debian {suite}; "
        "way out: apt-get install debian-archive-keyring (of the newest point release)"
    )


def package_index(directory: Path) -> str:
    """A Packages index of a flat repository (deb822, Debian policy and apt's repository format)."""
    stanzas = []
    for package in sorted(directory.glob("*.deb")):
        control = run(["dpkg-deb", "--field", str(package)]).stdout.strip()
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        size = package.stat().st_size
        stanzas.append(f"{control}\nFilename: ./{package.name}\nSize: {size}\nSHA256: {digest}\n")
    return "\n".join(stanzas)


def release_file(index: str) -> str:
    """Without a Release file apt guesses which compressions there are, and complains."""
    data = index.encode()
    return (
        "Origin: zcluster-lab\nLabel: zcluster-lab\nArchitectures: all amd64 arm64\n"
        "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
        f"SHA256:\n {hashlib.sha256(data).hexdigest()} {len(data)} Packages\n"
    )


def build_image(settings: Settings) -> Path:
    """The root file system all nodes share, read-only; built once per recipe."""
    image = Path(settings.base_dir) / "images" / recipe_id(settings.release)
    # Of labs that come up at once one builds, and the others find it done.
    with locked_file(image.parent.with_name(".images.lock")):
        if not image.is_dir():
            _build(settings, image)
    return image


def _build(settings: Settings, image: Path) -> None:
    images = image.parent
    forget_old_images(images, settings.release)
    keyring_for(settings.suite)
    say(f"building the image of Debian {settings.release} (once, about a minute)")
    images.mkdir(parents=True, exist_ok=True)
    part = images / f"{image.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    download = " ".join(
        [
            'rm -f "$1"/var/cache/apt/archives/*.deb;',
            'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only',
            "-o APT::Install-Recommends=true install",
            *REPOSITORY_PACKAGES,
            '&& mkdir -p "$1/srv/packages"',
            '&& mv "$1"/var/cache/apt/archives/*.deb "$1/srv/packages/"',
        ]
    )
    run(
        [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--format=directory",
            "--include=" + ",".join(BASE_PACKAGES),
            *host_proxies(),
            f"--customize-hook={download}",
            settings.suite,
            str(part),
            "-",
        ],
        stdin=source_lines(settings.suite, host_mirror(settings.mirror)),
        timeout=1800,
    )
    finish_image(part)
    part.rename(image)


def forget_old_images(images: Path, release: int) -> None:
    """Images of an earlier recipe go, unless a lab stands on one."""
    used = {
        str(json.loads(record.read_text(encoding="utf-8"))["image"])
        for record in images.parent.glob("labs/*/image.json")
    }
    for image in images.glob(f"debian{release}-*"):
        if image.name not in used:
            shutil.rmtree(image)


def finish_image(root: Path) -> None:
    """From a plain Debian to the image: local sources only, no identity."""
    shutil.rmtree(root / "etc/apt/sources.list.d", ignore_errors=True)
    (root / "etc/apt/sources.list.d").mkdir()
    (root / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    for path, text in IMAGE_FILES.items():
        write_whole(root / path.lstrip("/"), text)
    index = package_index(root / "srv/packages")
    write_whole(root / "srv/packages/Packages", index)
    write_whole(root / "srv/packages/Release", release_file(index))
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    for unit in MASKED_UNITS:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    # Debian's own sysctl defaults are about the machine (kernel, vm, fs), which is not the node's.
    for default in (root / "usr/lib/sysctl.d").glob("*.conf"):
        link = root / "etc/sysctl.d" / default.name
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for name in ("etc/resolv.conf", "etc/machine-id"):
        (root / name).unlink(missing_ok=True)
        (root / name).write_text("", encoding="ascii")
    run(["chroot", str(root), "apt-get", "update"], env=NODE_ENVIRONMENT)


FINISHING: Final = (package_index, release_file, finish_image)
"""What is done to Debian's files; part of the recipe as it is written."""


# --------------------------------------------------------------------------------------------------
# What is written on a node's disk before its first boot
# --------------------------------------------------------------------------------------------------


def nftables_conf(settings: Settings) -> str:
    """The load balancer to protect: DNAT to a random backend address, SNAT to a VIP."""
    backends = [settings.address("back", n) for n in _backend_numbers()]
    backends6 = [settings.address("back", n, 6) for n in _backend_numbers()]
    vip, vip6 = (settings.address("front", 100, version) for version in (4, 6))
    snat, snat6 = (settings.address("back", 100, version) for version in (4, 6))
    targets = ", ".join(f"{i} : {address}" for i, address in enumerate(backends))
    targets6 = ", ".join(f"{i} : {address}" for i, address in enumerate(backends6))
    pick = f"numgen random mod {len(backends)}"
    # A backslash and a newline are a line's continuation for nft, too.
    return f"""\
#!/usr/sbin/nft -f
flush ruleset

table ip balancer {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {vip} meta l4proto {{ tcp, udp }} th dport {FORWARD_PORT} \\
      dnat to {pick} map {{ {targets} }}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip daddr {settings.back} ct status dnat snat to {snat}
  }}
}}

table ip6 balancer {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip6 daddr {vip6} meta l4proto {{ tcp, udp }} th dport {FORWARD_PORT} \\
      dnat to {pick} map {{ {targets6} }}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip6 daddr {settings.back6} ct status dnat snat to {snat6}
  }}
}}
"""


def haproxy_cfg(settings: Settings) -> str:
    """A proxy on the second VIP; transparent, so that it starts where the VIP is not."""
    servers = "\n".join(
        f"    server b{number} {settings.address('back', number)}:{HTTP_PORT} check"
        for number in _backend_numbers()
    )
    return f"""\
global
    log /dev/log local0
    user haproxy
    group haproxy

defaults
    mode http
    log global
    timeout connect 2s
    timeout client 30s
    timeout server 30s

frontend web
    bind {settings.address("front", 101)}:{HTTP_PORT} transparent
    default_backend web

backend web
    balance roundrobin
{servers}
"""


def _backend_numbers() -> tuple[int, ...]:
    backend = NODES["backend"]
    return (*backend.networks.values(), *backend.extra_addresses)


def node_files(settings: Settings, node: Node) -> dict[str, str]:
    """The files that make this node different from the image."""
    files = {
        "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {node.name}\n",
        "/etc/machine-id": secrets.token_hex(16) + "\n",
    }
    if node.balancer:
        files["/etc/sysctl.d/60-router.conf"] = (
            "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n"
        )
        if settings.root_login == "password":
            files["/etc/ssh/sshd_config.d/10-root-login.conf"] = "PermitRootLogin yes\n"
    if node is BALANCERS[0]:
        files["/etc/nftables.conf"] = nftables_conf(settings)
        files["/etc/haproxy/haproxy.cfg"] = haproxy_cfg(settings)
    return files


def node_units(node: Node) -> dict[str, str]:
    """Links below /etc/systemd/system: units switched on (a path) or off (/dev/null)."""
    wants = "multi-user.target.wants"
    links = {f"{wants}/{unit}": f"/usr/local/lib/systemd/system/{unit}" for unit in node.units}
    if not node.balancer:
        links |= dict.fromkeys(("ssh.service", "ssh.socket", "haproxy.service"), "/dev/null")
    if node is BALANCERS[0]:
        links["sysinit.target.wants/nftables.service"] = "/lib/systemd/system/nftables.service"
    return links


def furnish(settings: Settings, node: Node, root: Path) -> None:
    """Write a node's own files into its (mounted) root."""
    for path, text in node_files(settings, node).items():
        mode = 0o755 if path == "/etc/nftables.conf" else 0o444 if "machine-id" in path else 0o644
        write_whole(root / path.lstrip("/"), text, mode)
    for name, target in node_units(node).items():
        link = root / "etc/systemd/system" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    if node.balancer:
        run(["ssh-keygen", "-q", "-A", "-f", str(root)])
        run(["chroot", str(root), "chpasswd"], stdin=f"root:{settings.root_password}\n")


# --------------------------------------------------------------------------------------------------
# Disks
# --------------------------------------------------------------------------------------------------


def mounted(path: Path) -> bool:
    """Whether something is mounted exactly there."""
    wanted = str(path)
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    return any(line.split(" ")[4] == wanted for line in table.splitlines())


def make_writable(path: Path) -> None:
    """A node that was shut down in order has mounted its disks read-only, here too."""
    run(["mount", "-o", "remount,rw", str(path)])


def overlay_writable(path: Path) -> bool:
    """The same for an overlay, which stays read-only when it found its upper layer so."""
    return not run(["mount", "-o", "remount,rw", str(path)], check=False).returncode


def looped(image: Path) -> bool:
    """Whether a file is still the disk behind a loop device, which goes with its last mount."""
    return bool(run(["losetup", "--associated", str(image)], check=False).stdout)


def unmount(path: Path) -> None:
    """Unmount if mounted; a container that is just dying may hold it for a moment."""
    end = time.monotonic() + 10
    while mounted(path):
        result = run(["umount", str(path)], check=False)
        if result.returncode and time.monotonic() > end:
            raise LabError(f"{path}: cannot be unmounted: {result.stderr.strip()}")
        if result.returncode:
            time.sleep(0.1)


@dataclass(frozen=True)
class Volume:
    """A file system of the node's own: a sparse ext4 image, or a tmpfs where loops are missing."""

    name: str
    megabytes: int
    inside: str

    def image(self, directory: Path) -> Path:
        """Its file."""
        return directory / f"{self.name}.img"

    def mountpoint(self, directory: Path) -> Path:
        """Where it is mounted on the host."""
        return directory / self.name


def volumes(settings: Settings, node: Node) -> tuple[Volume, ...]:
    """The volumes of a node; the first carries the upper layer of its root."""
    if not node.balancer:
        return ()
    return (
        Volume("disk", settings.root_mb, "/"),
        Volume("zcluster", settings.zcluster_mb, "/var/lib/zcluster"),
        Volume("haproxy", settings.haproxy_mb, "/etc/haproxy"),
    )


class Disks:
    """The file systems of one node."""

    def __init__(self, settings: Settings, node: Node, image: Path, *, loops: bool) -> None:
        self.node = node
        self.image = image
        self.loops = loops
        self.directory = settings.directory / "nodes" / node.name
        self.settings = settings
        self.volumes = volumes(settings, node)

    @property
    def root(self) -> Path:
        """The node's root as the container gets it."""
        return self.directory / "root"

    @property
    def upper(self) -> Path:
        """The mounted file system that carries the node's changes."""
        return self.directory / "disk"

    def binds(self) -> dict[str, str]:
        """Host directory -> path in the node, for the volumes beside the root."""
        return {str(v.mountpoint(self.directory)): v.inside for v in self.volumes[1:]}

    def create(self) -> None:
        """Make and furnish the file systems of a new node (a half made one is made again)."""
        done = self.directory / "furnished"
        if done.exists():
            return
        self.detach()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self._format()
        self.attach(fresh=True)
        for volume in self.volumes[1:]:
            target = volume.mountpoint(self.directory)
            target.chmod(0o755)
            source = self.image / volume.inside.lstrip("/")
            if source.is_dir():
                run(["cp", "-a", f"{source}/.", str(target)])
            (self.root / volume.inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
            run(["mount", "--bind", str(target), str(self.root / volume.inside.lstrip("/"))])
        try:
            furnish(self.settings, self.node, self.root)
        finally:
            for volume in self.volumes[1:]:
                unmount(self.root / volume.inside.lstrip("/"))
        keys = [p.read_text() for p in self.root.glob("etc/ssh/ssh_host_*_key.pub")]
        lines = sorted(" ".join(key.split()[:2]) + "\n" for key in keys)
        write_whole(self.directory / "host_keys", "".join(lines))
        done.touch()

    def _format(self) -> None:
        if not self.loops:
            return
        for volume in self.volumes:
            image = volume.image(self.directory)
            with image.open("wb") as file:
                file.truncate(volume.megabytes << 20)
            features = ["-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1"]
            run(["mkfs.ext4", "-q", "-F", *features, str(image)])

    def attach(self, *, fresh: bool = False) -> None:
        """Mount what is not mounted."""
        for volume in self.volumes:
            target = volume.mountpoint(self.directory)
            target.mkdir(exist_ok=True)
            if mounted(target):
                make_writable(target)
                continue
            if self.loops:
                run(["mount", "-o", "loop,noatime", str(volume.image(self.directory)), str(target)])
                with contextlib.suppress(OSError):
                    (target / "lost+found").rmdir()
            elif fresh or not self.loops:
                options = f"size={volume.megabytes}m,mode=755"
                run(["mount", "-t", "tmpfs", "-o", options, "zcluster-lab", str(target)])
        for name in ("upper", "work"):
            (self.upper / name).mkdir(parents=True, exist_ok=True)
        (self.upper / "upper").chmod(0o755)
        self.root.mkdir(exist_ok=True)
        if mounted(self.root) and not overlay_writable(self.root):
            unmount(self.root)
        if not mounted(self.root):
            options = f"lowerdir={self.image},upperdir={self.upper}/upper,workdir={self.upper}/work"
            run(["mount", "-t", "overlay", "-o", options, "zcluster-lab", str(self.root)])

    def detach(self) -> None:
        """Unmount everything (where it is a tmpfs, its content is lost)."""
        unmount(self.root)
        for volume in self.volumes:
            unmount(volume.mountpoint(self.directory))
        images = [volume.image(self.directory) for volume in self.volumes if self.loops]
        # The processes of a node that was killed end one by one, each with the disks mounted.
        wait_until(f"disks of {self.node.name} unused", lambda: not any(map(looped, images)), 60)

    def lost(self) -> bool:
        """Furnished on a tmpfs that is gone (the machine was rebooted)."""
        return not self.loops and bool(self.volumes) and not mounted(self.upper)

    def save(self, target: Path) -> None:
        """Copy the file systems of a node that is off."""
        target.mkdir(parents=True, exist_ok=True)
        if self.loops:
            self.detach()
        for volume in self.volumes:
            if self.loops:
                copy_sparse(volume.image(self.directory), volume.image(target))
            else:
                mountpoint = str(volume.mountpoint(self.directory))
                archive = str(target / f"{volume.name}.tar")
                run(["tar", *TAR_OPTIONS, "-C", mountpoint, "-cf", archive, "."])
        self.attach()

    def load(self, source: Path) -> None:
        """Put saved file systems back under a node that is off."""
        self.detach()
        for volume in self.volumes:
            if self.loops:
                copy_sparse(volume.image(source), volume.image(self.directory))
        if self.loops:
            self.attach()
            return
        for volume in self.volumes:
            target = volume.mountpoint(self.directory)
            options = f"size={volume.megabytes}m,mode=755"
            run(["mount", "-t", "tmpfs", "-o", options, "zcluster-lab", str(target)])
            archive = str(source / f"{volume.name}.tar")
            run(["tar", *TAR_OPTIONS, "-C", str(target), "-xf", archive])
        self.attach()


TAR_OPTIONS: Final = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sparse")


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a sparse file; shares blocks where the file system can."""
    run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)])


# --------------------------------------------------------------------------------------------------
# The host's side
# --------------------------------------------------------------------------------------------------


class Host:
    """Knobs and routes of the machine, changed while a lab is up and put back by the last one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.record = Path(settings.base_dir) / "host.json"

    def _load(self) -> dict[str, Any]:
        if self.record.exists():
            loaded: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
            return loaded
        return {"labs": [], "previous": {}}

    def check_collisions(self) -> None:
        """A range that this machine or another lab already has must not be taken from it."""
        for record in Path(self.settings.base_dir).glob("labs/*/settings.json"):
            other = Settings(**json.loads(record.read_text(encoding="utf-8")))
            if other.name != self.settings.name:
                refuse_overlap(self.settings, other)
        for name, prefix in self.settings.named_prefixes().items():
            wanted = ipaddress.ip_network(prefix)
            text = run(["ip", "-j", f"-{wanted.version}", "route", "show", "table", "all"]).stdout
            for route in json.loads(text or "[]"):
                destination = str(route.get("dst", "default"))
                if destination == "default" or str(route.get("protocol")) == ROUTE_PROTOCOL:
                    continue
                known = ipaddress.ip_network(destination, strict=False)
                if known.prefixlen and wanted.version == known.version and wanted.overlaps(known):
                    raise LabError(
                        f"{prefix} collides with this machine's route to {destination} "
                        f"(dev {route.get('dev', '?')}); {another_network(name)}"
                    )

    def enter(self) -> None:
        """From here on nothing aimed at the lab can leave the machine."""
        self.set_knobs()
        self.add_routes()

    def add_routes(self) -> None:
        """The kernel answers for the lab's ranges: unreachable."""
        for prefix in self.settings.prefixes():
            version = f"-{ipaddress.ip_network(prefix).version}"
            command = ["ip", version, "route", "replace", "unreachable", prefix]
            run([*command, "metric", "1", "proto", ROUTE_PROTOCOL])

    def routes(self) -> list[str]:
        """The lab's own routes that are there."""
        found: list[str] = []
        for version in ("-4", "-6"):
            text = run(["ip", "-j", version, "route", "show", "proto", ROUTE_PROTOCOL]).stdout
            found += [str(route["dst"]) for route in json.loads(text or "[]")]
        ours = self.settings.prefixes() if self.entered() else []
        return [prefix for prefix in ours if prefix in found]

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[dict[str, Any]]:
        """What was there before the first lab; one lab at a time changes it."""
        with locked_file(self.record.with_name(".host.lock")):
            state = self._load()
            yield state
            if state["labs"]:
                write_whole(self.record, json.dumps(state, indent=1) + "\n")
            else:
                self.record.unlink(missing_ok=True)

    def set_knobs(self) -> None:
        """Raise limits, switch bridge filtering off; remember what was there before."""
        with self._recorded() as state:
            wanted = self._note_knobs(state)
        for path, value in wanted.items():
            write_knob(path, value)

    def _note_knobs(self, state: dict[str, Any]) -> dict[str, str]:
        if self.settings.name not in state["labs"]:
            state["labs"].append(self.settings.name)
        previous: dict[str, str] = state["previous"]
        wanted: dict[str, str] = {}
        for path, least in HOST_KNOBS.items():
            if (value := read_knob(path)) is not None and int(value) < least:
                wanted[path] = str(least)
        for path in BRIDGE_KNOBS:
            if read_knob(path) not in (None, "0"):
                wanted[path] = "0"
        for path in (*wanted, *KEPT_KNOBS):
            value = read_knob(path)
            if value is not None:
                previous.setdefault(path, value)
        return wanted

    def entered(self) -> bool:
        """Whether this lab's routes and knobs are on record."""
        return self.settings.name in self._load()["labs"]

    def leave(self) -> None:
        """Take the routes away; the last lab puts the knobs back."""
        if not self.entered():
            return
        for prefix in self.routes():
            version = f"-{ipaddress.ip_network(prefix).version}"
            command = ["ip", version, "route", "del", "unreachable", prefix]
            run([*command, "proto", ROUTE_PROTOCOL], check=False)
        with self._recorded() as state:
            state["labs"] = [name for name in state["labs"] if name != self.settings.name]
            for path, value in () if state["labs"] else state["previous"].items():
                if read_knob(path) not in (None, value):
                    write_knob(path, value)


def refuse_overlap(settings: Settings, other: Settings) -> None:
    """Two labs cannot have the same addresses."""
    for name, prefix in settings.named_prefixes().items():
        wanted = ipaddress.ip_network(prefix)
        for taken in map(ipaddress.ip_network, other.prefixes()):
            if wanted.version == taken.version and wanted.overlaps(taken):
                raise LabError(
                    f"{prefix} collides with {taken} of the lab {other.name}; "
                    f"{another_network(name)}"
                )


def another_network(name: str) -> str:
    """The way out of a collision."""
    return f"way out: another network for it, zcluster lab up --{name} NETWORK"


def read_knob(path: str) -> str | None:
    """The value of a kernel setting, None where the kernel has no such thing."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return None


def write_knob(path: str, value: str) -> bool:
    """Set it where that is allowed."""
    try:
        Path(path).write_text(value, encoding="ascii")
    except OSError:
        return False
    return True


# --------------------------------------------------------------------------------------------------
# The lab
# --------------------------------------------------------------------------------------------------


class Lab:
    """The running lab, as role, demo and tests use it."""

    def __init__(self, settings: Settings | None = None, machine: Machine | None = None) -> None:
        self.settings = settings or Settings()
        self.machine = machine or Machine.look()
        self.host = Host(self.settings)
        self.directory = self.settings.directory
        # On a reload keepalived drops RLIMIT_RTTIME to 0 and cannot raise it again without
        # CAP_SYS_RESOURCE: with a real-time priority its child is then killed (SIGXCPU).
        self.real_time = self.machine.sys_resource
        """Nodes that start get a real-time budget (set it where no heartbeat is ever reloaded)."""
        self._processes: dict[str, tuple[int, str]] = {}

    # -- life ----------------------------------------------------------------------------------

    @classmethod
    def open(cls, name: str = "zcluster-lab", base_dir: str = "/var/lib/zcluster-lab") -> Lab:
        """The lab of that name as it was brought up (or with default settings)."""
        stored = Path(base_dir) / "labs" / name / "settings.json"
        if stored.exists():
            return cls(Settings(**json.loads(stored.read_text(encoding="utf-8"))))
        return cls(Settings(name=name, base_dir=base_dir))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One change at a time per lab."""
        with locked_file(Path(self.settings.base_dir) / f".{self.settings.name}.lock"):
            yield

    def up(self) -> bool:
        """Bring everything up; True if anything had to be done."""
        require_root()
        if missing := missing_packages(self.machine):
            raise LabError(
                "this machine lacks what the lab needs; "
                f"way out: apt-get install --no-install-recommends {' '.join(missing)}"
            )
        with self.locked():
            self._check_settings()
            if self.is_up():
                renewed = [node for node in NODES.values() if self._give_traffic(node)]
                for node in renewed:
                    for unit in node.units:
                        self.exec(node.name, "systemctl", "restart", unit)
                return bool(renewed)
            # A lab that lost a part stands on the image it was made from.
            image = self.image if self._made() else build_image(self.settings)
            self.host.check_collisions()
            self.host.enter()
            self._store_settings(image)
            self._create_networks()
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda node: self._prepare(node, image), NODES.values()))
            if BARE not in self.snapshots():
                self._save(BARE)
            for node in NODES.values():
                self._start(node)
            self._after_start()
            for name in NODES:
                self.wait_booted(name)
            self._started.touch()
            return True

    def is_up(self) -> bool:
        """All containers run, have been told what they must, and the routes are there."""
        states = self.states()
        running = all(states.get(name) == "running" for name in NODES)
        routes = len(self.host.routes()) == len(self.settings.prefixes())
        return running and routes and self._started.exists()

    @property
    def _started(self) -> Path:
        """Not there from the start of a container until it has booted and was told everything."""
        return self.directory / "started"

    def _made(self) -> bool:
        return (self.directory / "image.json").exists() and self.image.is_dir()

    def down(self, *, purge: bool = False) -> bool:
        """Remove everything the lab made; the image stays unless purged."""
        require_root()
        with self.locked():
            changed = self.directory.exists() or bool(self.states()) or self.host.entered()
            for name in NODES:
                remove_container(self.settings.container(name))
            for network in NETWORKS:
                name = f"{self.settings.name}-{network}"
                if not podman("network", "exists", name, check=False).returncode:
                    podman("network", "rm", name)
            for node in NODES.values():
                Disks(self.settings, node, Path("/"), loops=self.machine.loop_devices).detach()
            run(["nft", "delete", "table", "bridge", self.settings.name], check=False)
            self.host.leave()
            # Last: who comes after an interrupted down knows from here what the lab was.
            shutil.rmtree(self.directory, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.directory.parent.rmdir()
            if purge:
                changed = changed or (Path(self.settings.base_dir) / "images").exists()
                shutil.rmtree(Path(self.settings.base_dir) / "images", ignore_errors=True)
        base = Path(self.settings.base_dir)
        (base / f".{self.settings.name}.lock").unlink(missing_ok=True)
        if not self.host.record.exists():
            (base / ".host.lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            base.rmdir()
        return changed

    def _check_settings(self) -> None:
        stored = self.directory / "settings.json"
        if not stored.exists():
            return
        before = json.loads(stored.read_text(encoding="utf-8"))
        now = dataclasses.asdict(self.settings)
        different = sorted(k for k in now if k != "mirror" and before.get(k) != now[k])
        if different:
            words = ", ".join(
                f"{key} {before.get(key)!r} (wanted {now[key]!r})"
                for key in different
                if key != "root_password"
            )
            words = words or "another root password"
            raise LabError(f"the lab exists with {words}; take it down first")

    def _store_settings(self, image: Path) -> None:
        text = json.dumps(dataclasses.asdict(self.settings), indent=1) + "\n"
        write_whole(self.directory / "settings.json", text, 0o600)
        write_whole(self.directory / "image.json", json.dumps({"image": image.name}) + "\n")

    @property
    def image(self) -> Path:
        """The image this lab was made from (not necessarily today's recipe)."""
        stored = json.loads((self.directory / "image.json").read_text(encoding="utf-8"))
        return Path(self.settings.base_dir) / "images" / str(stored["image"])

    def _create_networks(self) -> None:
        for network in NETWORKS:
            name = f"{self.settings.name}-{network}"
            if not podman("network", "exists", name, check=False).returncode:
                continue
            subnets = [self.settings.prefix(network, version) for version in (4, 6)]
            options = [part for subnet in subnets for part in ("--subnet", subnet)]
            podman("network", "create", "--internal", "--disable-dns", "--ipv6", *options, name)

    def disks(self, node: str) -> Disks:
        """The file systems of a node."""
        loops = self.machine.loop_devices
        return Disks(self.settings, NODES[node], self.image, loops=loops)

    def _prepare(self, node: Node, image: Path) -> None:
        disks = Disks(self.settings, node, image, loops=self.machine.loop_devices)
        if disks.lost():
            (disks.directory / "furnished").unlink(missing_ok=True)
        disks.create()
        disks.attach()
        self._give_traffic(node)

    def _give_traffic(self, node: Node) -> bool:
        """The traffic program of today on client and backend; True if it was another."""
        if node.balancer:
            return False
        text = Path(__file__).with_name("zcluster_traffic.py").read_text(encoding="utf-8")
        target = self.disks(node.name).root / "usr/local/bin/zcluster_traffic.py"
        if target.exists() and target.read_text(encoding="utf-8") == text:
            return False
        write_whole(target, text, 0o755)
        return True

    def _start(self, node: Node) -> None:
        state = self.states().get(node.name)
        if state == "running":
            return
        if state == DEAD:
            remove_container(self.settings.container(node.name))
            state = None
        self._started.unlink(missing_ok=True)
        if state is None:
            disks = self.disks(node.name)
            podman(*run_arguments(self.machine, self.settings, node, disks.root, disks.binds()))
        else:
            podman("start", self.settings.container(node.name))
        # The kernel gives the names of dead links to new ones.
        self._unmute([*self.veths(node.name).values()])

    def _after_start(self) -> None:
        """What must be said again whenever a container was started."""
        self.host.set_knobs()
        for network in NETWORKS:
            bridge = self.bridge(network)
            write_knob(f"/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6", "1")
            run(["ip", "address", "flush", "dev", bridge], check=False)
        self.host.add_routes()
        for name, state in self.states().items():
            if state != "running":
                continue
            for veth in self.veths(name).values():
                # Or a link that a fault took off its bridge would talk to this machine.
                write_knob(f"/proc/sys/net/ipv6/conf/{veth}/disable_ipv6", "1")
            if NODES[name].balancer and self.real_time:
                give_real_time(self.pid(name))

    def wait_booted(self, node: str, timeout: float = 60) -> None:
        """Until systemd has finished booting and sshd answers where there is one."""
        result = self.exec(
            node,
            "sh",
            "-c",
            f'n=0; until s=$(systemctl is-system-running --wait) || [ "$s" = degraded ]; '
            f"do n=$((n+1)); [ $n -gt {int(timeout * 5)} ] && break; sleep 0.2; done; echo $s",
            check=False,
            timeout=timeout + 10,
        )
        state = result.stdout.strip()
        if state == "degraded":
            failed = self.exec(node, "systemctl", "--failed", "--plain", "--no-legend", check=False)
            say(f"{node}: booted, with failed units: {failed.stdout.strip()}")
        elif state != "running":
            raise LabError(f"{node}: not booted within {timeout:g} s (systemd says {state!r})")

    # -- looking -------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """Podman's word for each container that exists, or DEAD where it is mistaken."""
        found = json.loads(podman("ps", "--all", "--format", "json").stdout or "[]")
        by_name = {name: container_state(entry) for entry in found for name in entry["Names"]}
        return {
            node: by_name[self.settings.container(node)]
            for node in NODES
            if self.settings.container(node) in by_name
        }

    def pid(self, node: str) -> int:
        """The host's number of a node's PID 1; 0 when it is off."""
        # Podman takes its time; another process is PID 1 only when this one is no more.
        number, began = self._processes.get(node, (0, ""))
        if began and process_began(number) == began:
            return number
        name = self.settings.container(node)
        found = podman("inspect", "--format", "{{.State.Pid}}", name, check=False)
        number = int(found.stdout.strip() or 0) if not found.returncode else 0
        self._processes[node] = (number, process_began(number))
        return number

    def bridge(self, network: str) -> str:
        """The host's bridge of a network."""
        name = f"{self.settings.name}-{network}"
        return str(json.loads(podman("network", "inspect", name).stdout)[0]["network_interface"])

    def veths(self, node: str) -> dict[str, str]:
        """Network -> the host's end of the node's link there."""
        pid = self._running_pid(node)
        inside = json.loads(run(["nsenter", "-t", str(pid), "-n", "ip", "-j", "link"]).stdout)
        outside = {
            link["ifindex"]: link["ifname"] for link in json.loads(run(["ip", "-j", "link"]).stdout)
        }
        peers = {link["ifname"]: link.get("link_index", 0) for link in inside}
        known = NODES[node]
        return {net: outside[peers[known.interface(net)]] for net in known.networks}

    def _running_pid(self, node: str) -> int:
        if node not in NODES:
            raise LabError(f"node: {node!r}, allowed: {', '.join(NODES)}")
        if not (pid := self.pid(node)):
            raise LabError(f"{node}: is off")
        return pid

    def host_keys(self) -> dict[str, list[str]]:
        """The public host keys the nodes were made with (not what somebody put there since)."""
        return {
            node.name: (self.disks(node.name).directory / "host_keys").read_text().splitlines()
            for node in BALANCERS
        }

    def addresses(self, node: str) -> dict[str, dict[str, str]]:
        """Network -> interface and addresses of a node."""
        known = NODES[node]
        return {
            network: {
                "interface": known.interface(network),
                "ipv4": self.settings.address(network, number),
                "ipv6": self.settings.address(network, number, 6),
            }
            for network, number in known.networks.items()
        }

    def status(self) -> dict[str, Any]:
        """Everything about the lab, probed now."""
        states = self.states()
        nodes: dict[str, Any] = {}
        for name, node in NODES.items():
            pid = self.pid(name) if states.get(name) == "running" else 0
            entry: dict[str, Any] = {
                "container": self.settings.container(name),
                "state": states.get(name, "absent"),
                "pid": pid,
                "addresses": self.addresses(name),
            }
            if pid:
                system = self.exec(name, "systemctl", "is-system-running", check=False)
                entry["system"] = system.stdout.strip()
            if pid and node.balancer:
                entry["real_time"] = real_time(pid)
            nodes[name] = entry
        settings = dataclasses.asdict(self.settings)
        del settings["root_password"]
        exists = (self.directory / "image.json").exists()
        return {
            "name": self.settings.name,
            "up": self.is_up() if states else False,
            "settings": settings,
            "image": str(self.image) if exists else None,
            "nodes": nodes,
            "vips": self.vips(),
            "faults": self.faults() if states else [],
            "routes": self.host.routes(),
            "host_keys": self.host_keys() if exists and states else {},
            "storage": "loop" if self.machine.loop_devices else "tmpfs",
            "snapshots": self.snapshots(),
            "machine": dataclasses.asdict(self.machine),
        }

    def faults(self) -> list[str]:
        """The links that were cut or silenced, in words."""
        found = []
        links = json.loads(run(["ip", "-j", "link"]).stdout)
        by_name = {link["ifname"]: link for link in links}
        muted = run(["nft", "list", "table", "bridge", self.settings.name], check=False).stdout
        sets = dict(re.findall(r"set (in|out) \{[^}]*?elements = \{([^}]*)\}", muted))
        for name, state in self.states().items():
            for network, veth in self.veths(name).items() if state == "running" else ():
                link = by_name[veth]
                if "UP" not in link["flags"]:
                    found.append(f"{name} {network}: cut")
                elif "master" not in link:
                    found.append(f"{name} {network}: silenced")
                found += [
                    f"{name} {network}: silenced, {direction}"
                    for direction, elements in sets.items()
                    if f'"{veth}"' in elements
                ]
        return found

    def vips(self) -> dict[str, str]:
        """The virtual addresses the lab's service is made for, with their prefix lengths."""

        def with_bits(network: str, number: int, version: int) -> str:
            bits = self.settings.prefix(network, version).rpartition("/")[2]
            return f"{self.settings.address(network, number, version)}/{bits}"

        return {
            "front": with_bits("front", 100, 4),
            "front_proxy": with_bits("front", 101, 4),
            "front6": with_bits("front", 100, 6),
            "back": with_bits("back", 100, 4),
            "back6": with_bits("back", 100, 6),
        }

    # -- doing ---------------------------------------------------------------------------------

    def command(self, node: str, *arguments: str) -> list[str]:
        """A command line that runs inside a node's namespaces, much faster than podman exec."""
        environment = [f"{key}={value}" for key, value in NODE_ENVIRONMENT.items()]
        enter = ["nsenter", "-t", str(self._running_pid(node)), "-m", "-u", "-i", "-n", "-p"]
        return [*enter, "-r", "-w", "--", "/usr/bin/env", "-i", *environment, *arguments]

    def exec(
        self,
        node: str,
        *arguments: str,
        check: bool = True,
        stdin: str | None = None,
        timeout: float | None = 120,
    ) -> Result:
        """Run a command inside a node."""
        command = self.command(node, *arguments)
        return run(command, check=check, stdin=stdin, timeout=timeout)

    def start_process(self, node: str, *arguments: str) -> subprocess.Popen[str]:
        """A long-running command inside a node, its output in pipes; see stop_process."""
        return subprocess.Popen(
            self.command(node, *arguments),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def stop_process(process: subprocess.Popen[str], timeout: float = 10) -> str:
        """End what start_process started (its whole group: nsenter has a child); its output."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            return process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.communicate()[0]

    # -- power ---------------------------------------------------------------------------------

    def power_off(self, node: str) -> float:
        """Cut all links in one batch, then kill PID 1; the wall-clock time of the cut."""
        pid = self._running_pid(node)
        veths = [*self.veths(node).values()]
        batch = "".join(f"link set dev {veth} down\n" for veth in veths)
        run(["ip", "-batch", "-"], stdin=batch)
        moment = time.time()
        self._kill(node, pid)
        self._unmute(veths)
        return moment

    def _kill(self, node: str, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        # What is frozen does not die before it is thawed.
        podman("unpause", self.settings.container(node), check=False)
        self._wait_off(node)

    def _wait_off(self, node: str) -> None:
        podman("wait", self.settings.container(node), timeout=30)
        wait_until(f"{node} off", lambda: self.states().get(node) in ("exited", "stopped"), 30)

    def power_on(self, node: str, *, wait: bool = True) -> None:
        """Start a node that is off; its disks are as they were."""
        with self.locked():
            self.disks(node).attach()
            self._start(NODES[node])
            self._after_start()
        if wait:
            self.wait_booted(node)
        self._started.touch()

    def shut_down(self, node: str) -> None:
        """A planned stop: systemd ends its services."""
        podman("stop", "--time=30", self.settings.container(node))

    def reboot(self, node: str) -> None:
        """A planned reboot."""
        self.shut_down(node)
        self.power_on(node)

    # -- links ---------------------------------------------------------------------------------

    def cut(self, node: str, network: str) -> float:
        """Pull a cable: the node loses the carrier; the wall-clock time of the cut."""
        run(["ip", "link", "set", "dev", self._veth(node, network), "down"])
        return time.time()

    def silence(self, node: str, network: str, direction: str = "both") -> float:
        """The carrier stays and nothing passes; the wall-clock time of the cut.

        ``out`` loses what the node sends, ``in`` what is sent to it, ``both`` takes the other
        end of the link off the bridge.
        """
        if direction not in DIRECTIONS:
            raise LabError(f"direction: {direction!r}, allowed: {', '.join(DIRECTIONS)}")
        veth = self._veth(node, network)
        if direction == "both":
            run(["ip", "link", "set", "dev", veth, "nomaster"])
        else:
            run(["nft", "-f", "-"], stdin=mute_table(self.settings.name))
            run(["nft", *mute_element("add", self.settings.name, direction, veth)])
        return time.time()

    def heal(self, node: str, network: str) -> None:
        """Undo cut and silence."""
        veth = self._veth(node, network)
        run(["ip", "link", "set", "dev", veth, "master", self.bridge(network), "up"])
        self._unmute([veth])

    def _unmute(self, veths: Sequence[str]) -> None:
        table = run(["nft", "list", "table", "bridge", self.settings.name], check=False).stdout
        for veth in veths:
            for direction in ("in", "out") if f'"{veth}"' in table else ():
                command = mute_element("delete", self.settings.name, direction, veth)
                run(["nft", *command], check=False)

    def pause(self, node: str) -> float:
        """Freeze a node as a stalled virtual machine is frozen; the wall-clock time.

        Its links stay up and pass nothing: the kernel of a container answers even while all its
        processes are frozen, that of a stalled machine does not.
        """
        veths = self.veths(node).values()
        run(["ip", "-batch", "-"], stdin="".join(f"link set dev {v} nomaster\n" for v in veths))
        moment = time.time()
        podman("pause", self.settings.container(node))
        return moment

    def resume(self, node: str) -> None:
        """Let a frozen node go on."""
        bridges = {network: self.bridge(network) for network in NODES[node].networks}
        veths = self.veths(node)
        batch = "".join(f"link set dev {v} master {bridges[n]}\n" for n, v in veths.items())
        podman("unpause", self.settings.container(node))
        run(["ip", "-batch", "-"], stdin=batch)

    def heal_all(self) -> None:
        """Undo every cut and silence on every node that runs."""
        bridges = {network: self.bridge(network) for network in NETWORKS}
        links = {
            veth: bridges[network]
            for name, state in self.states().items()
            for network, veth in (self.veths(name) if state == "running" else {}).items()
        }
        batch = "".join(f"link set dev {v} master {b} up\n" for v, b in links.items())
        run(["ip", "-batch", "-"], stdin=batch)
        self._unmute([*links])

    def _veth(self, node: str, network: str) -> str:
        veths = self.veths(node)
        if network not in veths:
            raise LabError(f"network: {network!r} of {node}, allowed: {', '.join(veths)}")
        return veths[network]

    # -- snapshots -----------------------------------------------------------------------------

    def snapshots(self) -> list[str]:
        """The names of the snapshots there are."""
        directory = self.directory / "snapshots"
        return sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []

    def snapshot(self, name: str) -> None:
        """Shut both nodes down, copy their disks, start them again."""
        check_snapshot_name(name)
        for node in BALANCERS:
            if self.states().get(node.name) == "running":
                self.shut_down(node.name)
        with self.locked():
            self._save(name)
        self._start_balancers()

    def _save(self, name: str) -> None:
        part = self.directory / f"snapshot-{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        for node in BALANCERS:
            self.disks(node.name).save(part / node.name)
        target = self.directory / "snapshots" / name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        part.rename(target)

    def forget(self, name: str) -> None:
        """Delete a snapshot."""
        check_snapshot_name(name)
        shutil.rmtree(self.directory / "snapshots" / name, ignore_errors=True)

    def restore(self, name: str, *, nodes: Sequence[str] = (), wait: bool = True) -> None:
        """Cut the power of both nodes (or of those named), put a snapshot's disks under them.

        Then they start. One node alone restored to the bare snapshot is a new machine in its place.
        """
        check_snapshot_name(name)
        source = self.directory / "snapshots" / name
        if not source.is_dir():
            known = ", ".join(self.snapshots())
            raise LabError(f"snapshot {name!r} is unknown, there are: {known}")

        def put_back(node: Node) -> None:
            if pid := self.pid(node.name):
                self._kill(node.name, pid)
            self.disks(node.name).load(source / node.name)

        chosen = [node for node in BALANCERS if not nodes or node.name in nodes]
        with self.locked(), ThreadPoolExecutor() as pool:
            list(pool.map(put_back, chosen))
        self._forget_connections(chosen)
        self._start_balancers(wait=wait)
        self.heal_all()

    def _forget_connections(self, nodes: Sequence[Node]) -> None:
        """Nobody may go on with a way in (see the inventory's ProxyCommand) to a node that was."""
        for node in nodes:
            address = self.settings.address("front", node.networks["front"])
            self.exec("client", "pkill", "-x", "-f", f"nc -N {address} 22", check=False)
        for other in NODES.values():
            if not other.balancer:
                self.exec(other.name, "ip", "neighbour", "flush", "all", check=False)
                # A server never hears of clients whose way was cut: they fill its table of files.
                if other.units and len(nodes) == len(BALANCERS):
                    self.exec(other.name, "systemctl", "restart", *other.units)

    def _start_balancers(self, *, wait: bool = True) -> None:
        with self.locked():
            for node in BALANCERS:
                self._start(node)
            self._after_start()
        if wait:
            for node in BALANCERS:
                self.wait_booted(node.name)
        self._started.touch()


def container_state(entry: Mapping[str, Any]) -> str:
    """Podman's word for a container; DEAD when the process it believes in is not there.

    Podman never hears of the end of a container whose conmon ended with it, and a machine that
    keeps /run on a disk takes such a container through a restart.
    """
    state = str(entry["State"])
    if state == "running" and not has_own_network(int(entry["Pid"])):
        return DEAD
    return state


def remove_container(name: str) -> None:
    """Remove a container in whatever state it is, if it is there."""
    arguments = ("rm", "--force", "--time=0", "--ignore", name)
    # The first attempt on a dead one may only teach podman that it is dead.
    if podman(*arguments, check=False).returncode:
        podman(*arguments)


def process_began(pid: int) -> str:
    """When a living process began (proc(5), field 22 of stat): a number may be used again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def has_own_network(pid: int) -> bool:
    """The process lives, in another network namespace than this one: a number may be used again."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    except OSError:
        return False


def mute_table(name: str) -> str:
    """A bridge table whose sets name the links that lose what goes one way."""
    return f"""\
table bridge {name} {{
  set out {{ type ifname; }}
  set in {{ type ifname; }}
  chain from_node {{ type filter hook prerouting priority -300; }}
  chain to_node {{ type filter hook postrouting priority 300; }}
}}
flush chain bridge {name} from_node
flush chain bridge {name} to_node
add rule bridge {name} from_node iifname @out drop
add rule bridge {name} to_node oifname @in drop
"""


def mute_element(verb: str, name: str, direction: str, veth: str) -> list[str]:
    """The words for one link in one of these sets."""
    return [verb, "element", "bridge", name, direction, f'{{ "{veth}" }}']


def check_snapshot_name(name: str) -> None:
    """Names become directories."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,60}", name):
        raise LabError(f"snapshot: {name!r}, allowed: lower case letters, digits, and . _ -")


def missing_packages(machine: Machine) -> list[str]:
    """The Debian packages the lab needs and this machine lacks."""
    missing = {package for name, package in COMMANDS.items() if not shutil.which(name)}
    if not machine.runtimes:
        missing.add("runc")
    if not NETAVARK.exists():
        missing.add("netavark")
    if not any(Path("/usr/share/keyrings").glob("debian-archive-*")):
        missing.add("debian-archive-keyring")
    return sorted(missing)


def require_root() -> None:
    """The lab runs rootful."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root (networks, mounts, containers with systemd): use sudo")


def cpu_group(pid: int) -> Path | None:
    """The cgroup v1 directory that decides about real-time scheduling, if there is such a thing."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            for mount in (controllers, "cpu", "cpu,cpuacct"):
                group = Path("/sys/fs/cgroup") / mount / path.lstrip("/")
                if (group / "cpu.rt_runtime_us").exists():
                    return group
    return None


def give_real_time(pid: int, microseconds: int = RT_NODE_US) -> None:
    """On cgroup v1 with RT_GROUP_SCHED a group starts with no real-time budget at all."""
    group = cpu_group(pid)
    if group is None:
        return
    mount = group
    while (mount.parent / "cpu.rt_runtime_us").exists():
        mount = mount.parent
    parents = [p for p in group.parents if p.is_relative_to(mount) and p != mount]
    for parent in reversed(parents):
        knob = str(parent / "cpu.rt_runtime_us")
        if int(read_knob(knob) or 0) < RT_PARENT_US:
            write_knob(knob, str(RT_PARENT_US))
    write_knob(str(group / "cpu.rt_runtime_us"), str(microseconds))


def real_time(pid: int) -> str:
    """Whether daemons on the node can get a real-time priority."""
    group = cpu_group(pid)
    if group is None:
        return "as the machine"
    budget = int(read_knob(str(group / "cpu.rt_runtime_us")) or 0)
    return f"{budget} us of each second" if budget else "refused"


# --------------------------------------------------------------------------------------------------
# The command line
# --------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The verbs."""
    defaults = Settings()
    main_parser = argparse.ArgumentParser(prog="zcluster_lab.py", description=__doc__)
    main_parser.add_argument("--name", default=defaults.name, help="which lab")
    main_parser.add_argument("--base-dir", default=defaults.base_dir)
    verbs = main_parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="bring the lab up")
    for field in dataclasses.fields(Settings):
        if field.name in ("name", "base_dir"):
            continue
        if field.name == "root_password":
            up.add_argument("--root-password-stdin", action="store_true", help="one line")
            continue
        kind = int if isinstance(field.default, int) else str
        up.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    down = verbs.add_parser("down", help="remove everything the lab made")
    down.add_argument("--purge", action="store_true", help="the cached images as well")
    verbs.add_parser("requirements", help="the Debian packages this machine lacks for it")
    status = verbs.add_parser("status", help="what is there")
    status.add_argument("--json", action="store_true")
    command = verbs.add_parser("exec", help="run a command inside a node")
    command.add_argument("node", choices=list(NODES))
    command.add_argument("arguments", nargs=argparse.REMAINDER)
    for verb in ("power-off", "power-on", "reboot", "pause", "resume"):
        verbs.add_parser(verb).add_argument("node", choices=list(NODES))
    for verb in ("cut", "heal", "silence"):
        link = verbs.add_parser(verb)
        link.add_argument("node", choices=list(NODES))
        link.add_argument("network", choices=NETWORKS)
        if verb == "silence":
            link.add_argument("direction", choices=DIRECTIONS, nargs="?", default="both")
    for verb in ("snapshot", "restore", "forget"):
        snapshot = verbs.add_parser(verb)
        snapshot.add_argument("snapshot")
        if verb == "restore":
            choices = [node.name for node in BALANCERS]
            snapshot.add_argument("--node", choices=choices, help="this node alone")
    return main_parser


def print_status(status: Mapping[str, Any]) -> None:
    """A short table for a person."""
    word = "up" if status["up"] else "down" if not status["routes"] else "half up"
    print(f"{status['name']}: {word}, Debian {status['settings']['release']}, {status['storage']}")
    for name, node in status["nodes"].items():
        addresses = " ".join(a["ipv4"] for a in node["addresses"].values())
        extra = " ".join(str(node[key]) for key in ("system", "real_time") if key in node)
        print(f"  {name:8} {node['state']:8} {addresses:45} {extra}")
    for fault in status["faults"]:
        print(f"  {fault}")
    if status["snapshots"]:
        print(f"  snapshots: {' '.join(status['snapshots'])}")


def perform(options: argparse.Namespace) -> int:
    """One verb."""
    if options.verb == "up":
        names = {field.name for field in dataclasses.fields(Settings)}
        chosen = {key: value for key, value in vars(options).items() if key in names}
        if options.root_password_stdin:
            chosen["root_password"] = sys.stdin.readline().rstrip("\n")
        changed = Lab(Settings(**chosen)).up()
        print("changed" if changed else "ok")
        return 0
    if options.verb == "requirements":
        print("\n".join(missing_packages(Machine.look())))
        return 0
    require_root()
    lab = Lab.open(options.name, options.base_dir)
    if options.verb == "exec":
        arguments = [a for i, a in enumerate(options.arguments) if i or a != "--"] or ["bash", "-l"]
        command = lab.command(options.node, *arguments)
        os.execvp(command[0], command)  # noqa: S606
    if options.verb == "status":
        status = lab.status()
        print(json.dumps(status, indent=1)) if options.json else print_status(status)
        return 0
    if options.verb == "down":
        print("changed" if lab.down(purge=options.purge) else "ok")
        return 0
    simple: dict[str, Callable[[], object]] = {
        "power-off": lambda: lab.power_off(options.node),
        "power-on": lambda: lab.power_on(options.node),
        "reboot": lambda: lab.reboot(options.node),
        "pause": lambda: lab.pause(options.node),
        "resume": lambda: lab.resume(options.node),
        "cut": lambda: lab.cut(options.node, options.network),
        "heal": lambda: lab.heal(options.node, options.network),
        "silence": lambda: lab.silence(options.node, options.network, options.direction),
        "snapshot": lambda: lab.snapshot(options.snapshot),
        "restore": lambda: lab.restore(
            options.snapshot, nodes=[options.node] if options.node else ()
        ),
        "forget": lambda: lab.forget(options.snapshot),
    }
    simple[options.verb]()
    return 0


def main() -> int:
    """Errors are one line."""
    try:
        return perform(parser().parse_args())
    except LabError as error:
        print(f"zcluster lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
