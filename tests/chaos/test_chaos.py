"""A few cycles of what `scripts/test-chaos` does for hours, and the proof that its checks can fail."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.checks import Checker, Wrong
from tests.chaos.clients import Order

ROOT = Path(__file__).parent.parent.parent
DONE = {"id": "t", "key": "k", "algorithm": "token", "status": "succeeded", "result": "k"}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kinds", [["kill"], ["stop", "freeze", "outage", "lost", "descriptors"]])
def test_a_few_cycles(kinds: list[str]) -> None:
    """Real processes, one seed."""
    only = [word for kind in kinds for word in ("--only", kind)]
    command = [str(ROOT / "scripts" / "test-chaos"), "--cycles", "6", "--seed", "1", *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)  # noqa: S603 - our own
    assert done.returncode == 0, done.stdout + done.stderr
    assert "96 tasks accepted and ended" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_few_cycles_of_a_fleet() -> None:
    """The strikes after which nobody has to be waited for until it is taken for dead."""
    only = [word for kind in ("stop", "freeze", "server-kill", "lost") for word in ("--only", kind)]
    command = [str(ROOT / "scripts" / "test-chaos"), "--fleet", "--cycles", "6", "--seed", "1", *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)  # noqa: S603 - our own
    assert done.returncode == 0, done.stdout + done.stderr
    assert "96 tasks accepted and ended" in done.stdout


class Case:
    """One task that was accepted, as all sides saw it. What is well is changed by each test."""

    def __init__(self) -> None:
        self.order = Order("k", "token", {}, id="t", ids={"t"})
        self.task: dict[str, Any] = dict(DONE)
        self.feed = [self.task]
        self.stream = [self.task]
        self.follower = [self.task]
        self.tags = {"k": 1}

    def check(self) -> None:
        """Raises Wrong."""
        daemon = SimpleNamespace(outcomes=lambda: self.feed, check_log=lambda: None)
        simulator = SimpleNamespace(jobs_by_tag=lambda _: self.tags)
        clients = SimpleNamespace(orders={"k": self.order}, accepted={"t": self.order}, ended=set())
        ears = SimpleNamespace(stream=self.stream, follower=self.follower, faults=[])
        checker: Any = Checker
        checker(daemon, simulator, clients, ears, "k").check()


def test_the_checks_pass_what_is_well() -> None:
    """Else the others prove nothing."""
    Case().check()


def test_a_lost_task_is_seen() -> None:
    """Accepted, and nobody hears of it again."""
    case = Case()
    case.feed, case.stream, case.follower = [], [], []
    with pytest.raises(Wrong, match="accepted, and has no outcome"):
        case.check()


@pytest.mark.parametrize("algorithm", ["token", "fetched", "lookup", "none"])
def test_a_second_job_is_seen(algorithm: str) -> None:
    """Of every class: where nobody can tell, a person decides about the second."""
    case = Case()
    case.order.algorithm = algorithm
    case.tags = {"k": 2}
    with pytest.raises(Wrong, match="2 jobs"):
        case.check()


def test_a_second_job_by_decision_is_well() -> None:
    """A person took the risk."""
    case = Case()
    case.order.algorithm, case.order.decisions, case.tags = "none", ["create"], {"k": 2}
    case.check()


def test_an_unknown_that_could_have_been_known_is_seen() -> None:
    """Where the provider could tell, nobody is asked."""
    case = Case()
    case.order.decisions = ["drop"]
    with pytest.raises(Wrong, match="though the provider could tell"):
        case.check()


def test_a_guess_is_seen() -> None:
    """A lost answer to a create that cannot be repeated, and no decision about it."""
    case = Case()
    case.order.algorithm, case.order.script = "none", {"create_errors": [-1]}
    with pytest.raises(Wrong, match="nobody was asked"):
        case.check()


@pytest.mark.parametrize("change", [{"result": "other"}, {"status": "timed_out"}, {"status": "failed"}])
def test_an_outcome_that_is_not_the_truth_is_seen(change: dict[str, str]) -> None:
    """The job succeeded, with a result of its own."""
    case = Case()
    case.task |= change
    with pytest.raises(Wrong, match="cannot be"):
        case.check()


@pytest.mark.parametrize("heard", [[DONE, DONE], [{**DONE, "id": "u"}], [{**DONE, "result": "other"}]])
def test_a_gap_a_repeat_and_a_change_are_seen(heard: list[dict[str, Any]]) -> None:
    """Each by itself."""
    case = Case()
    case.stream = heard
    with pytest.raises(Wrong, match="stream"):
        case.check()
