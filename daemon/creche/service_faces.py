"""What clients see of the daemon: its API and its listeners' feed behind one door."""

from __future__ import annotations

from typing import NamedTuple

from creche.config import Config
from creche.edges.api import Api
from creche.edges.api_events import Events
from creche.edges.stream import Stream
from creche.service_figures import Engine, Figures
from creche.service_outside import Door, Outside
from creche.service_parts import Transports, make_access
from creche.service_view import View


class Faces(NamedTuple):
    """`stream` must run for its listeners to hear anything."""

    view: View
    stream: Stream
    front: Door


def make_faces(config: Config, outside: Outside, engine: Engine, upstreams: Transports) -> Faces:
    """All of them, for one engine."""
    feed, access, figures = engine.feed, make_access(config.tcp), Figures(engine)
    stream = Stream(
        feed=feed,
        updates=engine.tools.updates,
        minding=engine.supervisor.roster,
        access=access,
        node=engine.node,
        stats=figures.message,
    )
    events = Events(feed, node=engine.node)
    view = View(config, outside, engine, figures, upstreams=upstreams, stream=stream, events=events)
    api = Api(
        supervisor=engine.supervisor,
        journal=engine.journal,
        feed=feed,
        events=events,
        outbox=engine.outbox,
        access=access,
        view=view,
    )
    front = outside.make_front(config, handle=api.handle, refuse=api.refusal, upgrade=stream.serve)
    return Faces(view, stream, front)
