"""What `Upstream` puts on the wire, and what it refuses to."""

from __future__ import annotations

import httpx2
import pytest
import trio

from creche.core.exchange import Call
from creche.edges.upstream import Upstream
from creche.edges.upstream_request import locate
from tests.edges.upstream.conftest import WHOLE, provider, read_request


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(
            Call(method="GET", url="/v1/jobs/1?x=%20y#part", headers=(("X-Key", "k"),)),
            "GET /v1/jobs/1?x=%20y HTTP/1.1\r\nHost: {}\r\nX-Key: k\r\nAccept-Encoding: identity\r\n\r\n",
            id="get",
        ),
        pytest.param(
            Call(method="POST", url="?a=/b", headers=(("accept-encoding", "gzip"),), body=b"{}"),
            "POST /?a=/b HTTP/1.1\r\nHost: {}\r\naccept-encoding: gzip\r\nContent-Length: 2\r\n\r\n{{}}",
            id="post",
        ),
        pytest.param(
            Call(method="POST", url=""),
            "POST / HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
            id="post-without-body",
        ),
    ],
)
async def test_requests_on_the_wire(call: Call, expected: str) -> None:
    """A request has what the call says, the host, its length, and asks for a body as it is."""
    seen = []

    async def handler(stream: trio.SocketStream) -> None:
        seen.append(await read_request(stream, body_bytes=len(call.body or b"")))
        await stream.send_all(WHOLE)

    upstream = Upstream()
    async with provider(handler) as origin:
        url = origin + call.url
        await upstream.send(Call(method=call.method, url=url, headers=call.headers, body=call.body), timeout_s=5)
        await upstream.aclose()
    assert seen == [expected.format(origin.removeprefix("http://")).encode()]


@pytest.mark.parametrize(
    ("url", "name", "host", "target"),
    [
        ("http://Example.com/a", "http://example.com:80", "example.com", "/a"),
        ("HTTPS://example.com:443", "https://example.com:443", "example.com", "/"),
        ("https://example.com:8443?q#f", "https://example.com:8443", "example.com:8443", "/?q"),
        ("http://[2001:DB8::1]/", "http://[2001:db8::1]:80", "[2001:db8::1]", "/"),
        ("http://[::1]:81//a//b", "http://[::1]:81", "[::1]:81", "//a//b"),
    ],
)
def test_urls_are_split(url: str, name: str, host: str, target: str) -> None:
    """Scheme and host in lower case, the port always there, the target as it stands."""
    place, found = locate(url)
    assert (place.name, place.host_field, found) == (name, host, target)


def test_similar_urls_are_kept_apart() -> None:
    """Another port, scheme or query is not the same origin; other letters of the same host are."""
    known, _ = locate("http://host:8/a")
    for url in ("http://host:80", "http://host:80/a", "http://host:88?/a", "http://host/a", "https://host:8/a"):
        assert locate(url)[0] != known
    assert locate("HTTP://HOST:8")[0] == known


@pytest.mark.parametrize("url", ["/path", "example.com/path", "ftp://example.com/", "file:///etc", ""])
async def test_other_protocols_are_refused(url: str) -> None:
    """Only http and https URLs are carried."""
    with pytest.raises(httpx2.UnsupportedProtocol):
        await Upstream().send(Call(method="GET", url=url), timeout_s=1)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a",
        "http://user:secret@host/",
        "http://host:0/",
        "http://host:65536/",
        "http://host:8x/",
        "http://[::1/",
        "http://[1:2]/",
        "http://.host/",
        "http://ho st/",
        "http://höst/",
        "http://host/a b",
        "http://host/a\r\nX: y",
        "http://host/ä",
        "http://host\r\n/",
        "http+unix://run/x.sock",
        "http+unix://%2Frun%2Fx%00.sock/",
        "http+unix://%2F" + "x" * 120 + "/",
    ],
)
async def test_bad_urls_are_refused(url: str) -> None:
    """A URL that is not clean ASCII with a host and a port is refused, and not repeated."""
    with pytest.raises(httpx2.InvalidURL) as caught:
        await Upstream().send(Call(method="GET", url=url), timeout_s=1)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        Call(method="GET", url="http://host/", headers=(("X-Key", "secret\r\nX-Other: y"),)),
        Call(method="GET", url="http://host/", headers=(("X-Key", "secret\n"),)),
        Call(method="GET", url="http://host/", headers=(("X-Key", "secret\0"),)),
        Call(method="GET", url="http://host/", headers=(("X-Key", "secret\N{SNOWMAN}"),)),
        Call(method="GET", url="http://host/", headers=(("X Key:", "secret"),)),
        Call(method="GET", url="http://host/", headers=(("", "secret"),)),
        Call(method="POST", url="http://host/", headers=(("content-LENGTH", "0"),), body=b"secret"),
        Call(method="POST", url="http://host/", headers=(("Transfer-Encoding", "chunked"),), body=b"secret"),
        Call(method="GET /secret HTTP/1.1\r\n", url="http://host/"),
    ],
)
async def test_requests_cannot_be_forged(call: Call) -> None:
    """No value of a call can add a header or a request; the refusal does not repeat the value."""
    with pytest.raises(httpx2.LocalProtocolError) as caught:
        await Upstream().send(call, timeout_s=1)
    assert "secret" not in str(caught.value)
