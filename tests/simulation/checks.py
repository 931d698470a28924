"""What must hold in every world, at every moment and at its end. Each check says what in its first line."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec
import trio

from creche.core.exchange import Call
from creche.core.task import Cancelled, Failed, ResultFile, ServerFailed, Status, Succeeded, Task, TimedOut
from creche.edges.store_sqlite import SqliteStore
from creche.engine.task_run import LAST_CANCEL_S, LAST_FETCH_S, LAST_POLL_S
from tests.simulation.clients import Clients
from tests.simulation.kinds import KINDS
from tests.simulation.provider import Job
from tests.simulation.story import Violation
from tests.simulation.world import Life, World

AT_PROVIDER = frozenset({Status.CREATING, Status.WAITING, Status.PROCESSING, Status.PAUSED, Status.CANCELLING})

SLACK_S = 45.0
"""What a restart, a slow answer and the listener's own pauses may add to a deadline."""

BEATS_S = 10.0
"""How long after its end was heard of a task may be seen to beat: a beat was on its way."""


class Checks:
    """The checks of one world. `limits` are the highest that `in_flight` ever was; `gentle`: only the daemon fails."""

    def __init__(self, world: World, clients: Clients, limits: dict[str, int], *, gentle: bool) -> None:
        self._world = world
        self._clients = clients
        self._limits = limits
        self._gentle = gentle
        self._deadlines: dict[tuple[str, str], float] = {}

    # -- at every moment ---------------------------------------------------------------------------------

    async def audit(self) -> None:
        """Look again and again while the daemon is up."""
        while True:
            await trio.sleep(self._world.chance.uniform(1, 15))
            life = self._world.life
            if self._world.up.is_set() and life is not None and not life.dead and life.view is not None:
                self._check_slots(life)
                self._check_hearts(life)
                self._check_deadlines(life)

    def _check_slots(self, life: Life) -> None:
        """Slots are those of the tasks that have or may have a job, and no more than the limit."""
        assert life.view is not None
        supervisor = life.view._supervisor
        live = {task_id: one.task for task_id, one in supervisor.roster.lives.items()}
        at_provider = {task_id for task_id, task in live.items() if task.status in AT_PROVIDER}
        holders = {task_id for name in KINDS for task_id in supervisor.roster.slots(name).holders}
        if not at_provider <= holders:
            raise Violation("a task at the provider has a slot", f"{sorted(at_provider - holders)} have none")
        if not holders <= live.keys():
            raise Violation("a slot is held by a live task", f"{sorted(holders - live.keys())} hold one")
        for task_id, task in live.items():
            if task.ended:
                raise Violation("a task that has ended is not minded", str(task.status), task_id)
        for name, limit in self._limits.items():
            held = len(supervisor.roster.slots(name).holders)
            if held > limit + len(self._clients.attached_at):
                raise Violation("no more jobs are in flight than the limit", f"{name}: {held} of {limit}")

    def _check_deadlines(self, life: Life) -> None:
        """Whatever happens, a job is over when it was to be; only who sets the clock while nobody looks moves that."""
        assert life.view is not None
        world = self._world
        if world.clock_touched:
            return
        for task_id, live in life.view._supervisor.roster.lives.items():
            if live.task.job is None or live.task.deadline_at is None:
                continue
            key = task_id, live.task.job.id
            # Once it is on disk: what was in memory only begins anew after a crash.
            if key not in self._deadlines and (stored := self._on_disk(task_id)) is not None and stored.job is not None:
                self._deadlines[key] = live.task.deadline_at
            if abs(live.task.deadline_at - self._deadlines.get(key, live.task.deadline_at)) > 1:
                raise Violation("a deadline stands", f"{live.task.deadline_at - self._deadlines[key]:+.0f} s", task_id)

    def _check_hearts(self, life: Life) -> None:
        """No heart beats without its task, nor after it."""
        assert life.view is not None
        beating = life.view._tools.pulse._entered.keys()
        live = life.view._supervisor.roster.lives
        for task_id in sorted(beating - live.keys()):
            raise Violation("a heart beats only while its task lives", "it beats", task_id)
        for task_id, at in self._world.hearts.seen.items():
            if at > self._clients.ended_at.get(task_id, at) + BEATS_S:
                raise Violation("a heart beats only while its task lives", f"seen at {at:.0f}", task_id)

    def sent(self, call: Call) -> None:
        """What the provider hears of is on disk: the job's id before it is asked about, the wish before a cancel."""
        path = urlsplit(call.url).path.strip("/").split("/")
        if path[0] != "jobs" or len(path) == 1 or (call.method == "PUT"):
            return
        for job in (provider.jobs.get(path[1]) for provider in self._world.providers.values()):
            if job is None:
                continue
            task = self._on_disk(job.task)
            if task is None or task.job is None or task.job.id != job.id:
                invariant = "a job is asked about only when its id is on disk"
                self._world.story.accuse(Violation(invariant, job.id, job.task))
            elif path[2:] == ["cancel"] and task.cancel_reason is None:
                invariant = "a job is cancelled only when the wish is on disk"
                self._world.story.accuse(Violation(invariant, job.id, job.task))

    def _on_disk(self, task_id: str) -> Task | None:
        store = self._world.reader()
        row = store.execute("SELECT record FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return None if row is None else _DECODER.decode(row[0])

    # -- at the end --------------------------------------------------------------------------------------

    def final(self, store: SqliteStore) -> None:
        """All that can be told from what is left."""
        entries = store.feed_after(0, 100_000)
        tasks = {entry.task.id: entry.task for entry in entries}
        self._check_ends(store, [entry.task.id for entry in entries])
        self._check_jobs()
        for task_id, task in tasks.items():
            jobs = self._world.providers[task.algorithm].jobs_of(task_id)
            self._check_truth(task, jobs)
            self._check_file(task, store)
            self._check_once(task, jobs)
            self._check_time(task, jobs)
        for breach in (breach for provider in self._world.providers.values() for breach in provider.breaches):
            raise Violation("a credential goes to its own provider only", breach)

    def _check_ends(self, store: SqliteStore, ended: list[str]) -> None:
        """Whatever was accepted has ended, once; and a listener has heard it all, once and in order."""
        unfinished = store.unfinished()
        if unfinished:
            raise Violation("every task comes to an end", str(unfinished[0].status), unfinished[0].id)
        for task_id in self._clients.accepted:
            if task_id not in ended:
                raise Violation("an accepted task is there", "it is not", task_id)
        for task_id, number in Counter(self._clients.heard).items():
            if number > 1:
                raise Violation("a listener hears an outcome once", f"{number} times", task_id)
        if self._clients.heard != ended:
            missed = sorted({*ended} ^ {*self._clients.heard})
            raise Violation(
                "a listener hears all outcomes in order", f"differ: {missed}", missed[0] if missed else None
            )
        if len(self._clients.accepted) != self._clients.tasks:
            raise Violation("every submit is answered", f"{len(self._clients.accepted)} of {self._clients.tasks}")

    def _check_jobs(self) -> None:
        """One create makes one job; a second one for a task takes a decision."""
        for provider in self._world.providers.values():
            if provider.kind.anew:
                continue
            for job in provider.jobs.values():
                twins = [twin.id for twin in provider.jobs.values() if twin.token == job.token]
                if len(twins) > 1:
                    raise Violation("one create makes one job", f"{twins}", job.task)
                jobs = provider.jobs_of(job.task)
                if len(jobs) > 1 + self._clients.decided.get(job.task, 0):
                    raise Violation("a task has one job", f"{[one.id for one in jobs]}", job.task)
                if job.task not in self._clients.accepted:
                    raise Violation("a job has a task that somebody submitted", job.id, job.task)

    def _check_truth(self, task: Task, jobs: list[Job]) -> None:
        """An outcome is what happened at the provider, and a cancel that was asked for is not lost."""
        if task.id in self._clients.wishes and task.cancel_reason != "client":
            raise Violation("a cancel that was taken is not lost", f"reason {task.cancel_reason}", task.id)
        job = next((job for job in jobs if task.job is not None and job.id == task.job.id), None)
        if not self._is_true(task, job, jobs):
            found = f"{task.outcome}, but the job is {job and job.end} ({[one.id for one in jobs]})"
            raise Violation("an outcome is the provider's truth", found, task.id)

    def _check_file(self, task: Task, store: SqliteStore) -> None:
        """A large result is in its file, whole; and there are no files but those."""
        if task.id in self._world.left and not isinstance(task.outcome, Succeeded):
            raise Violation("a result that was on disk before a crash is taken", str(task.outcome), task.id)
        file = task.outcome.file if isinstance(task.outcome, Succeeded) else None
        found = store.result_of(task.id)
        if (file is None) != (found is None) or (file and file.sha256 != hashlib.sha256(found or b"").hexdigest()):
            raise Violation("a result is where its task says", f"{file}, {found and len(found)} bytes", task.id)

    def _is_true(self, task: Task, job: Job | None, jobs: list[Job]) -> bool:  # noqa: C901, PLR0911 - a table
        decided = self._clients.decided.get(task.id, 0)
        match task.outcome:
            case Succeeded(result=result, file=None):
                return job is not None and job.end == "done" and msgspec.json.decode(result) == job.result
            case Succeeded(file=file):
                found = job is not None and msgspec.json.encode(job.result)
                return file == ResultFile(len(found), hashlib.sha256(found).hexdigest()) if found else False
            case Failed(reason="provider"):
                return job is not None and job.end == "failed"
            case Failed(reason="expired"):
                return job is not None and job.end == "expired"
            case Failed(reason="create_refused"):
                return not jobs or decided > 0 or KINDS[task.algorithm].anew
            case Failed(reason="result_refused"):
                return job is not None and job.end == "done" and bool(KINDS[task.algorithm].fetch)
            case Failed(reason="job_lost"):
                return job is not None and KINDS[task.algorithm].once and job.told > 0
            case Cancelled(reason="dropped"):
                return decided > 0
            case Cancelled(reason=reason):
                over = job is not None and job.end == "cancelled"
                # The provider agreed, and told the end to somebody else: once, and before.
                told = job is not None and KINDS[task.algorithm].once and job.told > 0
                right = reason == (task.cancel_reason or "provider")
                return right and (over or told or (reason == "client" and (not jobs or decided > 0 or job is None)))
            case TimedOut() | ServerFailed():
                return job is not None
        return False

    def _check_once(self, task: Task, jobs: list[Job]) -> None:
        """A result that is given out once and has arrived is kept, unless the daemon was killed just then."""
        for job in jobs:
            if task.job is None or task.job.id != job.id or not job.arrived_at or job.end != "done":
                continue
            if not isinstance(task.outcome, Succeeded) and not self._killed_behind(job.arrived_at):
                raise Violation("a result that has arrived is kept", str(task.outcome), task.id)
            once = KINDS[task.algorithm].once or KINDS[task.algorithm].fetch == "once"
            if once and len(job.arrived_at) > 1:
                raise Violation("a result that is given out once is not asked for again", str(job.arrived_at), task.id)

    def _killed_behind(self, arrived_at: list[float]) -> bool:
        """Whether what had arrived may not have reached the disk when the daemon was killed."""
        return any(
            0 <= kill - arrived < SLACK_S or any(start <= arrived < kill <= end for start, end in self._world.full)
            for kill in self._world.kills
            for arrived in arrived_at
        )

    def _check_time(self, task: Task, jobs: list[Job]) -> None:
        """Nobody waits past the deadline, but for what follows it, or while the daemon could do nothing."""
        job = next((job for job in jobs if task.job is not None and job.id == task.job.id), None)
        heard_at = self._clients.ended_at.get(task.id)
        if job is None or heard_at is None:
            return
        began_at = max(job.made_at, self._clients.attached_at.get(task.id, 0.0))
        # The daemon may have learned of the job much later than the provider made it.
        began_at = max([began_at, *self._learned(task)])
        disturbed = max((at for at in self._world.disturbed if at <= heard_at), default=0.0)
        late_s = LAST_POLL_S + LAST_FETCH_S + (LAST_CANCEL_S + LAST_POLL_S if task.cancel_reason is not None else 0.0)
        if isinstance(task.outcome, TimedOut) and heard_at < job.made_at + task.deadline_s - self._world.skew_s:
            raise Violation("no job times out before its deadline", f"heard at {heard_at:.0f}", task.id)
        if heard_at > max(began_at + task.deadline_s, disturbed) + late_s + SLACK_S:
            raise Violation("no wait outlives its deadline", f"heard at {heard_at:.0f}, began {began_at:.0f}", task.id)

    def _learned(self, task: Task) -> Iterator[float]:
        for at, about, text in self._world.story.lines:
            if about == task.id and text.endswith("created"):
                yield at

    def unknown(self, task_id: str, algorithm: str, note: str) -> None:
        """Where nothing but the daemon fails, only who cannot ask the provider is left unknown."""
        if self._gentle and KINDS[algorithm].repeat != "none":
            raise Violation("who can learn of a job does", note, task_id)


_DECODER = msgspec.json.Decoder(Task)
