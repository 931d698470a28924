"""Which transport carries which call, and what becomes of those that no algorithm needs any more."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
import trio
import trio.testing

from creche.core.exchange import Call
from creche.core.proxies import ENVIRONMENT
from creche.edges.upstream import Upstream
from creche.edges.upstream_assets import AssetFiles, FindProxy
from creche.edges.upstream_httpx import HttpxUpstream
from creche.edges.upstream_routes import Settings, Upstreams
from creche.engine.timetable import Timetable
from tests.edges.transports.conftest import Calls, get, outcome
from tests.edges.transports.peers import Counting, Gate, Peer, relay, serve


class Made:
    """Makes transports, and knows them."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        self.direct = Upstream(timetable=Timetable())
        self.all: dict[Settings, HttpxUpstream] = {}
        self.proxies: list[FindProxy] = []
        self.upstreams = Upstreams(self.direct, self._make, self._make_saver, environ or {})

    def _make_saver(self, find_proxy: FindProxy) -> AssetFiles:
        self.proxies.append(find_proxy)
        return AssetFiles(Path("nowhere"), max_bytes=1, run=trio.to_thread.run_sync, find_proxy=find_proxy)

    def _make(self, proxy: str | None, http2: bool) -> HttpxUpstream:  # noqa: FBT001 - as Upstreams has it
        assert (proxy, http2) not in self.all, "made twice"
        made = self.all[proxy, http2] = HttpxUpstream(proxy=proxy, http2=http2)
        return made


def test_files_go_by_the_same_proxy() -> None:
    """What saves files asks the algorithm's proxy, or the one that the environment names for the host."""
    made = Made({"https_proxy": "http://p:3128", "no_proxy": "near.example"})
    for proxy in (None, "http://own:8080", ENVIRONMENT):
        made.upstreams.saver(proxy)
    hosts = ("far.example", "near.example")
    found = [[find("https", host, 443) for host in hosts] for find in made.proxies]
    assert found == [[None, None], ["http://own:8080"] * 2, ["http://p:3128", None]]


async def test_the_same_settings_share_one_transport() -> None:
    """What needs neither a proxy nor HTTP/2 keeps the fast one."""
    made = Made()
    get_ = made.upstreams.get
    assert get_(None, http2=False) is made.direct
    assert get_("http://p", http2=False) is get_("http://p", http2=False)
    assert len({id(get_("http://p", http2=True)), id(get_("http://p", http2=False)), id(get_(None, http2=True))}) == 3
    assert made.all.keys() == {("http://p", False), ("http://p", True), (None, True)}
    await made.upstreams.aclose()


@pytest.mark.parametrize(("excluded", "by_proxy"), [("other.test", True), ("127.0.0.0/8", False)])
async def test_the_environment_decides_for_each_call(excluded: str, *, by_proxy: bool) -> None:
    """By the host of each call; where it names no proxy, the fast transport is kept."""
    asked = 0

    async def proxy(peer: Peer) -> None:
        nonlocal asked
        asked += 1
        await relay(peer)

    async with serve(proxy) as port, serve(Counting()) as provider:
        made = Made({"HTTP_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": excluded})
        transport = made.upstreams.get(ENVIRONMENT, http2=False)
        for target in ("", "/a", "?b"):
            call = Call(method="GET", url=f"http://127.0.0.1:{provider}{target}")
            assert (await transport.send(call, timeout_s=20)).body == b"1"
        assert asked == by_proxy
        assert (made.direct.statistics().origins == {}) == by_proxy
        for url in ("nonsense", "http://[", "ftp://x/"):
            with pytest.raises((httpx2.UnsupportedProtocol, httpx2.InvalidURL)):
                await transport.send(Call(method="GET", url=url), timeout_s=20)
        await made.upstreams.aclose()


@pytest.mark.parametrize(("excluded", "straight"), [("*", True), ("", False)])
async def test_a_prepared_call_has_its_way(excluded: str, *, straight: bool) -> None:
    """Decided when it is prepared; only the fast transport sends calls for which nobody waits."""
    async with serve(relay) as proxy, serve(Counting()) as provider:
        made = Made({"HTTP_PROXY": f"http://127.0.0.1:{proxy}", "NO_PROXY": excluded})
        call = Call(method="GET", url=f"http://127.0.0.1:{provider}/")
        prepared = made.upstreams.get(ENVIRONMENT, http2=False).prepare(call, timeout_s=20)
        assert (await prepared.send()).body == b"1"
        abandon = prepared.begin(lambda _: None, 1.0)
        assert (abandon is not None) == straight
        if abandon is not None:
            abandon()
        await made.upstreams.aclose()


async def test_nothing_leads_to_a_unix_socket_but_the_fast_transport() -> None:
    """The environment names no proxy for it; what was asked for outright is refused, not ignored."""
    made = Made({"HTTP_PROXY": "http://p", "ALL_PROXY": "http://p"})
    call = Call(method="GET", url="http+unix://%2Fnone.sock/")
    assert await outcome(made.upstreams.get(ENVIRONMENT, http2=False), call) is httpx2.ConnectError
    for proxy, http2 in ((None, True), ("http://p", False), (ENVIRONMENT, True)):
        assert await outcome(made.upstreams.get(proxy, http2=http2), call) is httpx2.UnsupportedProtocol
    await made.upstreams.aclose()


async def test_unused_transports_are_closed_as_their_requests_end() -> None:
    """Those under way and in line are answered; nothing is kept; settings that come back have a new transport."""
    gate = Gate()
    made = Made()
    async with serve(relay) as proxy, serve(gate) as provider:
        url, origin = f"http://127.0.0.1:{proxy}", f"http://127.0.0.1:{provider}"
        retired = made.upstreams._made[url, False] = HttpxUpstream(proxy=url, connections_per_origin=1)
        gate.opened.set()
        await get(retired, f"{origin}/0")
        gate.opened = trio.Event()
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery, retired)
            for number in (1, 2):
                calls.ask(origin, number)
                await trio.testing.wait_all_tasks_blocked()
            await gate.reached(1)
            made.upstreams.keep_only([(None, False)])
            assert retired.is_used()
            assert made.upstreams.get(url, http2=False) is not retired
            gate.opened.set()
        assert calls.outcomes == {1: (200, b"ok"), 2: (200, b"ok")}
        assert not retired.is_used()
        await made.upstreams.aclose()


async def test_the_end_reaches_retired_transports_too() -> None:
    """What waits on them fails at once, as on all others."""
    gate = Gate()
    made = Made()
    async with serve(gate) as provider:
        origin = f"http://127.0.0.1:{provider}"
        retired = made.upstreams._made[None, True] = HttpxUpstream(http2=True, connections_per_origin=1)
        async with trio.open_nursery() as nursery:
            calls = Calls(nursery, retired)
            for number in (1, 2):
                calls.ask(origin, number)
                await trio.testing.wait_all_tasks_blocked()
            await gate.reached(1)
            made.upstreams.keep_only([])
            await made.upstreams.aclose()
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert calls.outcomes == {2: httpx2.PoolTimeout}
            gate.opened.set()
        assert calls.outcomes[1] == (200, b"ok")


async def test_what_the_environment_needs_is_kept() -> None:
    """Its proxies, and for HTTP/2 the transport without one."""
    made = Made({"HTTPS_PROXY": "http://p"})
    for settings in (("http://p", True), (None, True), ("http://q", True), ("http://p", False)):
        made.upstreams.get(settings[0], http2=settings[1])
    made.upstreams.keep_only([(ENVIRONMENT, True)])
    assert made.upstreams._made.keys() == {("http://p", True), (None, True)}
    await made.upstreams.aclose()
    assert await outcome(made.all[None, True], Call(method="GET", url="http://127.0.0.1:1/")) is httpx2.PoolTimeout
