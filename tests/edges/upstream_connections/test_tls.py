"""How `Upstream` secures its connections."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
import trio
import trustme

from creche.core.exchange import Call
from creche.edges.upstream import Upstream
from tests.edges.upstream_connections.conftest import (
    Counting,
    Requests,
    Stream,
    client_context,
    counts,
    provider,
    server_context,
    whole,
)


async def test_tls_by_the_system_certificates(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a context the transport trusts the system's authorities, asks for HTTP/1.1 and keeps connections."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    protocols = []

    async def note(stream: Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        protocols.append(stream.selected_alpn_protocol())

    upstream = Upstream()
    async with provider(Counting(note), server_context(authority)) as port:
        call = Call(method="GET", url=f"https://127.0.0.1:{port}/")
        assert [(await upstream.send(call, timeout_s=5)).body for _ in range(3)] == [b"1", b"1", b"1"]
        await upstream.aclose()
    assert protocols == ["http/1.1"] * 3


@pytest.mark.parametrize("tls", [False, True])
async def test_large_bodies_pass_whole_both_ways(authority: trustme.CA, *, tls: bool) -> None:
    """Bodies larger than any buffer arrive as they were sent."""

    async def echo(stream: Stream) -> None:
        requests = Requests(stream)
        while (request := await requests.next()) is not None:
            await stream.send_all(whole(request[1]))

    upstream = Upstream(ssl_context=client_context(authority))
    body = b"".join(number.to_bytes(4, "big") for number in range(3 << 18))
    async with provider(echo, server_context(authority) if tls else None) as port:
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
        for _ in range(2):
            assert (await upstream.send(Call(method="POST", url=url, body=body), timeout_s=10)).body == body
        assert counts(upstream) == (1, 1, 0)
        await upstream.aclose()


@pytest.mark.parametrize("case", ["stranger", "other-name", "no-tls"])
async def test_tls_that_cannot_be_trusted_is_a_connect_error(authority: trustme.CA, case: str) -> None:
    """A certificate of an unknown authority or for another name, or no TLS at all: nothing of the request is sent."""
    context = {
        "stranger": server_context(trustme.CA()),
        "other-name": server_context(authority, "other.test"),
        "no-tls": None,
    }[case]

    async def hello(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    upstream = Upstream(ssl_context=client_context(authority))
    async with provider(hello, context) as port:
        with pytest.raises(httpx2.ConnectError):
            await upstream.send(Call(method="POST", url=f"https://127.0.0.1:{port}/"), timeout_s=5)
    assert counts(upstream) == (0, 0, 0)
