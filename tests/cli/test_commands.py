"""The commands about tasks: what they send, what they print, how they exit."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import FakeDaemon, Got, Run

ACCEPTED = {"id": "t1", "algorithm": "flux", "status": "accepted", "accepted_at": "2026-11-23T10:00:00Z"}
SETTLED = {**ACCEPTED, "settled_at": "2026-11-23T10:01:00Z"}
SUCCEEDED = {**SETTLED, "status": "succeeded", "result": {"url": "ü"}}
FAILED = {**SETTLED, "status": "failed", "reason": "provider", "message": "out of\n\x1b[31mmemory"}
REFUSED = {
    "title": "Unprocessable Entity",
    "status": 422,
    "code": "unknown_algorithm",
    "detail": "no such",
    "errors": [{"detail": "no such", "pointer": "/algorithm"}],
}
UNKNOWN = {**ACCEPTED, "status": "unknown", "note": "the answer was lost"}


def test_submit_prints_the_id(creche: Run, daemon: FakeDaemon) -> None:
    """A submit sends what its options say, and prints the id alone, for scripts."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    options = [
        "--key",
        "k",
        "--user",
        "u",
        "--label",
        "a=b=c",
        "--label",
        "d=",
        "--deadline",
        "1h30m",
        "--priority",
        "-5",
    ]
    ran = creche("submit", "flux", "--data", '{"n": [1, 2.5]}', *options)
    assert (ran.code, ran.out, ran.err) == (0, "t1\n", "")
    assert daemon.requests[0].json == {
        "algorithm": "flux",
        "input": {"n": [1, 2.5]},
        "key": "k",
        "user": "u",
        "labels": {"a": "b=c", "d": ""},
        "deadline": 5400.0,
        "priority": -5,
    }


@pytest.mark.parametrize(
    "args", [["--json", "submit", "flux", "--job", "j"], ["submit", "flux", "--job", "j", "--json"]]
)
def test_json_may_stand_before_or_behind_the_command(creche: Run, daemon: FakeDaemon, args: list[str]) -> None:
    """With --json a submit prints the task as the API gives it."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    ran = creche(*args)
    assert (ran.code, ran.values) == (0, [ACCEPTED])
    assert daemon.requests[0].json["job"] == "j"


def test_a_job_may_come_with_kept_values(creche: Run, daemon: FakeDaemon) -> None:
    """What the recipe would have kept from the create's answer goes along with the job, in submit and in resolve."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    daemon.on("POST", "/v1/tasks/t1/resolve", (200, ACCEPTED))
    keep = ["--keep", "status_url=https://h/?a=b", "--keep", "cancel_url=c"]
    job = {"id": "j", "keep": {"status_url": "https://h/?a=b", "cancel_url": "c"}}
    assert creche("submit", "flux", "--job", "j", *keep).code == 0
    assert creche("resolve", "t1", "attach", "j", *keep).code == 0
    assert daemon.requests[0].json["job"] == job
    assert daemon.requests[1].json == {"action": "attach", "job": job}


def test_the_input_may_be_a_file_or_standard_input(
    creche: Run, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--input takes a path, or - for standard input; null is an input, too."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    (tmp_path / "in.json").write_text('{"a": 1}')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"null")))
    creche("submit", "flux", "--input", str(tmp_path / "in.json"))
    creche("submit", "flux", "--input", "-")
    assert [request.json["input"] for request in daemon.requests] == [{"a": 1}, None]


@pytest.mark.parametrize(
    ("text", "args", "message"),
    [
        ('{"a": 1,\n "b": }', ["flux", "--input", "FILE"], "FILE:2:7: not valid JSON: Expecting value"),
        ("", ["flux", "--data", "{'a'}"], "--data:1:2: not valid JSON: Expecting property name"),
        ("", ["flux", "--data", "NaN"], "--data:1: not valid JSON: NaN is no JSON number"),
        ("", ["flux", "--data", "1e999"], "--data:1: not valid JSON: the number 1e999 is too large"),
        ('{"input": 1}\n\n{"input": }', ["flux", "--ndjson", "FILE"], "FILE:3:11: not valid JSON: Expecting value"),
        ('{"algorithm": "flux"}\n7', ["--ndjson", "FILE"], "FILE:2: expected a task, as a JSON object"),
        ('{"input": 1}', ["--ndjson", "FILE"], 'FILE:1: no "algorithm", and no ALGORITHM was given'),
        ("", ["flux", "--input", "none.json"], "cannot read none.json: No such file or directory"),
        ("", ["flux"], "give one of --input, --data, --job and --ndjson"),
        ("", ["flux", "--data", "1", "--job", "j"], "give one of --input, --data, --job and --ndjson"),
        ("", ["--data", "1"], "name the ALGORITHM to submit to"),
        ("", ["--ndjson", "FILE", "--data", "1"], "--ndjson brings tasks of its own"),
        ("", ["flux", "--data", "1", "--output", "x"], "--output and --timeout need --wait"),
        ("", ["flux", "--data", "1", "--wait", "--output", "no/such/x"], "cannot write no/such/x: No such file"),
        ("", ["flux", "--data", "1", "--deadline", "90"], "expected a duration such as"),
        ("", ["flux", "--data", "1", "--label", "a"], 'expected a label such as "team=video"'),
        ("", ["flux", "--job", "1", "--keep", "a"], 'expected a kept value such as "status_url=https://…"'),
        ("", ["flux", "--data", "1", "--keep", "a=b"], "--keep needs --job"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(
    creche: Run, daemon: FakeDaemon, tmp_path: Path, *, text: str, args: list[str], message: str
) -> None:
    """A mistake in the command line or a file says where it is, exits with 2, and submits nothing."""
    file = tmp_path / "tasks"
    file.write_text(text)
    ran = creche("submit", *[str(file) if arg == "FILE" else arg for arg in args])
    assert (ran.code, ran.out) == (2, "")
    assert message.replace("FILE", str(file)) in ran.err
    assert daemon.requests == []


def test_many_tasks_come_from_lines(creche: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """--ndjson submits each line; options fill in what a line leaves out; a refusal is told by its number, exit 3."""
    daemon.on("POST", "/v1/tasks/batch", _refuse_the_second)
    lines = b'{"input": 1}\n{"algorithm": "other", "input": 2}\r\n\n{"job": "j", "user": "v", "key": "k"}'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    ran = creche("submit", "flux", "--ndjson", "-", "--user", "u")
    assert (ran.code, ran.out) == (3, "t0\nt2\n")
    assert ran.err == "creche: task 2 of 3 was refused: unknown_algorithm: no such (at /algorithm)\n"
    sent = daemon.requests[0].lines
    assert [(line["algorithm"], line["user"]) for line in sent] == [("flux", "u"), ("other", "u"), ("flux", "v")]
    assert sent[2]["key"] == "k"


def test_many_answers_as_json_keep_their_order(creche: Run, daemon: FakeDaemon, tmp_path: Path) -> None:
    """With --json there is one line for each task, a refusal being one of them."""
    daemon.on("POST", "/v1/tasks/batch", _refuse_the_second)
    (tmp_path / "tasks").write_text('{"algorithm": "flux", "input": 1}\n' * 3)
    ran = creche("submit", "--ndjson", str(tmp_path / "tasks"), "--json")
    assert [value.get("id") for value in ran.values] == ["t0", None, "t2"]
    assert ran.values[1] == REFUSED


def test_submit_wait_prints_the_result(creche: Run, daemon: FakeDaemon) -> None:
    """The result alone goes to standard output; the id is told before the waiting begins."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    daemon.on("GET", "/v1/tasks/t1", (200, SUCCEEDED))
    ran = creche("submit", "flux", "--data", "1", "--wait")
    assert (ran.code, ran.values) == (0, [{"url": "ü"}])
    assert ran.err == "creche: task t1 is accepted\n"


def test_submit_wait_json_prints_the_task(creche: Run, daemon: FakeDaemon) -> None:
    """With --json the task at rest is printed, whatever its end."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    daemon.on("GET", "/v1/tasks/t1", (200, FAILED))
    ran = creche("submit", "flux", "--data", "1", "--wait", "--json")
    assert (ran.code, ran.values) == (1, [FAILED])


def test_submit_wait_writes_the_result(creche: Run, daemon: FakeDaemon, tmp_path: Path) -> None:
    """--output takes the result, and standard output stays empty."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    daemon.on("GET", "/v1/tasks/t1", (200, SUCCEEDED))
    ran = creche("submit", "flux", "--data", "1", "--wait", "--output", str(tmp_path / "out.json"))
    assert (ran.code, ran.out) == (0, "")
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == {"url": "ü"}


LARGE = {**SUCCEEDED, "result_file": {"bytes": 300_000, "sha256": "0a"}}
del LARGE["result"]


def test_a_large_result_is_asked_for_by_itself(creche: Run, daemon: FakeDaemon, tmp_path: Path) -> None:
    """By `submit --wait` as by `result`; `show` says how to get it."""
    daemon.on("POST", "/v1/tasks", (202, ACCEPTED))
    daemon.on("GET", "/v1/tasks/t1", (200, LARGE))
    daemon.on("GET", "/v1/tasks/t1/result", (200, ["large"]))
    assert creche("submit", "flux", "--data", "1", "--wait").values == [["large"]]
    assert creche("result", "t1").values == [["large"]]
    assert creche("result", "t1", "--output", str(tmp_path / "out")).out == ""
    assert json.loads((tmp_path / "out").read_text()) == ["large"]
    assert creche("result", "other", "--output", str(tmp_path / "out")).code == 3
    assert json.loads((tmp_path / "out").read_text()) == ["large"], "what is there stays when there is no result"
    assert "result       300000 bytes: creche result t1" in creche("show", "t1").out


def test_submit_many_and_wait_writes_tasks(creche: Run, daemon: FakeDaemon, tmp_path: Path) -> None:
    """Of many tasks --output gets one finished task per line; what was refused counts for the exit code."""
    daemon.on("POST", "/v1/tasks/batch", _refuse_the_second)
    daemon.on("GET", "/v1/tasks/t0", (200, SUCCEEDED))
    daemon.on("GET", "/v1/tasks/t2", (200, FAILED))
    (tmp_path / "tasks").write_text('{"algorithm": "flux", "input": 1}\n' * 3)
    out = tmp_path / "out"
    ran = creche("submit", "--ndjson", str(tmp_path / "tasks"), "--wait", "--output", str(out))
    assert (ran.code, ran.out) == (3, "")
    assert "creche: waiting for 2 tasks\n" in ran.err
    assert [json.loads(line) for line in out.read_text("utf-8").splitlines()] == [SUCCEEDED, FAILED]


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([SUCCEEDED], 0),
        ([FAILED], 1),
        ([{**SETTLED, "status": "cancelled", "reason": "client"}], 1),
        ([{**SETTLED, "status": "timed_out"}], 1),
        ([{**SETTLED, "status": "server_failed"}], 1),
        ([UNKNOWN], 6),
        ([SUCCEEDED, FAILED, UNKNOWN, SUCCEEDED], 6),
        ([SUCCEEDED, FAILED, SUCCEEDED], 1),
    ],
)
def test_wait_exits_by_the_worst_end(creche: Run, daemon: FakeDaemon, ends: list[dict[str, Any]], code: int) -> None:
    """Waiting prints a line per task; the exit code is that of the worst end."""
    for number, end in enumerate(ends):
        daemon.on("GET", f"/v1/tasks/t{number}", (200, {**end, "id": f"t{number}"}))
    ran = creche("wait", *[f"t{number}" for number in range(len(ends))])
    assert ran.code == code
    lines = [line.split("  ")[:2] for line in ran.out.splitlines()]
    assert lines == [[f"t{number}", end["status"]] for number, end in enumerate(ends)]


def test_wait_goes_on_after_an_id_that_is_not_known(creche: Run, daemon: FakeDaemon) -> None:
    """One refused id is told, the others are waited for, and the exit code is 3."""
    daemon.on("GET", "/v1/tasks/t1", (200, SUCCEEDED))
    ran = creche("wait", "none", "t1", "--json")
    assert (ran.code, ran.values) == (3, [SUCCEEDED])
    assert ran.err == "creche: task none: task_not_found: no /v1/tasks/none\n"


def test_wait_ends_after_its_time(creche: Run, daemon: FakeDaemon) -> None:
    """--timeout ends the waiting with 5, and says that the task goes on."""
    daemon.on("GET", "/v1/tasks/t1", (200, ACCEPTED))
    ran = creche("wait", "t1", "--timeout", "50ms")
    assert (ran.code, ran.out) == (5, "")
    assert "task t1 is accepted; the daemon goes on minding it" in ran.err


def test_what_providers_say_stays_on_its_line(creche: Run, daemon: FakeDaemon) -> None:
    """Line breaks and control characters in a message neither break a line nor reach the terminal."""
    daemon.on("GET", "/v1/tasks/t1", (200, FAILED))
    assert creche("wait", "t1").out == "t1  failed  provider: out of \N{REPLACEMENT CHARACTER}[31mmemory\n"


def test_list_is_aligned_text_in_a_pipe(creche: Run, daemon: FakeDaemon) -> None:
    """Without a terminal the list is plain columns under a head."""
    tasks = [{**SUCCEEDED, "user": "u17"}, {**UNKNOWN, "id": "t22"}]
    daemon.on("GET", "/v1/tasks", (200, {"tasks": tasks, "after": None}))
    ran = creche("list", "--status", "succeeded", "--status", "unknown", "--label", "a=b", "--limit", "7")
    head, *rows = ran.out.splitlines()
    assert head.split() == ["ID", "ALGORITHM", "STATUS", "AGE", "USER", "ABOUT"]
    assert [row[: head.index("AGE")].split() for row in rows] == [
        ["t1", "flux", "succeeded"],
        ["t22", "flux", "unknown"],
    ]
    assert rows[1][head.index("ABOUT") :] == "the answer was lost"
    query = [("status", "succeeded"), ("status", "unknown"), ("label", "a:b"), ("limit", "7")]
    assert daemon.requests[0].query == query


def test_list_stops_at_its_limit(creche: Run, daemon: FakeDaemon) -> None:
    """--limit counts tasks, not pages."""
    daemon.on("GET", "/v1/tasks", (200, {"tasks": [SUCCEEDED] * 100, "after": "t1"}))
    assert len(creche("list", "--limit", "150", "--json").values) == 150
    assert len(daemon.requests) == 2


def test_an_empty_list_is_a_head(creche: Run, daemon: FakeDaemon) -> None:
    """No tasks is no error."""
    daemon.on("GET", "/v1/tasks", (200, {"tasks": [], "after": None}))
    ran = creche("list")
    assert (ran.code, len(ran.out.splitlines())) == (0, 1)


def test_show_tells_all_there_is(creche: Run, daemon: FakeDaemon) -> None:
    """A task is shown field by field, its input on request."""
    job = {"id": "j9", "since": "2026-11-23T10:00:01Z", "status": "SUCCESS"}
    task = {**SUCCEEDED, "job": job, "labels": {"a": "b"}, "input": {"n": 1}}
    daemon.on("GET", "/v1/tasks/t1", (200, task))
    out = creche("show", "t1", "--input").out
    for words in (
        "status       succeeded",
        "labels       a=b",
        "job          j9",
        'input:\n{\n  "n": 1\n}',
        "result:\n{",
    ):
        assert words in out
    assert daemon.requests[0].query == [("input", "1")]
    assert creche("show", "t1", "--json").values == [task]


def test_cancel_asks_for_each(creche: Run, daemon: FakeDaemon) -> None:
    """Each task is asked for; one that is refused is told and does not keep the others."""
    daemon.on("POST", "/v1/tasks/t1/cancel", (202, {**ACCEPTED, "status": "cancelling"}))
    ran = creche("cancel", "none", "t1")
    assert (ran.code, ran.out) == (3, "t1  cancelling\n")
    assert "task none: task_not_found" in ran.err


def test_resolve_says_what_was_decided(creche: Run, daemon: FakeDaemon) -> None:
    """The decision goes to the daemon; attach comes with the job."""
    daemon.on("POST", "/v1/tasks/t1/resolve", (200, ACCEPTED))
    assert creche("resolve", "t1", "attach", "j1").out == "t1  accepted\n"
    assert creche("resolve", "t1", "drop", "--json").values == [ACCEPTED]
    assert [request.json for request in daemon.requests] == [{"action": "attach", "job": "j1"}, {"action": "drop"}]


@pytest.mark.parametrize("args", [["attach"], ["create", "j1"], ["drop", "j1"], ["drop", "--keep", "a=b"], ["maybe"]])
def test_resolve_without_sense_is_refused(creche: Run, daemon: FakeDaemon, args: list[str]) -> None:
    """To attach needs a job, the others take none."""
    assert creche("resolve", "t1", *args).code == 2
    assert daemon.requests == []


def test_watch_prints_outcomes_as_they_come(creche: Run, daemon: FakeDaemon) -> None:
    """Outcomes are printed, page after page, until as many as asked for were; the daemon is told which are wanted."""
    pages = [[], [{**SUCCEEDED, "id": "t2"}], [{**FAILED, "id": "t3"}, SUCCEEDED]]
    answers = [(200, {"results": page, "cursor": f"c{n}", "resync": n == 1}) for n, page in enumerate(pages)]
    daemon.on("GET", "/v1/results", *answers)
    ran = creche("watch", "--since", "c", "--algorithm", "flux", "--user", "u", "--label", "a=b", "--once", "2")
    assert ran.code == 0
    lines = [line.split("  ")[:4] for line in ran.out.splitlines()]
    assert lines == [["10:01:00", "flux", "t2", "succeeded"], ["10:01:00", "flux", "t3", "failed"]]
    assert "no longer kept" in ran.err
    wanted = [("algorithm", "flux"), ("user", "u"), ("label", "a:b")]
    assert [request.query[:3] for request in daemon.requests] == [wanted] * 3
    assert [dict(request.query)["since"] for request in daemon.requests] == ["c", "c0", "c1"]


def test_watch_as_json_prints_tasks(creche: Run, daemon: FakeDaemon) -> None:
    """With --json a line is the task."""
    daemon.on("GET", "/v1/results", (200, {"results": [SUCCEEDED, FAILED], "cursor": "c", "resync": False}))
    assert creche("watch", "--json", "--once", "2").values == [SUCCEEDED, FAILED]


def _refuse_the_second(got: Got) -> tuple[int, bytes]:
    answers = [REFUSED if number == 1 else {**ACCEPTED, "id": f"t{number}"} for number in range(len(got.lines))]
    return 200, b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)
