# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of module node_lease: which run this is, and whether the holder is dead."""

from __future__ import annotations

import os
import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.zcluster.ha.plugins.module_utils import _run_identity


class ActionModule(ActionBase):  # type: ignore[misc]  # it has no types
    """Runs the module; again, if the holder was a run of this controller that has died."""

    def run(
        self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None
    ) -> t.Dict[str, t.Any]:
        """Return the module's result."""
        result: t.Dict[str, t.Any] = super().run(tmp, task_vars)
        # Tasks run in children of the run's main process.
        args = {
            **self._task.args,
            "run": _run_identity.run(os.getppid()),
            "who": _run_identity.who(),
            "controller": _run_identity.machine(),
        }
        answer = self._ask(args, task_vars)
        if _run_identity.is_dead(str(answer.get("held_by") or "")):
            answer = self._ask({**args, "dead": answer["held_by"]}, task_vars)
        if answer.get("granted") and not self._task.check_mode:
            # By this clock, and not the node's: role lease asks whether it is time to renew.
            answer["ansible_facts"] = {"zcluster_lease_renewed": time.time()}
        elif answer.get("message"):
            answer["msg"] = answer["message"]
        result.update(answer)
        return result

    def _ask(
        self, args: t.Dict[str, t.Any], task_vars: t.Optional[t.Dict[str, t.Any]]
    ) -> t.Dict[str, t.Any]:
        answer: t.Dict[str, t.Any] = self._execute_module(
            module_name="zcluster.ha.node_lease", module_args=args, task_vars=task_vars
        )
        return answer
