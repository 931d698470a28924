"""The reference against the code, both ways: what the code knows is on the page, what is on the page the code knows.

A page is compared by its tables: the first cell of a row names what the row is about, in backquotes.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import click
import msgspec
import pytest

from creche import config
from creche.cli import Exit
from creche.cli.app import COMMANDS, app
from creche.core import recording, wire, wire_status, wire_webhooks
from creche.core.document import Table
from creche.core.histogram import COUNTS, LONG_SECONDS, Histogram
from creche.core.polling import CONDITIONS
from creche.core.reading import JobStatus, Progress, Source
from creche.core.recipe import OURS, load_recipe
from creche.core.task import Outcome, Status
from creche.core.wire_status import FleetOut
from creche.edges import api, stream, stream_broadcast, stream_sending
from creche.edges.api_routes import Route
from creche.edges.metrics import Metrics, Snapshot
from creche.errors import ConfigError, CrecheError, RefusedError, UnavailableError

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"
MODULES = sorted((ROOT / "daemon/creche").rglob("*.py"))

Rows = dict[str, list[str]]


def sections(page: str) -> dict[str, str]:
    """The text below each heading of a page, up to the next heading of any level."""
    text = re.sub(r"^```.*?^```$", "", (REFERENCE / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(page: str, heading: str) -> Rows:
    """The table below a heading: every name in backquotes of a first cell, with the other cells of its row."""
    found: Rows = {}
    for line in sections(page)[heading].splitlines():
        if line.startswith("|"):
            first, *cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", first), cells)
    return found


def fields(struct: type[msgspec.Struct]) -> set[str]:
    return set(struct.__struct_fields__)


def subclasses(cls: type[CrecheError]) -> Iterator[type[CrecheError]]:
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("creche."):  # tests make classes of their own
            yield sub
            yield from subclasses(sub)


def calls(*names: str) -> Iterator[tuple[ast.Module, ast.Call]]:
    """Every call of a function with one of these names, with its module."""
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
                yield tree, node


def texts(tree: ast.Module, node: ast.expr) -> set[str]:
    """The texts that an expression may be: its own, and those of the names in it that the module assigns."""
    found = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    for assign in ast.walk(tree):
        if isinstance(assign, ast.Assign) and ast.unparse(assign.targets[0]) in names:
            found |= texts(tree, assign.value)
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The file and the dotted place of every key that is asked for while documents are read."""
    places: set[tuple[str, str]] = set()
    value = Table.value

    def value_and_note(self: Table, key: str, default: object, convert: Callable[[object], object]) -> object:
        places.add((Path(self._source).name, self.at(key)))
        return value(self, key, default, convert)

    monkeypatch.setattr(Table, "value", value_and_note)
    return places


# -- configuration ----------------------------------------------------------------------------------------------------


def config_keys(asked: set[tuple[str, str]], folder: Path) -> dict[str, set[str]]:
    """The keys of the configuration by their tables, as its reader asks for them."""
    path = folder / "config.toml"
    path.write_text('[algorithms.NAME]\nrecipe = "simulator"\n[webhooks.NAME]\n[analytics.NAME]\n', encoding="utf-8")
    with suppress(ConfigError):  # what is required of a webhook is missing
        config.load(path, {"HOME": "/"})
    keys: dict[str, set[str]] = {}
    for file, place in asked:
        table, _, key = place.rpartition(".")
        if file == path.name and table and place not in {"algorithms.NAME", "analytics.NAME", "webhooks.NAME"}:
            keys.setdefault(table, set()).add(key)
    return keys


def test_every_key_of_the_configuration(asked: set[tuple[str, str]], tmp_path: Path) -> None:
    """docs/reference/config.md has a section for each table and in it a row for each key, and no others."""
    keys = config_keys(asked, tmp_path)
    assert {table for table in sections("config.md") if table.startswith("`[")} == {f"`[{table}]`" for table in keys}
    assert {table: set(rows("config.md", f"`[{table}]`")) for table in keys} == keys


def test_the_example_has_every_key_of_the_configuration(asked: set[tuple[str, str]], tmp_path: Path) -> None:
    """config.toml, with its settings all on, has each key of each table; its first algorithm stands for all."""
    keys = config_keys(asked, tmp_path)
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    data = tomllib.loads(re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE))
    shown = {table: set(data[table]) for table in data if table not in {"algorithms", "analytics", "webhooks"}}
    shown["webhooks.NAME"] = set(data["webhooks"]["billing"])
    shown["analytics.NAME"] = set(data["analytics"]["warehouse"])
    shown["algorithms.NAME"] = {*data["algorithms"]["rehearsal"], "plugin"}  # which takes the recipe's place
    assert shown == keys


def test_the_defaults_of_the_configuration() -> None:
    """The defaults that config.toml shows are those on the page."""
    shown: dict[str, dict[str, str]] = {}
    for line in (ROOT / "config.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            table = shown.setdefault(line.strip("[]"), {})
        elif re.match(r"[a-z]", line):
            key, _, value = line.partition(" = ")
            table[key] = f"`{value}`"
    for table_name, values in shown.items():
        if not table_name.startswith("algorithms."):  # there most defaults are the recipe's
            documented = rows("config.md", f"`[{table_name}]`")
            assert {key: documented[key][0] for key in values} == values


# -- recipes ----------------------------------------------------------------------------------------------------------

RECIPE = """
[auth]
X = "{jwt}"
[auth.jwt]
claims = { iss = "me" }
[params.NAME]
about = "a parameter"
[envelope]
ok = { "/code" = 0 }
[create]
url = "/{token}"
id = "/id"
repeat = "lookup"
[lookup]
url = "/"
tag = "/tag"
id = "/id"
[poll]
url = "/"
[[poll.rules]]
then = "lost"
http = 404
[many]
url = "/"
max = 2
id = "/id"
[fetch]
url = "/"
[assets]
urls = "/url"
[cancel]
url = "/"
"""


def test_every_key_of_a_recipe(asked: set[tuple[str, str]]) -> None:
    """docs/reference/recipes.md has a row for each key of each table of a recipe, and no others."""
    load_recipe("all", tomllib.loads(RECIPE), "all.toml")
    keys: dict[str, set[str]] = {}
    for _, place in asked - {("all.toml", "params.NAME"), ("all.toml", "auth.X")}:
        table, _, key = place.replace("[0]", "").rpartition(".")
        keys.setdefault(table, set()).add(key)
    headings = {"": "Top level", "poll.rules": "`[[poll.rules]]`"}
    assert {table: set(rows("recipes.md", headings.get(table, f"`[{table}]`"))) for table in keys} == keys


def test_every_meaning_of_a_provider_status() -> None:
    """The recipes' page explains each meaning that a provider's word can have."""
    assert set(rows("recipes.md", "`[poll.statuses]`")) == set(JobStatus)


def test_sources_progress_and_templates() -> None:
    """The recipes' page names all parts of a source and of a progress, and all names of creche's own."""
    assert set(rows("recipes.md", "Sources")) == fields(Source)
    assert set(rows("recipes.md", "Progress")) == fields(Progress)
    assert set(rows("recipes.md", "Templates")) == OURS | {"keep.NAME"}


# -- commands ---------------------------------------------------------------------------------------------------------

GROUP = "Options of every command that talks to the daemon"


def options(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


def documented_options(heading: str) -> set[str]:
    return {option.split()[0] for option in rows("cli.md", heading)}


def commands() -> dict[str, click.Command]:
    """Every command by its whole name; of a group those within."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = app.get_command(click.Context(app), name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": child for sub, child in command.commands.items()}
        else:
            found[name] = command
    return found


def named_in(heading: str) -> str:
    """The command that a section is about, without its arguments, which are in capitals."""
    return " ".join(word for word in heading.strip("`").split()[1:] if word.islower())


def test_every_command() -> None:
    """docs/reference/cli.md has a section for each command, and no others."""
    headings = [heading for heading in sections("cli.md") if heading.startswith("`creche ")]
    assert sorted(map(named_in, headings)) == sorted(commands())


@pytest.mark.parametrize("command", commands())
def test_every_option(command: str) -> None:
    """The section of a command has a row for each of its options but those common to all, and no others."""
    [heading] = [found for found in sections("cli.md") if found.startswith("`creche ") and named_in(found) == command]
    assert documented_options(heading) == options(commands()[command]) - documented_options(GROUP)


def test_the_common_options() -> None:
    """The options common to all commands are those of `creche` itself."""
    assert documented_options(GROUP) == options(app) - {"--version"}


def test_every_exit_code() -> None:
    """The page lists each exit code, and no others."""
    codes = re.findall(r"^\| (\d+) \|", sections("cli.md")["Exit codes"], re.MULTILINE)
    assert list(map(int, codes)) == sorted(Exit)


# -- API and stream ---------------------------------------------------------------------------------------------------


def routes() -> list[Route]:
    nothing: dict[str, object] = dict.fromkeys(("supervisor", "journal", "feed", "events", "outbox", "access", "view"))
    return api.Api(**nothing)._table()  # type: ignore[arg-type]


def test_every_route() -> None:
    """docs/reference/api.md lists each route, with whether it writes and what it does, and has a section for it."""
    table = {name: cells for name, cells in rows("api.md", "API").items() if " /" in name}
    known = {f"{route.method} {route.path}": ["yes" if route.writes else "", route.summary] for route in routes()}
    assert table == known
    assert {heading.strip("`") for heading in sections("api.md") if heading.startswith("`")} == set(known)


@pytest.mark.parametrize("route", routes(), ids=lambda route: f"{route.method} {route.path}")
def test_every_query_parameter(route: Route) -> None:
    """The section of a route has a row for each query parameter, and no others."""
    assert set(rows("api.md", f"`{route.method} {route.path}`")) == set(route.query or ())


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("A task in", wire.TaskIn),
        ("A task out", wire.TaskOut),
        ("A decision", wire.ResolveIn),
        ("A page", wire.Page),
        ("Results", wire.Results),
        ("Messages", wire_webhooks.Deliveries),
        ("A message", wire_webhooks.DeliveryOut),
        ("An algorithm", wire_status.AlgorithmOut),
        ("The status", wire_status.StatusOut),
        ("A problem", wire.Problem),
    ],
)
def test_every_field(heading: str, struct: type[msgspec.Struct]) -> None:
    """The API's page has a row for each field of each body, and no others."""
    assert set(rows("api.md", heading)) == fields(struct)


def test_every_message_of_the_stream() -> None:
    """docs/reference/stream.md lists each type of message with its fields, and no others."""
    known = [*vars(wire).values(), *vars(wire_status).values()]
    structs = [found for found in known if isinstance(found, type) and issubclass(found, msgspec.Struct)]
    messages = {str(cls.__struct_config__.tag): cls for cls in structs if cls.__struct_config__.tag_field == "type"}
    documented = {
        type_: set(re.findall(r"`(\w+)`", cells[0])) for type_, cells in rows("stream.md", "Messages").items()
    }
    assert documented == {type_: fields(cls) for type_, cls in messages.items()}


def test_the_query_and_the_times_of_the_stream() -> None:
    """The stream's page lists the query parameters and the codes that it closes with, and its times are the code's."""
    [query] = [call for _, call in calls("Query") for word in call.keywords if ast.unparse(word.value).count("since")]
    known = eval(ast.unparse(query.keywords[0].value), vars(stream))  # noqa: S307 - our own source
    assert set(rows("stream.md", "Query parameters")) == set(known)
    closing = sections("stream.md")["Close codes"]
    assert f"| {stream.GOING_AWAY} |" in closing
    assert f"one message within {stream_sending.SEND_S:g} seconds" in closing
    assert f"every {stream_sending.PING_EVERY_S:g} seconds" in closing
    assert f"within {stream_broadcast.GATHER_S * 1000:g} ms" in sections("stream.md")["Promises"]


# -- errors -----------------------------------------------------------------------------------------------------------

API, DAEMON, PROVIDERS = "Codes of the API", "Codes of the daemon and the command line", "Errors of providers"
FAMILIES = {"error", "refused", "unavailable", "provider_error"}


def refusals() -> set[tuple[str, str]]:
    """Code and HTTP status of every refusal; the status is "" where it is not written at the place."""
    found = set()
    for tree, call in calls("problem_response", "Refusal"):
        if len(call.args) > 1:
            status = call.args[0].value if isinstance(call.args[0], ast.Constant) else ""
            found |= {(code, str(status)) for code in texts(tree, call.args[1])}
    for cls in [*subclasses(RefusedError), *subclasses(UnavailableError)]:
        if cls.code != "heartbeats_unreachable":  # the pulse's own; no request meets it
            found.add((cls.code, str(api._status_of(cls("")))))
    return found


def test_every_refusal_of_the_api() -> None:
    """docs/reference/errors.md lists each code with which a request can be refused and its HTTP status, no others."""
    documented = {code: cells[0].split(", ") for code, cells in rows("errors.md", API).items()}
    known = refusals()
    assert set(documented) == {code for code, _ in known}
    assert [(code, status) for code, status in known if status and status not in documented[code]] == []


def test_every_error_class() -> None:
    """The page lists the code of every class of errors."""
    import creche.client  # noqa: F401, PLC0415 - its errors are of the same tree

    listed = {code for heading in (API, DAEMON, PROVIDERS) for code in rows("errors.md", heading)}
    assert {cls.code for cls in subclasses(CrecheError)} - listed == FAMILIES
    assert all(f"`{code}`" in sections("errors.md")[DAEMON] for code in FAMILIES)


def test_every_condition() -> None:
    """The page explains each condition of a provider."""
    assert set(rows("errors.md", "Conditions")) == set(CONDITIONS)


def test_every_reason() -> None:
    """The page lists each reason that an outcome can have, under its status, and no others."""
    structs: dict[str, type[msgspec.Struct]] = {cls.__name__: cls for cls in Outcome.__args__}
    known = set()
    for name, cls in structs.items():
        status = cls.__struct_config__.tag
        known |= {(status, field.default) for field in msgspec.structs.fields(cls) if field.name == "reason"}
        for tree, call in calls(name):
            known |= {
                (status, text) for word in call.keywords if word.arg == "reason" for text in texts(tree, word.value)
            }
    known |= {("cancelled", text) for tree, call in calls("request_cancel") for text in texts(tree, call.args[1])}
    listed = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", sections("errors.md")["Outcome reasons"], re.MULTILINE)
    assert set(listed) == {(status, reason) for status, reason in known if isinstance(reason, str)}


# -- metrics, statuses -------------------------------------------------------------------------------------------------


def test_every_metric() -> None:
    """docs/reference/metrics.md lists each metric with its kind and labels, and no others."""
    snapshot = Snapshot(
        version="1",
        node="n",
        counts={("a", Status.WAITING): 1},
        conditions={"a": {"throttled": 1}},
        events=Counter({(event, "a", "good"): 1 for event in ("accepted", "settled", "creates", "polls", "assets")}),
        slots={"a": (1, 1)},
        breakers={"a": True},
        listeners=0,
        listeners_behind=0,
        feed_head=0,
        heartbeat_age_s=1.0,
        loop_lag=Histogram(),
        poll_lateness=Histogram(),
        oldest_s={"a": 1.0},
        durations={"a": Histogram(LONG_SECONDS)},
        latency={("a", "poll"): Histogram()},
        commit_s=Histogram(),
        batches=Histogram(COUNTS),
        webhooks={("e", "good"): 1},
        outbox=(1, 1),
        store_fault=False,
        heartbeats_fault=False,
        draining=False,
        fleet=FleetOut(member="n", lease_s=1.0, nodes=[], orphans={}, waiting=0, tasks={}, adopted=0),
    )
    known = {
        metric.name if metric.type == "histogram" else sample.name: [
            metric.type,
            ", ".join(f"`{label}`" for label in sample.labels if label != "le"),
        ]
        for metric in Metrics(lambda: snapshot).collect()
        for sample in metric.samples
    }
    found = {name: cells[:2] for name, cells in rows("metrics.md", "Metrics").items()}
    assert found == known


def test_every_status() -> None:
    """docs/explanation/statuses.md explains each status, in the order of the code."""
    page = (ROOT / "docs/explanation/statuses.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(Status)


# -- recordings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("The recording", recording.Recording),
        ("An exchange", recording.Exchange),
        ("A request", recording.Sent),
        ("An answer", recording.Answered),
        ("A scene", recording.Scene),
    ],
)
def test_every_member_of_a_recording(heading: str, struct: type[msgspec.Struct]) -> None:
    """The page has a row for each member, and no others."""
    assert set(rows("recordings.md", heading)) == {field.encode_name for field in msgspec.structs.fields(struct)}
