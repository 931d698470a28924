"""What may be configured as a proxy, and how the environment's variables are read."""

from __future__ import annotations

import pytest

from creche.core.proxies import EnvironmentProxies, is_proxy_url


@pytest.mark.parametrize(
    "url",
    ["http://proxy", "http://proxy:3128/", "https://me:p%40ss@proxy.test:1", "http://[::1]:8080", "http://:pw@proxy"],
)
def test_usable_urls(url: str) -> None:
    """A host, perhaps user, password and port."""
    assert is_proxy_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy:3128",
        "socks5://proxy:1",
        "http://",
        "http://proxy:0",
        "http://proxy:x",
        "http://proxy:99999",
        "http://proxy/path",
        "http://proxy?q",
        "http://proxy#f",
        "http://[::1",
        "http://pro xy",
        "http://proxy\r\nX: y",
        "http://b\xfccher.test",
    ],
)
def test_unusable_urls(url: str) -> None:
    """Anything more or less is a mistake."""
    assert not is_proxy_url(url)


def test_each_scheme_has_its_variable() -> None:
    """`ALL_PROXY` stands in for either; a name without a scheme is one of HTTP."""
    found = EnvironmentProxies({"HTTPS_PROXY": "http://a:1", "ALL_PROXY": "b:2"})
    assert found.find("https", "x.test", 443) == "http://a:1"
    assert found.find("http", "x.test", 80) == "http://b:2"
    assert found.find("ftp", "x.test", 21) is None
    assert found.urls() == {"http://a:1", "http://b:2"}
    assert EnvironmentProxies({"HTTPS_PROXY": "http://a:1"}).find("http", "x.test", 80) is None
    assert EnvironmentProxies({}).urls() == set()


def test_lower_case_comes_first() -> None:
    """As in curl, which reads no other `http_proxy` at all; what is empty is not there."""
    found = EnvironmentProxies(
        {"http_proxy": "http://a", "HTTP_PROXY": "http://b", "https_proxy": " ", "HTTPS_PROXY": "c"}
    )
    assert (found.find("http", "x", 80), found.find("https", "x", 443)) == ("http://a", "http://c")
    assert EnvironmentProxies({"all_proxy": "a", "no_proxy": "x", "NO_PROXY": "y"}).find("http", "y", 80) == "http://a"


@pytest.mark.parametrize(
    ("entry", "host", "port", "excluded"),
    [
        ("*", "x.test", 80, True),
        ("x.test", "x.test", 80, True),
        ("X.Test", "x.test", 80, True),
        ("x.test", "www.x.test", 80, True),
        ("x.test", "wwwx.test", 80, False),
        (".x.test", "www.x.test", 80, True),
        ("*.x.test", "www.x.test", 80, True),
        ("test", "x.test", 80, True),
        ("x.test:80", "x.test", 80, True),
        ("x.test:81", "x.test", 80, False),
        ("localhost", "localhost", 80, True),
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("127.0.0.1:81", "127.0.0.1", 80, False),
        ("7.0.0.1", "127.0.0.1", 80, False),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("10.0.0.0/8", "x.test", 80, False),
        ("::1", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:81", "::1", 80, False),
        ("fd00::/8", "fd00::1", 80, True),
        ("fd00::/8", "10.0.0.1", 80, False),
        ("10.0.0.0/99", "10.0.0.1", 80, False),
        (":80", "x.test", 80, False),
    ],
)
def test_exclusions(entry: str, host: str, port: int, *, excluded: bool) -> None:
    """Names with all below them, addresses, networks, each perhaps with a port."""
    found = EnvironmentProxies({"ALL_PROXY": "http://p", "NO_PROXY": f"other.test , {entry},, "})
    assert (found.find("http", host, port) is None) == excluded


def test_unusable_variables_are_named() -> None:
    """Only those that count."""
    socks = {"ALL_PROXY": "socks5h://a:1"}
    assert EnvironmentProxies(socks).unusable() == ["ALL_PROXY"]
    assert EnvironmentProxies({**socks, "HTTP_PROXY": "a", "https_proxy": "https://b"}).unusable() == []
    assert EnvironmentProxies({"HTTP_PROXY": "http://a/x", "HTTPS_PROXY": "a:b"}).unusable() == [
        "HTTPS_PROXY",
        "HTTP_PROXY",
    ]
