"""`creche check`: what is in force, in the words of the configuration."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from creche.config import Config, load
from creche.config_render import as_toml, tables
from creche.errors import ConfigError

if TYPE_CHECKING:
    from tests.cli.conftest import Run

EXAMPLE = Path(__file__).parent.parent.parent / "config.toml"
ENVIRON = {
    "HOME": "/",
    "CRECHE_TOKEN": "geheim-1",
    "REDIS_PASSWORD": "geheim-2",
    "SIMULATOR_KEY": "geheim-3",
    "REPLICATE_API_TOKEN": "geheim-4",
    "FAL_KEY": "geheim-5",
    "OPENAI_API_KEY": "geheim-6",
    "TRACES_TOKEN": "geheim-7",
    "EVENTS_TOKEN": "geheim-8",
    "CRECHE_CALLBACK_SECRET": f"whsec_{6 * 'geheim+7'}",
    "CRECHE_CALLBACK_SECRET_OLD": f"whsec_{6 * 'geheim+8'}",
    "BILLING_WEBHOOK_SECRET": f"whsec_{6 * 'geheim+9'}",
    "BILLING_WEBHOOK_SECRET_OLD": f"whsec_{6 * 'geheim+0'}",
}
ODD = r"""
[socket]
path = "a \"b\"\\\u007f\u00e9.sock"
mode = "600"
allow_uids = [7, 3]
[http]
max_request = "1025B"
[store]
keep_for = "1d1s"
[tasks]
deadline = "1h30m"
[log]
level = "DEBUG"
[algorithms."a b.c"]
recipe = "mine.toml"
base = "http://[::1]:1/x"
params = { text = "\" }\n", "odd name" = 1.5, flag = true }
in_flight = 3
timeout = "150ms"
poll_every = "70ms"
poll_grow = 1.1
"""
RECIPE = """
params = { text.about = "t", "odd name" = { about = "n", default = 1 }, flag = { about = "f", default = false } }
poll = { url = "/", status = "", statuses = { failed = ["x"] } }
"""


def config_of(text: str, folder: Path, environ: Mapping[str, str] = ENVIRON) -> Config:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ)


def mistakes(text: str, folder: Path, environ: Mapping[str, str] = ENVIRON) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_of(text, folder, environ)
    return [mistake.removeprefix(f"{folder / 'config.toml'}: ") for mistake in caught.value.mistakes]


def everything() -> str:
    """config.toml with every setting on."""
    return re.sub(r"^#(?=[a-z\[])", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("text", ["", everything(), ODD], ids=["nothing", "everything", "odd"])
def test_what_is_in_force_can_be_read_again(tmp_path: Path, text: str) -> None:
    """The printed TOML, in whatever folder, is the same configuration; the JSON says the same."""
    (tmp_path / "mine.toml").write_text(RECIPE)
    loaded = config_of(text, tmp_path)
    shown = tables(loaded)
    (tmp_path / "elsewhere").mkdir()
    again = config_of(as_toml(shown), tmp_path / "elsewhere")
    assert msgspec.structs.replace(again, source=loaded.source) == loaded
    assert tables(again) == json.loads(json.dumps(shown))


def test_what_is_in_force_is_in_the_words_of_the_file(tmp_path: Path) -> None:
    """Every key that config.toml has is there, with the value that it has there."""
    text = everything()
    shown = tables(config_of(text, tmp_path))
    written = tomllib.loads(text)
    first = written["algorithms"]["rehearsal"]
    assert {name: shown[name] for name in written if name != "algorithms"} == {
        name: table for name, table in written.items() if name != "algorithms"
    }
    assert shown["algorithms"]["rehearsal"] == first


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Secrets are shown as they are written: by their names."""
    shown = as_toml(tables(config_of(everything(), tmp_path)))
    assert "geheim" not in shown
    assert 'token = "${env:CRECHE_TOKEN}"' in shown
    assert 'url = "redis://creche:${env:REDIS_PASSWORD}@127.0.0.1:6379/0"' in shown


def test_a_password_in_an_address_is_masked(tmp_path: Path) -> None:
    """Of a provider's address all but the password is shown."""
    text = '[algorithms.x]\nrecipe = "simulator"\nbase = "https://me:geheim@example.com:1/x?password=geheim"'
    assert 'base = "https://me:***@example.com:1/x?password=***"' in as_toml(tables(config_of(text, tmp_path)))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:geheim@h",
        "redis://u:geheim@${env:HOST}",
        "redis://u:geheim${env:HOST}@h",
        "unix:///run/r.sock?db=1&password=geheim",
    ],
)
def test_a_password_in_plain_text_is_a_mistake(tmp_path: Path, url: str) -> None:
    """A reference elsewhere in the address does not excuse it."""
    (mistake,) = mistakes(f'[heartbeats]\nurl = "{url}"', tmp_path, {"HOST": "h"})
    assert mistake.startswith("heartbeats.url: the password stands in plain text")
    assert "geheim" not in mistake


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('[tcp]\ntoken = "${env:EMPTY}"', "tcp.token: EMPTY is empty in the environment"),
        ('[tcp]\ntoken = "${credential:empty}"', "tcp.token: credential empty is empty"),
        ("[tcp]\ntoken = 4711", "tcp.token: a secret does not belong in this file"),
        ("[tcp]\nport = -1", "tcp.port: expected a number of at least 0, got -1"),
        (f"[store]\nkeep_count = {10**20}", f"store.keep_count: expected a number of at most {10**12}, got a longer"),
        (f'[http]\nmax_request = "{10**14}GiB"', "http.max_request: expected a size of at most 1024GiB, got "),
        (f'[socket]\npath = "/{"x" * 107}"', f"socket.path: /{'x' * 107} is longer than the 107 bytes"),
        ("[socket]\nmode = 0660", "no valid TOML: "),
        ("[socket]\nallow_uids = [4294967295]", "socket.allow_uids: expected a list of user ids"),
        ('[algorithms.x]\nrecipe = "simulator"\nbase = "http://["', "algorithms.x.base: expected a URL such as"),
        (
            f'[algorithms.x]\nrecipe = "simulator"\npoll_grow = {"9" * 400}',
            "algorithms.x.poll_grow: expected less, got a longer number",
        ),
        (
            f'[algorithms.x]\nrecipe = "bentoml"\nparams = {{ path = {10**30} }}',
            "algorithms.x.params.path: expected a number of at most 64 bits",
        ),
        ('[algorithms.x]\nrecipe = "\\u0000.toml"', "algorithms.x.recipe: "),
        ("[webhooks.x]", "webhooks.x.url: "),
        ('[webhooks.callback]\nurl = "https://h"', "webhooks.callback: expected a name"),
        ('[webhooks.x]\nurl = "ftp://h/"', "webhooks.x.url: expected https://HOST/PATH"),
        ('[webhooks.x]\nurl = "https://h/ü"', "webhooks.x.url: expected https://HOST/PATH"),
        ('[webhooks.x]\nurl = "https://me:pw@h/"', "webhooks.x.url: the password stands in plain text"),
        ('[webhooks.x]\nurl = "https://h"\nsecret = "${env:SHORT}"', "webhooks.x.secret: expected whsec_ and 24 to 64"),
        ('[webhooks.x]\nurl = "https://h"\nstatuses = ["done"]', 'webhooks.x.statuses: "done" is no end of a task'),
        ('[callbacks]\nold_secret = "${env:GOOD}"', "callbacks.old_secret: is for the time in which"),
        (f"x = {'9' * 5000}", "no valid TOML: "),
        (f"x = {'[' * 5000}", "no valid TOML: "),
    ],
)
def test_what_cannot_be_used_is_a_mistake(tmp_path: Path, text: str, mistake: str) -> None:
    """Never another exception: a reload must survive every file."""
    (tmp_path / "empty").write_text("\n")
    secrets = {"EMPTY": " ", "SHORT": "whsec_bWFk", "GOOD": "whsec_" + 12 * "bWFk"}
    found = mistakes(text, tmp_path, {**secrets, "CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert found[0].startswith(mistake)


def test_a_mode_without_quotes_is_explained(tmp_path: Path) -> None:
    """TOML knows no numbers with a leading zero, and its own message does not say so."""
    (mistake,) = mistakes("[socket]\nmode = 0660\n", tmp_path)
    assert 'file modes stand in quotes: mode = "0660"' in mistake


def test_a_path_may_name_a_home_that_is_not_there(tmp_path: Path) -> None:
    """A path of a user who does not exist is taken as it stands; opening it will tell."""
    assert config_of('[store]\npath = "~nobody-of-this-name/x"', tmp_path).store.path.name == "x"


def test_check_prints_toml(creche: Run, tmp_path: Path) -> None:
    """With --print what is in force is printed as TOML; with --json as one object with real types."""
    path = tmp_path / "config.toml"
    path.write_text('[algorithms.rehearsal]\nrecipe = "simulator"\n')
    ran = creche("check", "--config", str(path), "--print")
    assert (ran.code, ran.err) == (0, "")
    data = tomllib.loads(ran.out)
    assert data["tcp"] | {"enabled": True, "port": 8787} == data["tcp"]
    assert data["store"]["keep_for"] == "30d"
    (value,) = creche("check", "--config", str(path), "--print", "--json").values
    assert value["tcp"]["token"] is None
    assert value["algorithms"] == {"rehearsal": data["algorithms"]["rehearsal"] | {"secret": None}}


def test_check_prints_every_mistake(creche: Run, tmp_path: Path) -> None:
    """With mistakes each has its line, and the exit code is 78."""
    path = tmp_path / "config.toml"
    path.write_text("[socket]\nmodes = 1\n[stroe]\n")
    ran = creche("check", "--config", str(path))
    assert (ran.code, ran.out) == (78, "")
    assert "did you mean" in ran.err
    assert len(ran.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("own", "in_force"),
    [
        ("", (2, 10.0, 5.0)),
        ("in_flight = 7\ncreate_rate = '1/s'", (7, 1.0, 5.0)),
        ("in_flight = 0\ncreate_rate = ''\npoll_rate = ''", (None, None, None)),
    ],
    ids=["the-recipe-s", "some-own", "none"],
)
def test_what_a_recipe_knows_of_limits_holds_unless_said_otherwise(
    tmp_path: Path, own: str, in_force: tuple[int | None, float | None, float | None]
) -> None:
    """An algorithm may have other limits, or none."""
    caps = 'caps = { in_flight = 2, create_rate = "600/m", poll_rate = "5/s" }\n'
    poll = 'poll = { url = "/", status = "", statuses = { failed = ["x"] } }\n'
    (tmp_path / "mine.toml").write_text(caps + poll, encoding="utf-8")
    text = f'[algorithms.x]\nrecipe = "mine.toml"\nbase = "https://x.example"\n{own}\n'
    section = config_of(text, tmp_path).algorithms["x"]
    assert (section.in_flight, section.creates_per_s, section.polls_per_s) == in_force


def test_files_are_saved_only_where_a_recipe_names_some(tmp_path: Path) -> None:
    """Else nobody would know which."""
    poll = 'poll = { url = "/", status = "", statuses = { failed = ["x"] } }\n'
    text = '[algorithms.x]\nrecipe = "mine.toml"\nbase = "https://x.example"\nassets = "save"\n'
    (tmp_path / "mine.toml").write_text(poll, encoding="utf-8")
    assert mistakes(text, tmp_path) == ['algorithms.x.assets: leave it out: recipe "mine" names no files']
    (tmp_path / "mine.toml").write_text(f'assets.urls = "/files"\n{poll}', encoding="utf-8")
    assert config_of(text, tmp_path).algorithms["x"].assets == "save"
