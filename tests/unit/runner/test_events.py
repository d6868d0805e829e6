# SPDX-License-Identifier: GPL-3.0-or-later
"""From events to words: reports, changes, failures that count, connection troubles."""

from __future__ import annotations

from typing import Any

import pytest

from zcluster_runner.events import Fold, connection_words, diff_text, step_words, text_of
from zcluster_runner.result import EventKind
from zcluster_runner.secret import Redactor, Secret


def event(name: str, **data: Any) -> dict[str, Any]:
    return {"event": name, "event_data": data, "stdout": ""}


def ok(task: str, host: str = "lb1", **result: Any) -> dict[str, Any]:
    return event("runner_on_ok", task=task, host=host, res=result)


def failed(task: str, host: str = "lb1", **result: Any) -> dict[str, Any]:
    return event("runner_on_failed", task=task, host=host, res=result)


def stats(**counts: dict[str, int]) -> dict[str, Any]:
    return event("playbook_on_stats", **counts)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("Install the package", "Install the package"),
        ("zcluster.ha.keepalived : Install the package", "Install the package"),
        ("keepalived : sub | Install the package", "Install the package"),
        ("x : Validating arguments against arg spec 'main' - Two nodes", "Check the settings"),
    ],
)
def test_a_step_is_said_in_words(task: str, words: str) -> None:
    assert step_words(task) == words


@pytest.mark.parametrize("task", ["Report | node", "zcluster.ha.cluster : Report | node"])
def test_a_report_is_collected_by_key_and_host(task: str) -> None:
    fold = Fold()
    assert fold.feed(ok(task, msg={"status": "ok"})) == []
    fold.feed(ok(task, host="lb2", msg={"status": "failure"}))
    assert fold.reports == {"node": {"lb1": {"status": "ok"}, "lb2": {"status": "failure"}}}


def test_a_report_may_be_a_modules_own_answer() -> None:
    fold = Fold()
    assert fold.feed(ok("Report | node", node={"status": "ok"}, changed=False)) == []
    assert fold.reports == {"node": {"lb1": {"status": "ok"}}}


def test_a_report_holds_no_secret() -> None:
    fold = Fold(Redactor([Secret("canary-123")]))
    fold.feed(ok("Report | node", msg={"said": "with canary-123"}))
    assert fold.reports["node"]["lb1"] == {"said": "with ********"}


def test_a_change_is_kept_with_its_differences() -> None:
    fold = Fold()
    diff = [{"before": "a\n", "after": "b\n", "before_header": "/etc/x", "after_header": "/etc/x"}]
    (told,) = fold.feed(ok("Write x", changed=True, diff=diff))
    assert told.kind is EventKind.CHANGED
    (change,) = fold.changes
    assert "-a\n+b\n" in change.diff


def test_a_failure_that_is_rescued_does_not_count() -> None:
    fold = Fold()
    fold.feed(failed("Try", msg="no"))
    fold.feed(stats(failures={}, rescued={"lb1": 1}))
    assert fold.unrescued() == ()
    assert [cause.message for cause in fold.causes()] == ["no"]


def test_a_failure_after_a_rescue_is_the_last_word_and_the_first_its_cause() -> None:
    fold = Fold()
    fold.feed(failed("Start keepalived", msg="it does not start"))
    fold.feed(failed("Say that all is as before", msg="create failed; all is as it was before"))
    fold.feed(stats(failures={"lb1": 1}, rescued={"lb1": 1}))
    assert [f.message for f in fold.unrescued()] == ["create failed; all is as it was before"]
    assert [f.message for f in fold.causes()] == ["it does not start"]


def test_of_a_run_that_was_stopped_all_failures_count() -> None:
    fold = Fold()
    fold.feed(failed("Try", msg="no"))
    assert len(fold.unrescued()) == 1


def test_an_ignored_failure_is_none() -> None:
    fold = Fold()
    fold.feed(
        event("runner_on_failed", task="x", host="lb1", res={"msg": "no"}, ignore_errors=True)
    )
    assert fold.failures == []


def test_a_host_lost_for_one_task_only_is_not_lost() -> None:
    fold = Fold()
    fold.feed(event("runner_on_unreachable", task="x", host="lb1", res={"msg": "timed out"}))
    fold.feed(event("runner_on_unreachable", task="x", host="lb2", res={"msg": "timed out"}))
    fold.feed(stats(dark={"lb2": 1}))
    assert list(fold.unreachable) == ["lb2"]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"msg": "no space left"}, "no space left"),
        ({"msg": "non-zero return code", "stderr": "a\nb"}, "non-zero return code: a\nb"),
        ({"msg": "", "stdout": "only this"}, "only this"),
        ({"censored": "the output has been hidden", "msg": "x"}, "the details are hidden"),
        ({"msg": ["one", "two"]}, "one\ntwo"),
        (
            {
                "msg": "One or more items failed",
                "results": [{"failed": True, "msg": "item a"}, {"msg": "fine"}],
            },
            "item a",
        ),
        ({}, "it failed without a message"),
    ],
)
def test_why_a_task_failed(result: dict[str, Any], text: str) -> None:
    assert text_of(result).startswith(text)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "Failed to connect to the host via ssh: @@@@\n@ WARNING: REMOTE HOST IDENTIFICATION "
            "HAS CHANGED! @",
            "its SSH host key has changed",
        ),
        ("Host key verification failed.", "its SSH host key is not known here"),
        (
            'Task failed: Data could not be sent to remote host "192.0.2.1". Make sure this host '
            "can be reached over ssh: root@192.0.2.1: Permission denied (publickey).",
            "it accepts none of your SSH keys: root@192.0.2.1: Permission denied (publickey).",
        ),
        (
            "Failed to connect to the host via ssh: ssh: connect to host 192.0.2.1 port 22: "
            "Connection timed out",
            "it does not answer: ssh: connect to host 192.0.2.1 port 22: Connection timed out",
        ),
        (
            "Failed to connect to the host via ssh: mux_client_request_session: read from master "
            "failed: Broken pipe\nConnection timed out during banner exchange\n"
            "Connection to 192.0.2.1 port 22 timed out",
            "it does not answer: Connection to 192.0.2.1 port 22 timed out",
        ),
        ("", "it cannot be reached"),
    ],
)
def test_why_a_host_cannot_be_reached(said: str, words: str) -> None:
    assert connection_words("lb1", said).startswith(words)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "Connection timed out during banner exchange\n"
            "Connection to UNKNOWN port 65535 timed out",
            "it does not answer: Connection to 192.0.2.1 timed out",
        ),
        (
            "kex_exchange_identification: Connection closed by remote host\n"
            "Connection closed by UNKNOWN port 65535",
            "it closed the connection: Connection closed by 192.0.2.1",
        ),
        (
            "channel 0: open failed: connect failed: No route to host\n"
            "stdio forwarding failed\nConnection closed by UNKNOWN port 65535",
            "there is no way to it: 192.0.2.1: channel 0: open failed: connect failed: "
            "No route to host",
        ),
    ],
)
def test_behind_a_program_the_address_and_the_reason_are_told(said: str, words: str) -> None:
    said = f"Failed to connect to the host via ssh: {said}"
    assert connection_words("lb1", said, {"lb1": "192.0.2.1"}.__getitem__) == words


def test_who_knows_the_addresses_is_asked_only_where_ssh_names_none() -> None:
    def asked(host: str) -> str:
        raise AssertionError(host)

    said = "ssh: connect to host 192.0.2.1 port 22: No route to host"
    assert connection_words("lb1", said, asked) == f"there is no way to it: {said}"


def test_differences_of_structures_and_prepared_ones() -> None:
    assert "-  1" in diff_text({"before": [1], "after": [2]}).replace(" 1", "  1")
    assert diff_text({"prepared": "changed x\n"}) == "changed x\n"
    assert diff_text({"before": "x"}) == ""
    assert diff_text(None) == ""


def test_warnings_and_stray_words_are_told_apart() -> None:
    fold = Fold()
    fold.feed({"event": "verbose", "stdout": "\x1b[0;35m[WARNING]: look out\x1b[0m"})
    fold.feed({"event": "error", "stdout": "[ERROR]: the playbook could not be found"})
    assert fold.warnings == ["look out"]
    assert fold.stray == ["[ERROR]: the playbook could not be found"]
