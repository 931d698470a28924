"""A provider to rehearse with: `creche simulate` on loopback, for the demo, for tests and for benchmarks.

It stands beside the daemon and shares nothing with it but the reading of tables and durations. Each job is scripted by
the member `simulate` of the body that creates it (`script`), the provider as a whole by `PUT /v1/world` (`world`). What
a request is answered follows from those two, the requests before it and the time (`rules`); no job has a task or a
timer of its own (`job`). `server` carries the rules to sockets.

    POST /v1/jobs               make a job; `Idempotency-Key` makes it safe to repeat
    GET  /v1/jobs/{id}          its state; on success with the output, unless the script separates the two
    POST /v1/jobs/batch         the states of many, by their ids, and which were missed
    GET  /v1/jobs/{id}/result   its output
    POST /v1/jobs/{id}/cancel   200, or 409 after its end
    GET, PUT /v1/world          how the provider behaves
    GET  /v1/stats[?tags=1]     what was counted; with tags the number of jobs made for each script's `tag`
    GET  /healthz

The last three are for whoever rehearses: they need no key, and nothing in the world befalls them.
"""

from creche.simulator.rules import Drop, Reply, Simulator
from creche.simulator.server import serve

__all__ = ["Drop", "Reply", "Simulator", "serve"]
