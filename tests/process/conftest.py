"""Fixtures about the processes of `running`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.process.running import Listener, Simulator, StartDaemon, daemons, eventually, simulator_url


@pytest.fixture(scope="session")
def _simulator_url() -> Iterator[str]:
    with simulator_url() as url:
        yield url


@pytest.fixture
def simulator(_simulator_url: str) -> Simulator:
    """A provider, as a process."""
    return Simulator(_simulator_url)


@pytest.fixture
def start_daemon(simulator: Simulator) -> Iterator[StartDaemon]:
    """Starts daemons with the algorithm `sim`, polled every 200 ms, and what `extra` says; they end with the test."""
    with daemons(simulator.url) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_daemon(_simulator_url: str) -> Iterator[StartDaemon]:
    """The same for daemons that the tests of a module share."""
    with daemons(_simulator_url) as start:
        yield start


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Any]:
    """`eventually(check, within_s)`: what `check` returns as soon as that is true."""
    return eventually


@pytest.fixture
def listen() -> Callable[..., Listener]:
    """`listen(tcp_url, since=…, query=…)`: a listener of the stream."""
    return Listener
