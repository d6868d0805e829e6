# SPDX-License-Identifier: GPL-3.0-or-later
"""Offers on the wire: written down by one node, believed by the other only as far as checked."""

from __future__ import annotations

import re
from typing import Any

from ..settings import Cluster
from . import generation as generations
from . import stage as stages
from . import tree
from .replica import Offer

ID = re.compile(r"[0-9a-f]{32}")


class OfferError(ValueError):
    """An offer that no honest peer could have made; the text says why."""


def dump(offer: Offer, cluster: Cluster) -> dict[str, Any]:
    """As plain data."""
    return {
        "cluster": cluster.name,
        "generation": generations.dump(offer.generation),
        "manifest": tree.dump(offer.manifest),
    }


def undump(document: Any, cluster: Cluster) -> Offer:
    """The inverse of `dump`; OfferError, KeyError or TypeError for what cannot be believed."""
    generation = document["generation"]
    ids = [*generation["ancestors"], *filter(None, (generation["id"], generation.get("known")))]
    if not all(isinstance(i, str) and ID.fullmatch(i) for i in ids):
        raise OfferError("the generation has an id that no node gives")
    if document["cluster"] != cluster.name:
        raise OfferError(f"this node is in cluster {cluster.name}, not {document['cluster']}")
    offer = Offer(generations.undump(document["generation"]), tree.undump(document["manifest"]))
    if offer.generation.id is not None and tree.digest(offer.manifest) != offer.generation.digest:
        raise OfferError("the manifest is not the one of the generation")
    scanner = tree.Scanner(cluster.sync_paths, cluster.sync_excludes)
    if outside := stages.outside(offer.manifest, scanner):
        raise OfferError(f"path {outside[0]!r} is not synchronized on this node")
    return offer
