"""Recipes tried on a live provider, and a plug-in in the daemon, each a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.process.running import Simulator, StartDaemon

ROOT = Path(__file__).parent.parent.parent
QUICK = '{"prompt": "hello", "simulate": {"queue": "0s", "run": "1s"}}'
OVEN = """
from creche.plugin import Call, Job, JobStatus, Parameter, Plugin, PluginProvider, Reading, Settings, Task
import msgspec


class Oven(PluginProvider):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def create(self, task: Task) -> Reading:
        call = Call(method="POST", url=f"{self._settings.base}/v1/jobs", body=bytes(task.input or b"{}"), fresh=True)
        answer = await self._settings.http.create(call)
        return Reading(status=JobStatus.WAITING, job=msgspec.json.decode(answer.body)["id"])

    async def poll(self, job: Job) -> Reading:
        answer = await self._settings.http.ask(Call(method="GET", url=f"{self._settings.base}/v1/jobs/{job.id}"))
        body = msgspec.json.decode(answer.body)
        done = body["status"] == "succeeded"
        result = msgspec.Raw(msgspec.json.encode([self._settings.params["kind"], body["output"]]))
        return Reading(status=JobStatus.SUCCEEDED, result=result) if done else Reading(status=JobStatus.PROCESSING)


PLUGIN = Plugin(title="Oven", make=Oven, params={"kind": Parameter(about="of bread")}, secret_required=False)
"""


def creche(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "creche", *args],
        env={"PYTHONPATH": str(ROOT / "daemon"), **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_one_live_job_is_minded_to_its_end(simulator: Simulator) -> None:
    """Each request and each answer that is new is shown, then the outcome."""
    ran = creche("recipes", "try", "simulator", "--live", "--base", simulator.url, "--data", QUICK)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0] == f"POST {simulator.url}/v1/jobs"
    assert any(line.startswith("job ") for line in lines)
    assert '"status":"succeeded"' in lines[-1]


def test_a_live_job_that_exists_can_be_minded(simulator: Simulator) -> None:
    """Nothing is created; a failure ends with exit code 1."""
    job = simulator.create(run="0s", queue="0s", end="failed")
    ran = creche("recipes", "try", "simulator", "--live", "--base", simulator.url, "--job", job)
    assert ran.returncode == 1
    assert "POST" not in ran.stdout
    assert '"status":"failed"' in ran.stdout.splitlines()[-1]


@pytest.fixture
def oven(tmp_path: Path) -> Path:
    """A folder with an installed plug-in, as pip leaves it."""
    folder = tmp_path / "site"
    info = folder / "creche_oven-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "creche_oven.py").write_text(OVEN, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: creche-oven\nVersion: 1.0\n", encoding="utf-8")
    points = "[creche.providers]\noven = creche_oven:PLUGIN\nbroken = creche_oven:NOTHING\nwrong = creche_oven:Oven\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return folder


def test_a_plug_in_minds_jobs(start_daemon: StartDaemon, simulator: Simulator, oven: Path) -> None:
    """An algorithm names it instead of a recipe; a task goes through it to its outcome."""
    extra = f'[algorithms.bread]\nplugin = "oven"\nbase = "{simulator.url}"\nparams = {{ kind = "rye" }}\n'
    path = f"{ROOT / 'daemon'}:{oven}"
    daemon = start_daemon(extra + 'poll_every = "100ms"\n', environ={"PYTHONPATH": path})
    task = daemon.client.submit("bread", input={"prompt": "hello", "simulate": {"queue": "0s", "run": "0s"}})
    done = daemon.client.wait(task["id"], timeout_s=20)
    assert (done["status"], done["result"]) == ("succeeded", ["rye", "hello"])
    assert next(row for row in daemon.client.algorithms() if row["name"] == "bread")["title"] == "Oven"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('plugin = "nope"', 'algorithms.x.plugin: no plug-in is called "nope" (installed: broken, oven, wrong)'),
        ('plugin = "broken"', 'plug-in "broken" cannot be imported: AttributeError'),
        ('plugin = "wrong"', 'plug-in "wrong": creche_oven:Oven is no creche.plugin.Plugin'),
        ('plugin = "oven"\nbase = "http://x"', "algorithms.x.params.kind: missing; of bread"),
        ('plugin = "oven"\nrecipe = "fal"\nbase = "http://x"', "algorithms.x.recipe: leave it out"),
        ('plugin = "oven"\nbase = "http://x"\nassets = "save"', 'leave it out: plug-in "oven" names no files'),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_a_mistake(oven: Path, tmp_path: Path, lines: str, words: str) -> None:
    """Told with its place, as all of the configuration's."""
    config = tmp_path / "config.toml"
    config.write_text(f"[algorithms.x]\n{lines}\n", encoding="utf-8")
    ran = creche("check", "--config", str(config), PYTHONPATH=f"{ROOT / 'daemon'}:{oven}")
    assert ran.returncode == 78
    assert words in ran.stderr


def test_the_example_is_what_pip_would_install(tmp_path: Path) -> None:
    """Its entry point is where its package says, and leads to a plug-in."""
    folder = tmp_path / "site"
    shutil.copytree(ROOT / "examples/aws-batch", folder)
    info = folder / "creche_aws_batch-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: creche-aws-batch\nVersion: 1.0.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[creche.providers]\naws-batch = creche_aws_batch:PLUGIN\n", encoding="utf-8"
    )
    assert 'aws-batch = "creche_aws_batch:PLUGIN"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    config = tmp_path / "config.toml"
    params = '{ region = "eu-central-1", queue = "q", definition = "d:1" }'
    lines = ["[algorithms.x]", 'plugin = "aws-batch"', 'base = "https://x.example"', 'secret = "${env:AWS_KEYS}"']
    config.write_text("\n".join([*lines, f"params = {params}", ""]), encoding="utf-8")
    ran = creche("check", "--config", str(config), PYTHONPATH=f"{ROOT / 'daemon'}:{folder}", AWS_KEYS="a:b", HOME="/")
    assert (ran.returncode, ran.stderr) == (0, "")
