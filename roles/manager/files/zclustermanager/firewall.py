# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges a candidate ruleset of nftables on the node: can it be loaded, and does it admit the peer.

The decision is preflight's (ruleset.py); here the candidate is loaded in a network namespace of its
own, on top of what is loaded now, so that nothing live is touched and nothing is guessed.
"""

from __future__ import annotations

import json
from pathlib import Path

from . import processes, ruleset
from .settings import Cluster

# The user's ruleset and our table, which are loaded in one transaction (role keepalived).
CANDIDATE = "/etc/zcluster/ruleset.nft"
NAMESPACE = r"""
nft --stateless list ruleset | unshare --net sh -c '
  candidate=$1; shift
  for interface; do
    name=${interface%:*} index=${interface##*:}
    # Any kind will do, and keeps its number: rules may name either. Not every kernel has each kind.
    ip link add "$name" index "$index" type dummy 2>/dev/null ||
      ip link add "$name" index "$index" type bridge 2>/dev/null
  done
  nft --file - 2>/dev/null
  nft --file "$candidate" && nft --json list ruleset
' sh "$@"
"""


def interfaces(where: Path = Path("/sys/class/net")) -> list[str]:
    """This node's interfaces, each as NAME:INDEX."""
    return [
        f"{path.name}:{(path / 'ifindex').read_text(encoding='ascii').strip()}"
        for path in sorted(where.iterdir())
        if path.name != "lo" and (path / "ifindex").exists()
    ]


def dropped(cluster: Cluster, objects: object) -> dict[str, list[str]]:
    """What the ruleset drops of what the nodes tell each other, by the chain that drops it."""
    here, there = cluster.local.hostname, cluster.peer.hostname
    wires = {
        n.interface: ruleset.Wire(n.interface, n.addresses[here], n.addresses[there])
        for n in cluster.networks
    }
    link = ruleset.Wire(cluster.local.interface, cluster.local.ip, cluster.peer.ip)
    relevant = ruleset.relevant(objects)
    found: dict[str, list[str]] = {}
    for name, packet in ruleset.flows(wires.values(), link):
        verdict = ruleset.judge(relevant, packet)
        if verdict.answer is ruleset.Answer.DROPPED:
            found.setdefault(verdict.chain, []).append(name)
    return found


def complaint(cluster: Cluster, candidate: str = CANDIDATE, limit: float = 20.0) -> str:
    """Why the candidate must not be loaded; empty when it may."""
    done = processes.bounded(["sh", "-c", NAMESPACE, "sh", candidate, *interfaces()], limit)
    if not done.ok:
        return done.finding
    found = dropped(cluster, json.loads(done.out)["nftables"])
    return "; ".join(
        f"chain {chain} would drop what the nodes tell each other: {', '.join(names)}"
        for chain, names in found.items()
    )
