#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Puts all files of a role on a node in one round trip, validated before the first is replaced."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_files
short_description: Put the files of a cluster node in place, all or none
version_added: 0.1.0
description:
  - Writes and removes a set of files in one round trip.
  - Every new content is validated before the first file is replaced; each is written whole
    (temporary file, rename).
  - With O(checkpoint), what was there before is kept until O(state=restored) brings it back or
    O(state=forgotten) drops it. Until then each file written under it counts as changed, in a later
    run too, so that what reads it is told even when the first run ended before its handlers ran.
author:
  - zcluster contributors (@zcluster)
options:
  state:
    description:
      - V(present) writes O(files) and removes O(absent).
      - V(restored) brings back everything that was changed under O(checkpoint).
      - V(forgotten) drops what O(checkpoint) kept.
    type: str
    choices: [present, restored, forgotten]
    default: present
  files:
    description: The files that must be there.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: The whole content.
        type: str
        required: true
      mode:
        description: Permission bits, octal.
        type: str
        default: "0644"
      owner:
        description: Owner, by name.
        type: str
        default: root
      group:
        description: Group, by name.
        type: str
        default: root
      shown:
        description: Whether the content is part of the diff; V(false) shows its size.
        type: bool
        default: true
      validate:
        description: Command that must accept the new content; C(%s) is the file to check.
        type: str
  absent:
    description: Files (or empty directories) that must not be there.
    type: list
    elements: path
    default: []
  checkpoint:
    description:
      - Name of this run; what was there before is kept under it in C(/run/zcluster/checkpoint).
    type: str
attributes:
  check_mode:
    description: Can run in check mode and return what it would change.
    support: full
  diff_mode:
    description: Shows each file's change; what not everybody may read is shown as its size.
    support: full
"""

EXAMPLES = r"""
- name: Put the heartbeat's files in place
  zcluster.ha.node_files:
    files:
      - path: /etc/keepalived/keepalived.conf
        content: "{{ lookup('ansible.builtin.template', 'keepalived.conf.j2') }}"
        mode: "0640"
        validate: keepalived -t -f %s
"""

RETURN = r"""
changed_paths:
  description:
    - Paths that were (or, in check mode, would be) written or removed, now or under the same
      O(checkpoint) by a run that did not end well.
  returned: always
  type: list
  elements: str
  sample: [/etc/keepalived/keepalived.conf]
"""

import contextlib
import grp
import json
import os
import pwd
import shlex
import shutil
import stat
import tempfile
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.zcluster.ha.plugins.module_utils import _files

CHECKPOINTS = "/run/zcluster/checkpoint"


def look(path: str) -> Optional[_files.Found]:
    """The file as it is; None when there is none."""
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    content = b""
    if stat.S_ISREG(info.st_mode):
        with open(path, "rb") as stream:
            content = stream.read()
    try:
        owner = pwd.getpwuid(info.st_uid).pw_name
    except KeyError:
        owner = str(info.st_uid)
    try:
        group = grp.getgrgid(info.st_gid).gr_name
    except KeyError:
        group = str(info.st_gid)
    return _files.Found(content, stat.S_IMODE(info.st_mode), owner, group)


def validate(module: AnsibleModule, todo: List[_files.Change]) -> None:
    """Let each new content be checked by the program that will read it, before any is written."""
    directory = tempfile.mkdtemp(prefix="zcluster-")
    try:
        for number, change in enumerate(todo):
            if change.wanted is None or not change.wanted.validate:
                continue
            command = shlex.split(change.wanted.validate)
            if module.check_mode and module.get_bin_path(command[0]) is None:
                continue  # its package would be installed by then
            candidate = os.path.join(directory, "%d-%s" % (number, os.path.basename(change.path)))
            with open(candidate, "wb") as stream:
                stream.write(change.wanted.content)
            code, out, err = module.run_command([word.replace("%s", candidate) for word in command])
            if code != 0:
                module.fail_json(
                    msg="%s: the new content is refused by %s: %s"
                    % (
                        change.path,
                        command[0],
                        (err or out).strip().replace(candidate, change.path),
                    )
                )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write(module: AnsibleModule, wanted: _files.Wanted) -> None:
    """Write one file whole."""
    descriptor, temporary = tempfile.mkstemp(prefix=".zcluster-", dir=os.path.dirname(wanted.path))
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(wanted.content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chown(temporary, pwd.getpwnam(wanted.owner).pw_uid, grp.getgrnam(wanted.group).gr_gid)
        os.chmod(temporary, wanted.mode)
        os.rename(temporary, wanted.path)
    except (OSError, KeyError) as error:
        os.unlink(temporary)
        module.fail_json(msg="%s cannot be written: %s" % (wanted.path, error))


def carry_out(module: AnsibleModule, todo: List[_files.Change]) -> List[str]:
    """Make the changes; returns the directories that had to be made."""
    writing = [c.path for c in todo if c.wanted is not None]
    existing = {d for path in writing for d in _ancestors(path) if os.path.isdir(d)}
    made = _files.parents(writing, existing)
    for directory in made:
        os.mkdir(directory, 0o755)
    for change in todo:
        if change.wanted is not None:
            write(module, change.wanted)
        elif os.path.isdir(change.path) and not os.path.islink(change.path):
            # Somebody else's files may be in it, or it is a mount point.
            with contextlib.suppress(OSError):
                os.rmdir(change.path)
        else:
            os.unlink(change.path)
    return made


def _ancestors(path: str) -> List[str]:
    chain = []
    while path not in ("", "/"):
        path = os.path.dirname(path)
        chain.append(path)
    return chain


def _checkpoint_file(name: str) -> str:
    return os.path.join(CHECKPOINTS, os.path.basename(name) + ".json")


def _kept(name: Optional[str]) -> Dict[str, Any]:
    if not name:
        return {}
    try:
        with open(_checkpoint_file(name), "rb") as stream:
            kept = json.load(stream)
    except (FileNotFoundError, ValueError):  # none, or one that a dying machine left torn
        return {}
    return dict(kept)


def _keep(name: str, kept: Dict[str, Any]) -> None:
    os.makedirs(CHECKPOINTS, mode=0o700, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=CHECKPOINTS)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(kept, stream)
    os.rename(temporary, _checkpoint_file(name))


def _wanted(module: AnsibleModule) -> List[_files.Wanted]:
    wanted = []
    for item in module.params["files"]:
        try:
            mode = _files.parse_mode(item["mode"])
        except ValueError as error:
            module.fail_json(msg="%s: %s" % (item["path"], error))
        content = item["content"].encode("utf-8", "surrogateescape")
        wanted.append(
            _files.Wanted(
                item["path"],
                content,
                mode,
                item["owner"],
                item["group"],
                item["validate"],
                item["shown"],
            )
        )
    return wanted


def main() -> None:
    """Look, decide, change, say."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["present", "restored", "forgotten"],
                "default": "present",
            },
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "shown": {"type": "bool", "default": True},
                    "validate": {"type": "str"},
                },
            },
            "absent": {"type": "list", "elements": "path", "default": []},
            "checkpoint": {"type": "str"},
        },
        required_if=[("state", "restored", ["checkpoint"]), ("state", "forgotten", ["checkpoint"])],
        supports_check_mode=True,
    )
    state = module.params["state"]
    name = module.params["checkpoint"]
    kept = _kept(name)
    if state == "forgotten":
        if kept and not module.check_mode:
            os.unlink(_checkpoint_file(name))
        module.exit_json(changed=False, changed_paths=[])
    due = []  # type: List[str]
    if state == "restored":
        paths = [entry["path"] for entry in kept.get("files", [])]
        found = {path: there for path in paths if (there := look(path)) is not None}
        todo = _files.restoring(kept, found)
    else:
        wanted = _wanted(module)
        paths = [item.path for item in wanted] + list(module.params["absent"])
        found = {path: there for path in paths if (there := look(path)) is not None}
        todo = _files.changes(wanted, list(module.params["absent"]), found)
        due = _files.unfinished(kept, paths)
        validate(module, todo)
    if not module.check_mode:
        if name and state == "present" and todo:
            _keep(name, _files.merge(kept, todo, []))
        made = carry_out(module, todo)
        if name and state == "present" and made:
            _keep(name, _files.merge(_kept(name), [], made))
        if state == "restored":
            for directory in reversed(kept.get("directories", [])):
                if os.path.isdir(directory) and not os.listdir(directory):
                    os.rmdir(directory)
            if kept:
                os.unlink(_checkpoint_file(name))
    changed = list(dict.fromkeys([change.path for change in todo] + due))
    module.exit_json(
        changed=bool(changed),
        changed_paths=changed,
        diff=[_files.diff(change) for change in todo],
    )


if __name__ == "__main__":
    main()
