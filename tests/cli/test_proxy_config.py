"""`proxy` and `http2` in the configuration: what they default to, what is wrong, and that no password is shown."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from creche.config import Config, load
from creche.config_render import as_toml, tables
from creche.errors import ConfigError
from creche.service_parts import routes_of

ALGORITHM = '[algorithms.x]\nrecipe = "simulator"\n'
ENVIRON = {"PW": "ge%3Aheim", "PROXY": "http://me:geheim@proxy.test:1", "BAD": "geheim", "PORT": "geheim"}


def config_of(text: str, folder: Path, environ: dict[str, str] = ENVIRON) -> Config:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ)


def mistakes(text: str, folder: Path, environ: dict[str, str] = ENVIRON) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(text, folder, environ)
    return [mistake.removeprefix(f"{folder / 'config.toml'}: ") for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("upstream", "algorithm", "route"),
    [
        ("", "", (None, False)),
        ('proxy = ""', "http2 = true", (None, True)),
        ('proxy = "http://p"\nhttp2 = true', "", ("http://p", True)),
        ('proxy = "http://p"\nhttp2 = true', 'proxy = ""\nhttp2 = false', (None, False)),
        ('proxy = "http://p"', 'proxy = "environment"', ("environment", False)),
        ('proxy = "http://me:${env:PW}@p:3128/"', "", ("http://me:ge%3Aheim@p:3128/", False)),
        ("", 'proxy = "${env:PROXY}"', ("http://me:geheim@proxy.test:1", False)),
    ],
)
def test_an_algorithm_says_otherwise_or_nothing(
    tmp_path: Path, upstream: str, algorithm: str, route: tuple[str | None, bool]
) -> None:
    """What an algorithm leaves out is as in [upstream]; an empty proxy is none."""
    config = config_of(f"[upstream]\n{upstream}\n{ALGORITHM}{algorithm}", tmp_path)
    assert routes_of(config) == [route]


def test_the_default_is_neither(tmp_path: Path) -> None:
    """Whatever the environment says."""
    assert routes_of(config_of(ALGORITHM, tmp_path, {"HTTPS_PROXY": "http://p"})) == [(None, False)]


def test_no_password_is_shown(tmp_path: Path) -> None:
    """Neither by a repr, which logs may show, nor by `creche check`, which shows what is written."""
    config = config_of(f'[upstream]\nproxy = "http://me:${{env:PW}}@p"\n{ALGORITHM}proxy = "${{env:PROXY}}"', tmp_path)
    shown = as_toml(tables(config))
    assert 'proxy = "http://me:${env:PW}@p"' in shown
    assert 'proxy = "${env:PROXY}"' in shown
    assert "heim" not in shown + repr(config)


@pytest.mark.parametrize(
    ("proxy", "mistake"),
    [
        ("7", "expected a text in quotes"),
        ('"proxy:3128"', 'or "environment" (did you mean "http://proxy:3128"?)'),
        ('"enviroment"', 'or "environment" (did you mean "environment"?)'),
        ('"socks5://proxy:1"', "; SOCKS is not spoken"),
        ('"http://proxy/path"', 'expected "http://HOST:PORT", "https://HOST:PORT" or "environment"'),
        ('"http://proxy:99999"', 'expected "http://HOST:PORT", "https://HOST:PORT" or "environment"'),
        ('"http://proxy:${env:PORT}"', 'expected "http://HOST:PORT", "https://HOST:PORT" or "environment"'),
        ('"${env:BAD}"', 'expected "http://HOST:PORT", "https://HOST:PORT" or "environment"'),
        ('"me:geheim@proxy"', 'expected "http://HOST:PORT", "https://HOST:PORT" or "environment"'),
        (
            '"http://me:geheim@proxy"',
            "the password stands in plain text; write ${env:NAME} or ${credential:NAME} there",
        ),
        ('"${env:GONE}"', "the environment has no GONE"),
    ],
)
def test_mistakes(tmp_path: Path, proxy: str, mistake: str) -> None:
    """Each says what is expected, and shows nothing that may be secret."""
    for text, place in ((f"[upstream]\nproxy = {proxy}", "upstream"), (f"{ALGORITHM}proxy = {proxy}", "algorithms.x")):
        (found,) = mistakes(text, tmp_path)
        assert found.startswith(f"{place}.proxy: ")
        assert mistake in found
        assert "geheim" not in found


def test_a_proxy_of_the_environment_must_be_usable(tmp_path: Path) -> None:
    """Its variable is named, its value is not."""
    text = f'{ALGORITHM}proxy = "environment"'
    environ = {"HTTP_PROXY": "http://p", "HTTPS_PROXY": "socks5://me:geheim@p"}
    assert mistakes(text, tmp_path, environ) == [
        "algorithms.x.proxy: HTTPS_PROXY in the environment is no URL of an HTTP proxy: http://HOST:PORT or https://…"
    ]


def test_http2_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for without it, the configuration is wrong once, where it is asked for."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert mistakes(f"[upstream]\nhttp2 = true\n{ALGORITHM}", tmp_path) == [
        'upstream.http2: needs the package h2, which is not installed: pip install "creche[http2]"'
    ]


ON_A_SOCKET = f'{ALGORITHM}base = "http+unix://%2Frun%2Fx.sock"\n'


def test_a_provider_on_a_socket_has_neither(tmp_path: Path) -> None:
    """Whatever [upstream] says is for the others; what is shown is what holds."""
    config = config_of(f'[upstream]\nproxy = "http://p"\nhttp2 = true\n{ON_A_SOCKET}proxy = ""', tmp_path)
    assert routes_of(config) == [(None, False)]
    assert routes_of(config_of(as_toml(tables(config)), tmp_path)) == [(None, False)]


@pytest.mark.parametrize(
    ("asked", "mistake"),
    [
        (
            'proxy = "environment"',
            'proxy: no proxy leads to a Unix socket, which is where "http+unix://%2Frun%2Fx.sock" is; leave it out',
        ),
        (
            "http2 = true",
            'http2: a provider on a Unix socket, as "http+unix://%2Frun%2Fx.sock", is asked in HTTP/1.1; leave it out',
        ),
    ],
)
def test_a_provider_on_a_socket_cannot_ask_for_them(tmp_path: Path, asked: str, mistake: str) -> None:
    """What the algorithm itself says would be in vain."""
    assert mistakes(f"{ON_A_SOCKET}{asked}", tmp_path) == [f"algorithms.x.{mistake}"]
