"""The reload, when reading the configuration fails in a way that nobody foresaw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from creche import service_view
from creche.config import load
from creche.service_figures import Engine
from creche.service_outside import Outside
from creche.service_view import View


@pytest.fixture
def errors_logged() -> Iterator[list[str]]:
    """The messages that were logged at ERROR so far."""
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="ERROR", format="")
    yield messages
    logger.remove(sink)


@pytest.mark.parametrize("part", ["load", "algorithms_of"])
def test_a_reload_never_ends_the_daemon(monkeypatch: pytest.MonkeyPatch, errors_logged: list[str], part: str) -> None:
    """Whatever is raised is logged, and the configuration stays as it was."""
    config = load(None, {})
    nothing: Any = None
    outside = Outside()
    engine = Engine("n", nothing, nothing, nothing, nothing, nothing, None, nothing)
    view = View(config, outside, engine, nothing, upstreams=nothing, stream=nothing, events=nothing)

    def fail(*_: object) -> None:
        raise OverflowError

    monkeypatch.setattr(outside if part == "load" else service_view, part, fail)
    view.reload()
    assert view._config is config
    assert errors_logged == ["not reloaded, by a defect of creche"]
