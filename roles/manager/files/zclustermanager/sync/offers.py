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
from .tree import Manifest

ID = re.compile(r"[0-9a-f]{32}")


class OfferError(ValueError):
    """An offer that no honest peer could have made; the text says why."""


def dump(offer: Offer, cluster: Cluster, base: Manifest | None = None) -> dict[str, Any]:
    """As plain data; `base`: a manifest that the other node has, so that the rest is enough."""
    document = {"cluster": cluster.name, "generation": generations.dump(offer.generation)}
    if base is None:
        return document | {"manifest": tree.dump(offer.manifest)}
    paths = tree.differing(base, offer.manifest)
    return document | {
        "base": tree.digest(base),
        "changed": tree.dump({p: offer.manifest[p] for p in paths if p in offer.manifest}),
        "gone": [path for path in paths if path not in offer.manifest],
    }


def undump(document: Any, cluster: Cluster, base: Manifest | None = None) -> Offer:
    """The inverse of `dump`; OfferError, KeyError or TypeError for what cannot be believed."""
    generation = document["generation"]
    ids = [*generation["ancestors"], *filter(None, (generation["id"], generation.get("known")))]
    if not all(isinstance(i, str) and ID.fullmatch(i) for i in ids):
        raise OfferError("the generation has an id that no node gives")
    if document["cluster"] != cluster.name:
        raise OfferError(f"this node is in cluster {cluster.name}, not {document['cluster']}")
    manifest, suspects = _manifest(document, base)
    offer = Offer(generations.undump(generation), manifest)
    if offer.generation.id is not None and manifest.digest != offer.generation.digest:
        raise OfferError("the manifest is not the one of the generation")
    scanner = tree.Scanner(cluster.sync_paths, cluster.sync_excludes)
    if outside := stages.outside(manifest, scanner, suspects):
        raise OfferError(f"path {outside[0]!r} is not synchronized on this node")
    return offer


def _manifest(document: Any, base: Manifest | None) -> tuple[tree.Listing, Manifest]:
    """The manifest of an offer, and those of its entries that nobody has judged yet."""
    if "base" not in document:
        whole = tree.Listing(tree.undump(document["manifest"]))
        return whole, whole
    before = tree.listed(base or {})
    if before.digest != document["base"]:
        raise OfferError("the offer is a change of what was not offered before")
    changed, gone = tree.undump(document["changed"]), [str(path) for path in document["gone"]]
    manifest = before.replaced({**dict.fromkeys(gone), **changed})
    # What is in a directory, and one more name of a file, is judged by what these are.
    shaken = (
        before.links
        or manifest.links
        or any(
            path in before
            and before[path].kind == "directory"
            and (path not in manifest or manifest[path].kind != "directory")
            for path in (*gone, *changed)
        )
    )
    return manifest, manifest if shaken else changed
