"""A daemon, its provider, and a browser that looks at it; collected only where CRECHE_CHROMIUM names a browser.

`scripts/test-browser` installs what is needed and then comes here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.process.running import Daemon, Simulator, daemons, simulator_url

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

if "CRECHE_CHROMIUM" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

TOKEN = "geheim"
TCP = 'token = "${env:CRECHE_TOKEN}"\nallow_writes = true\n'

Open = Callable[..., "Page"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One for all tests; each page has a profile of its own."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - in an environment of its own

    with sync_playwright() as play:
        # Our own pages on loopback need no sandbox, which a container often cannot have.
        running = play.chromium.launch(executable_path=os.environ["CRECHE_CHROMIUM"], args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def _simulator_url() -> Iterator[str]:
    with simulator_url() as url:
        yield url


@pytest.fixture
def simulator(_simulator_url: str) -> Simulator:
    """A provider, as a process."""
    return Simulator(_simulator_url)


@pytest.fixture
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    """A daemon that reads and writes over TCP without a token would not start; so it has one."""
    with daemons(simulator.url) as start:
        yield start(tcp=TCP, environ={"CRECHE_TOKEN": TOKEN})


@pytest.fixture
def open_page(browser: Browser, daemon: Daemon) -> Iterator[Open]:
    """`open_page(query="", **options)`: the dashboard, with the token given. It asks nobody else, and has no errors."""
    wrong: list[str] = []
    contexts: list[Any] = []

    def open_page(query: str = "", **options: Any) -> Page:  # noqa: ANN401 - what Playwright takes
        context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 800}), **options)
        contexts.append(context)
        page = context.new_page()
        url = daemon.tcp_url
        page.add_init_script(f"sessionStorage.setItem('creche-token', {TOKEN!r})")
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        ours = (url, url.replace("http", "ws"))
        page.on("request", lambda asked: None if asked.url.startswith(ours) else wrong.append(asked.url))
        page.goto(f"{url}/{query}")
        page.get_by_role("status").get_by_text("live").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    # While the daemon is away the browser says so in its console.
    assert [line for line in wrong if "ERR_CONNECTION_REFUSED" not in line] == []
