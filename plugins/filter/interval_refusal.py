# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter: why a check interval cannot work on this link and this machine."""

from __future__ import annotations

DOCUMENTATION = r"""
name: interval_refusal
short_description: Why a check interval cannot work
version_added: 0.1.0
description:
  - Compares the time after which a silent master is taken for dead with what C(zclustermanager
    timing) measured. A master that is merely late must not be taken for dead.
author: zcluster contributors (@zcluster)
positional: profile, check_interval, present
options:
  _input:
    description: Seconds, as C(zclustermanager timing) says them, C(round_trip) and C(scheduling).
    type: dict
    required: true
  profile:
    description: The declared profile; empty for the default.
    type: str
    required: true
  check_interval:
    description: The declared check interval; empty for the profile's.
    type: raw
    required: true
  present:
    description:
      - The settings the node has, as in C(/etc/zcluster/cluster.json). The pace it has already is
        not refused; other settings may be what is to be changed while the machine is slow.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Refuse what cannot work
  ansible.builtin.assert:
    that: timing | zcluster.ha.interval_refusal('standard', 0.01) == ''
"""

RETURN = r"""
_value:
  description: The reason in words; empty if the interval can work, or is refused elsewhere.
  type: str
"""

import typing as t

from ansible_collections.zcluster.ha.plugins.module_utils import _settings

# A machine and a link that are twice as slow as just now must still not look dead.
ROOM = 2.0


def interval_refusal(
    timing: t.Mapping[str, t.Optional[float]],
    profile: str,
    check_interval: t.Any,
    present: t.Optional[t.Mapping[str, t.Any]] = None,
) -> str:
    """The reason, or nothing. What is no number or no profile is preflight's finding."""
    known = _settings.PROFILES.get(profile or _settings.DEFAULT_PROFILE)
    if known is None:
        return ""
    try:
        interval = (
            float(check_interval) if check_interval not in (None, "") else known.check_interval
        )
    except (TypeError, ValueError):
        return ""
    wanted = {"check_interval": interval, "missed_adverts": known.missed_adverts}
    if present and all(present.get(name) == value for name, value in wanted.items()):
        return ""
    # Where no echo comes back, the machine alone is judged.
    trip, late = timing.get("round_trip"), timing.get("scheduling") or 0.0
    dead_after, needed = interval * known.missed_adverts, ROOM * ((trip or 0.0) + late)
    if dead_after > needed:
        return ""
    return (
        "a check interval of %g s cannot work: a master would be taken for dead after %.0f ms, but "
        "%sthis machine wakes a process up to %.1f ms late. Choose at least %.2f s"
        % (
            interval,
            dead_after * 1000,
            "the cluster link takes %.1f ms there and back, and " % (trip * 1000) if trip else "",
            late * 1000,
            needed / known.missed_adverts + 0.01,
        )
    )


class FilterModule:
    """The filters of this file."""

    def filters(self) -> t.Dict[str, t.Callable[..., t.Any]]:
        """Name -> filter."""
        return {"interval_refusal": interval_refusal}
