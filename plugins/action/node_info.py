# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of module node_info: an answer that nobody registers is to be seen."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]  # it has no types
    """Runs the module, so that asking and showing is one task: each costs the same again."""

    def run(
        self, tmp: t.Optional[str] = None, task_vars: t.Optional[t.Dict[str, t.Any]] = None
    ) -> t.Dict[str, t.Any]:
        """Return the module's result."""
        result: t.Dict[str, t.Any] = super().run(tmp, task_vars)
        result.update(self._execute_module(task_vars=task_vars))
        if self._task.register is None:
            # As for debug: a callback prints it without -v.
            result["_ansible_verbose_always"] = True
        return result
