"""What every test lives under: errors in the log are claimed, nothing is left running. And a few things all need."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from loguru import logger


@pytest.fixture(autouse=True)
def _errors_in_log(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Fail a test during which something was logged at ERROR or above, unless it asked for `errors_logged`."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="ERROR")
    yield messages
    with contextlib.suppress(ValueError):  # a test that sets up logging itself has removed every sink
        logger.remove(sink)
    if messages and "errors_logged" not in request.fixturenames:
        pytest.fail("logged at ERROR, and the test does not ask for `errors_logged`:\n" + "\n".join(messages))


@pytest.fixture
def errors_logged(_errors_in_log: list[str]) -> list[str]:
    """The messages that were logged at ERROR or above so far. Asking for it claims them: look at what they say."""
    return _errors_in_log


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory with a path so short that a Unix socket fits in (the kernel takes 107 bytes); removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="creche-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True, scope="session")
def _nothing_left_running() -> Iterator[None]:
    """Fail the run if it leaves a child process, and end that process."""
    here = psutil.Process()
    before = set(here.children(recursive=True))
    yield
    left = [process for process in here.children(recursive=True) if process not in before]
    names = [_name(process) for process in left]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
    if names:
        pytest.fail("the tests left processes running:\n" + "\n".join(names))


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return f"{process.pid} {' '.join(process.cmdline())}"
    return f"{process.pid} (ended, nobody waited for it)"
