"""Files of results, through the real daemon: saved before the task ends, gone with it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import creche

if TYPE_CHECKING:
    from tests.process.running import Simulator, StartDaemon

PICTURE = b"\x89PNG" + bytes(100_000)


@pytest.fixture
def picture_url() -> Iterator[str]:
    """A server with one picture, and nothing else."""

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/heron.png"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(PICTURE if found else b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/heron.png"
        server.shutdown()
        thread.join()


def test_files_are_saved_with_the_outcome(
    start_daemon: StartDaemon, simulator: Simulator, picture_url: str, tmp_path: Path
) -> None:
    """The task's assets say where they are and what they are, or why not; so they do after a restart."""
    shipped = Path(creche.__file__).parent / "recipes/simulator.toml"
    recipe = tmp_path / "pictures.toml"
    recipe.write_text(shipped.read_text(encoding="utf-8") + '\n[assets]\nurls = ""\n', encoding="utf-8")
    extra = f'[algorithms.pictures]\nrecipe = "{recipe}"\nbase = "{simulator.url}"\nassets = "save"\n'
    daemon = start_daemon(extra + 'poll_every = "100ms"\n')
    quick = {"queue": "0s", "run": "0s"}
    task = daemon.client.submit("pictures", input={"prompt": [picture_url, picture_url + "x"], "simulate": quick})
    done = daemon.client.wait(task["id"], timeout_s=20)
    saved, missing = done["assets"]
    path = daemon.folder / "creche.db.assets" / task["id"] / "000.png"
    assert saved == {
        "url": picture_url,
        "path": str(path),
        "media_type": "image/png",
        "bytes": len(PICTURE),
        "sha256": hashlib.sha256(PICTURE).hexdigest(),
    }
    assert path.read_bytes() == PICTURE
    assert missing == {"url": picture_url + "x", "error": "HTTP 404"}
    assert done["result"] == [picture_url, picture_url + "x"]
    daemon.stop()
    daemon.start()
    assert daemon.client.get(task["id"])["assets"] == done["assets"]
    assert path.exists()
