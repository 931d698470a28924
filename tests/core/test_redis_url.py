"""What a Redis URL says, and what is said of one that cannot be read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.core.redis_url import RedisAddress, read_redis_url

LOGIN = {"username": "me", "password": "p@ss:w/rd"}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", {"kind": "standalone", "hosts": (("h", 6379),)}),
        ("redis://h:7/3", {"kind": "standalone", "hosts": (("h", 7),), "db": 3}),
        ("redis://[::1]:7", {"kind": "standalone", "hosts": (("::1", 7),)}),
        ("redis://bücher.example", {"kind": "standalone", "hosts": (("xn--bcher-kva.example", 6379),)}),
        ("redis://:secret@h", {"kind": "standalone", "hosts": (("h", 6379),), "login": {"password": "secret"}}),
        (
            "rediss://me:p%40ss%3Aw%2Frd@h?ssl_ca_certs=/ca.pem",
            {
                "kind": "standalone",
                "hosts": (("h", 6379),),
                "tls": True,
                "login": LOGIN,
                "options": {"ssl_ca_certs": "/ca.pem"},
            },
        ),
        ("unix:///run/r.sock", {"kind": "standalone", "path": "/run/r.sock"}),
        ("unix:///run/redis@1/r.sock", {"kind": "standalone", "path": "/run/redis@1/r.sock"}),
        (
            "unix://me:p%40ss%3Aw%2Frd@/run/r.sock?db=2",
            {"kind": "standalone", "path": "/run/r.sock", "db": 2, "login": LOGIN},
        ),
        (
            "redis+sentinel://a,b:7,[::1]/it/4",
            {"kind": "sentinel", "hosts": (("a", 26379), ("b", 7), ("::1", 26379)), "service": "it", "db": 4},
        ),
        (
            "rediss+sentinel://a/it?sentinel_username=s&sentinel_password=t",
            {
                "kind": "sentinel",
                "hosts": (("a", 26379),),
                "service": "it",
                "tls": True,
                "sentinel_login": {"username": "s", "password": "t"},
            },
        ),
        ("redis+cluster://a,b:7", {"kind": "cluster", "hosts": (("a", 6379), ("b", 7))}),
    ],
)
def test_a_url_is_read(url: str, address: dict[str, Any]) -> None:
    """Every form, with its defaults."""
    assert read_redis_url(url) == RedisAddress(**address)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://h", "begins with redis://"),
        ("redis://", "names no host"),
        ("redis://h:port", "cannot be read"),
        ("redis://me:se#cret@h", "cannot be read|names no host|begins|option"),
        ("redis://h/nine", "must be a number"),
        ("redis://h?colour=red", "an option that is not known"),
        ("redis://h?ssl_ca_certs=/ca.pem", "an option that is not known"),
        ("redis://a,b", "several hosts are those of"),
        ("unix://relative", "absolute path"),
        ("redis+sentinel://a", "names no service"),
        ("redis+sentinel://me:12/cret@h", "%-encoded"),
        ("unix://me:12@/cret@/run/r.sock", "%-encoded"),
        ("redis+sentinel://me:secret@a,me:secret@b/it", "once, before all hosts"),
        ("redis+cluster://a/3", "one database only"),
    ],
)
def test_what_is_wrong_is_said(url: str, complaint: str) -> None:
    """And what would be right; no part of a password is repeated."""
    with pytest.raises(ValueError, match=complaint) as caught:
        read_redis_url(url)
    assert "cret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    """Not by repr, not by the label, and not in what a server says."""
    address = read_redis_url("redis+sentinel://me:geheim@a,b:7/it?sentinel_password=auchgeheim")
    assert repr(address) == "RedisAddress(a:26379,b:7)"
    assert address.without_password("ERR 'geheim' and 'auchgeheim'") == "ERR '***' and '***'"
    assert "geheim" not in str(msgspec.structs.replace(address, db=1))
