"""creche minds long-running AI jobs: submit, wait, tell.

To read it, begin with what it is about and follow one task:

1. `core.task`: what a task is, its statuses, how it gets from one to the next.
2. `engine.ports`: what the engine needs of the world, and how that may fail.
3. `engine.task_run`: one task from its slot to its outcome; the heart of it.
4. `engine.supervisor`: admission, the registry, the error boundary of each task, recovery, stop.
5. `core.recipe`, `core.binding`, `core.polling`: how a provider is described, asked, and understood.
6. `engine.timetable`, `engine.gate`, `engine.batches`, `engine.journal`, `engine.feed`, `engine.pulse`: thousands of
   tasks, few wake-ups, requests and commits.
7. `edges.front`, `edges.api`, `edges.stream`: what clients see; `edges.http_provider`, `edges.upstream`: providers.
8. `service`: the whole program on one page.

Imports point down only: cli → service → edges → engine → core → errors. A test holds this.
"""

__version__ = "0.1.0"
