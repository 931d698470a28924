"""Clients of a daemon that is restarted under them: `load.py SECONDS`, `load.py --fill COUNT`, `load.py --count`.

Submits go one per connection, and are not repeated: what fails is lost, and counted. A watcher follows the feed from
its beginning. Prints one JSON object.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections import Counter

from creche.client import Client

PATH = "/run/creche/creche.sock"


class Connection(http.client.HTTPConnection):
    """HTTP over the Unix socket."""

    def __init__(self) -> None:
        super().__init__("creche", timeout=60)

    def connect(self) -> None:
        """As systemd made it."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(PATH)


def submit(name: str) -> str:
    """What a single request is answered; the error's name if it is not."""
    body = json.dumps({"algorithm": "rehearsal", "id": name, "input": {"simulate": {"queue": "0s", "run": "1s"}}})
    connection = Connection()
    try:
        connection.request("POST", "/v1/tasks", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as exc:
        return type(exc).__name__
    finally:
        connection.close()
    return str(answer.status)


def load(seconds: float) -> dict[str, object]:
    """Submit from four threads for so long, and wait until everything that was accepted is told."""
    until = time.monotonic() + seconds
    answers: Counter[str] = Counter()
    accepted: set[str] = set()
    heard: Counter[str] = Counter()
    slowest = [0.0]

    def work(number: int) -> None:
        count = 0
        while time.monotonic() < until:
            name = f"load-{number}-{count}"
            began = time.monotonic()
            answer = submit(name)
            slowest[0] = max(slowest[0], time.monotonic() - began)
            answers[answer] += 1
            if answer in {"200", "202"}:
                accepted.add(name)
            count += 1
            time.sleep(0.01)

    def watch() -> None:
        for page in Client(PATH).follow("oldest"):
            heard.update(task["id"] for task in page["results"] if task["id"].startswith("load-"))

    threading.Thread(target=watch, daemon=True).start()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    patience = time.monotonic() + 60
    while set(heard) != accepted and time.monotonic() < patience:
        time.sleep(0.2)
    return {
        "answers": dict(answers),
        "lost": len(accepted - set(heard)),
        "twice": sum(count > 1 for count in heard.values()),
        "slowest_s": round(slowest[0], 2),
    }


def fill(count: int) -> dict[str, object]:
    """So many tasks in flight."""
    client = Client(PATH)
    task = {"algorithm": "rehearsal", "input": {"simulate": {"queue": "0s", "run": "1h"}}}
    rows = ({**task, "id": f"fill-{number}"} for number in range(count))
    answers = [answer for answer in client.submit_many(rows) if isinstance(answer, Exception)]
    until = time.monotonic() + 90
    while client.status()["tasks"].get("processing", 0) < count and time.monotonic() < until:
        time.sleep(0.2)
    return {"refused": len(answers), "processing": client.status()["tasks"].get("processing", 0)}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--fill", count]:
            found = fill(int(count))
        case ["--count"]:
            found = Client(PATH).status()["tasks"]
        case [seconds]:
            found = load(float(seconds))
        case _:
            sys.exit("load.py SECONDS | --fill COUNT | --count")
    sys.stdout.write(json.dumps(found) + "\n")
