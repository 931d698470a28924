"""Who may import whom, and why: the drawing of the house, held by a test."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "daemon" / "creche"

# Which other parts of the package a part may import. Imports point down only:
# cli → service → edges → engine → core → errors.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "core": {"errors"},
    "engine": {"core", "errors"},
    "edges": {"engine", "core", "errors"},
    "config": {"plugin", "core", "errors"},
    "client": {"core.wire", "errors"},
    "simulator": {"core", "errors"},
    "conformance": {"engine", "core", "errors"},
    "testing": {"conformance", "engine", "core", "errors"},
    "plugin": {"engine", "core", "errors"},
    "service": {"config", "plugin", "edges", "engine", "core", "errors"},
    "cli": {"service", "config", "client", "conformance", "simulator", "edges", "engine", "core", "errors"},
}

NETWORK = {
    "aiohttp", "h11", "h2", "hiredis", "http.client", "httpcore2", "httptools", "httpx", "httpx2", "prometheus_client",
    "redis", "requests", "select", "selectors", "socket", "socketserver", "ssl", "trio_websocket", "urllib.request",
    "wsproto",
}  # fmt: skip
FILES = {"glob", "io", "mmap", "os", "pathlib", "shutil", "sqlite3", "tempfile"}
THREADS = {"_thread", "concurrent", "multiprocessing", "queue", "threading"}
PROCESSES = {"signal", "subprocess"}
LOOPS = {"anyio", "asyncio"}
CLOCKS = {"sched", "time"}

# The files that hand calls of a blocking library to threads: those of the store, that of Redis, and name resolution,
# which Trio does in threads as well, but without a limit of its own.
THREAD_OWNERS = {
    "service_parts",
    "service_store",
    "edges.heartbeats_redis",
    "edges.store_redis_connect",
    "edges.upstream_addresses",
}

# The one file of the client that needs more than the standard library.
ASYNC_CLIENT = "client_trio"


def part_of(name: str) -> str:
    """`core` for `core.wire`, `client` for `client_http`."""
    top = name.partition(".")[0]
    return top if top.startswith("__") else top.partition("_")[0]


class Import(NamedTuple):
    """One name that a module imports: `a.b` for `import a.b`, `a.b.c` for `from a.b import c`."""

    module: str
    target: str
    line: int

    @property
    def own(self) -> str:
        """What is imported, named below the package: `core.wire.Result`. Empty if it is not ours."""
        return self.target.removeprefix("creche.") if self.target.startswith("creche.") else ""

    def is_of(self, names: Collection[str]) -> bool:
        """Whether it is one of these modules, or something in them."""
        return any(self.target == name or self.target.startswith(name + ".") for name in names)

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


class Module(NamedTuple):
    """A file of the package; `name` is its dotted name below the package."""

    name: str
    tree: ast.Module

    @property
    def part(self) -> str:
        return part_of(self.name)

    @property
    def subject(self) -> str:
        """`edges.front` for `edges.front_listening`: files that share what is before the first `_` are one subject."""
        return ".".join(name.partition("_")[0] for name in self.name.split(".")[:2])

    def imports(self) -> Iterator[Import]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: imports are written in full"
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                yield Import(self.name, target, node.lineno)

    def mentions(self, *expressions: str) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute | ast.Name) and (text := ast.unparse(node)) in expressions:
                yield f"{self.name}:{node.lineno} uses {text}"


def read(package: Path) -> list[Module]:
    """All modules below a folder. A package's `__init__` bears the package's name."""
    modules = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        modules.append(Module(name, ast.parse(path.read_text(encoding="utf-8"))))
    return modules


def imports_of(part: str, modules: list[Module]) -> Iterator[Import]:
    return (imported for module in modules if module.part == part for imported in module.imports())


# Each rule returns the breaches it finds; its docstring is the reason for it.
Rule = Callable[[list[Module]], list[str]]


def every_part_is_placed(modules: list[Module]) -> list[str]:
    """A part of the package that MAY_IMPORT does not name is held by no rule: give it a line there."""
    return [module.name for module in modules if module.part not in MAY_IMPORT]


def imports_point_down(modules: list[Module]) -> list[str]:
    """A part knows only what lies below it, so that each can be read, tested and replaced alone."""
    found = []
    for module in modules:
        below = MAY_IMPORT.get(module.part, set())
        for imported in module.imports():
            part = part_of(imported.own)
            if part not in MAY_IMPORT or part == module.part:  # not ours, `creche.__version__`, or a neighbour
                continue
            if part not in below and not any(imported.own.startswith(f"{file}.") for file in below):
                found.append(str(imported))
    return found


def edges_are_apart(modules: list[Module]) -> list[str]:
    """An edge is about one outside thing; what two of them share belongs below them."""
    edges = [module for module in modules if module.part == "edges"]
    return [
        str(imported)
        for edge in edges
        for imported in edge.imports()
        for other in edges
        if other.subject not in {"edges", edge.subject} and f"{imported.own}.".startswith(f"{other.name}.")
    ]


def core_imports_no_world(modules: list[Module]) -> list[str]:
    """The rules are plain functions: no loop, no clock, no files, no network, no log."""
    world = {"trio", "loguru", *NETWORK, *FILES, *THREADS, *PROCESSES, *CLOCKS}
    return [str(imported) for imported in imports_of("core", modules) if imported.is_of(world)]


def core_takes_values(modules: list[Module]) -> list[str]:
    """The rules take times and contents as values, so that a test needs no clock and no files."""
    acts = ("open", "print", "datetime.now", "datetime.utcnow", "datetime.today", "date.today")
    return [use for module in modules if module.part == "core" for use in module.mentions(*acts)]


def engine_imports_no_world(modules: list[Module]) -> list[str]:
    """The engine knows Trio and its own ports, so that it runs as well over a simulated world."""
    world = {*NETWORK, *FILES, *THREADS, *PROCESSES}
    return [str(imported) for imported in imports_of("engine", modules) if imported.is_of(world)]


def engine_uses_its_ports(modules: list[Module]) -> list[str]:
    """The engine reaches the world through its ports only, not through Trio's own files, sockets and threads."""
    ways = ["open", "print", *(f"trio.{name}" for name in ("Path", "socket", "open_file", "run_process", "to_thread"))]
    ways += [f"trio.open_{name}" for name in ("tcp_stream", "tcp_listeners", "unix_socket", "ssl_over_tcp_stream")]
    used = [use for module in modules if module.part == "engine" for use in module.mentions(*ways)]
    return used + [str(imported) for imported in imports_of("engine", modules) if imported.is_of(ways)]


def threads_have_owners(modules: list[Module]) -> list[str]:
    """A thread cannot be cancelled, so few files have one, each with its own limit and finite time-outs."""
    found = []
    for module in modules:
        if module.name not in THREAD_OWNERS:
            found += [str(imported) for imported in module.imports() if imported.is_of({"trio.to_thread", *THREADS})]
            found += module.mentions("trio.to_thread")
    return found


def client_is_light(modules: list[Module]) -> list[str]:
    """`creche submit` starts in a blink: the client is the standard library, its async half is on its own."""
    light = {*sys.stdlib_module_names, "creche"}
    return [
        str(imported)
        for imported in imports_of("client", modules)
        if imported.is_of({f"creche.{ASYNC_CLIENT}"})
        or imported.target.partition(".")[0] not in (light | {"trio"} if imported.module == ASYNC_CLIENT else light)
    ]


def one_loop(modules: list[Module]) -> list[str]:
    """Everything lives in one Trio loop; a second kind has other rules of cancellation."""
    return [str(imported) for module in modules for imported in module.imports() if imported.is_of(LOOPS)]


RULES: list[Rule] = [
    every_part_is_placed,
    imports_point_down,
    edges_are_apart,
    core_imports_no_world,
    core_takes_values,
    engine_imports_no_world,
    engine_uses_its_ports,
    threads_have_owners,
    client_is_light,
    one_loop,
]


@pytest.fixture(scope="module")
def house() -> list[Module]:
    return read(PACKAGE)


@pytest.mark.parametrize("rule", RULES)
def test_the_house_stands(rule: Rule, house: list[Module]) -> None:
    """The package keeps every rule of the drawing."""
    assert rule(house) == [], rule.__doc__


@pytest.mark.parametrize(
    ("rule", "file", "code"),
    [
        (every_part_is_placed, "attic.py", ""),
        (imports_point_down, "core/a.py", "from creche.engine.ports import Store"),
        (imports_point_down, "engine/a.py", "import creche.edges.api"),
        (imports_point_down, "edges/a.py", "from creche import config"),
        (imports_point_down, "edges/a.py", "def f():\n    from creche.service import serve"),
        (imports_point_down, "service.py", "from creche.testing import MemoryStore"),
        (imports_point_down, "client.py", "from creche.core.task import Task"),
        (edges_are_apart, "edges/api.py", "from creche.edges.front_listening import listen"),
        (edges_are_apart, "edges/api.py", "from creche.edges import front_listening"),
        (core_imports_no_world, "core/a.py", "import trio"),
        (core_imports_no_world, "core/a.py", "from os import path"),
        (core_takes_values, "core/a.py", "started = datetime.now(UTC)"),
        (engine_imports_no_world, "engine/a.py", "import sqlite3"),
        (engine_uses_its_ports, "engine/a.py", "trio.socket.socket()"),
        (engine_uses_its_ports, "engine/a.py", "from trio import open_file"),
        (threads_have_owners, "edges/api.py", "trio.to_thread.run_sync(f)"),
        (threads_have_owners, "service.py", "from threading import Thread"),
        (client_is_light, "client.py", "import trio"),
        (client_is_light, "client_http.py", "def f():\n    import httpx2"),
        (client_is_light, "client.py", "def f():\n    from creche.client_trio import AsyncClient"),
        (one_loop, "cli/a.py", "import asyncio"),
    ],
)
def test_a_breach_is_seen(rule: Rule, file: str, code: str, tmp_path: Path) -> None:
    """Each rule finds what it forbids: a test that sees nothing would hold nothing."""
    for path, text in {"edges/front_listening.py": "", file: code}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert len(rule(read(tmp_path))) == 1


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("edges/front.py", "from creche.edges.front_listening import listen"),
        ("service_parts.py", "trio.to_thread.run_sync(f)"),
        ("client_trio.py", "import trio\nfrom creche.client import Client\nfrom creche.core.wire import TaskIn"),
        ("cli/__init__.py", "from creche import __version__"),
    ],
)
def test_what_is_allowed_passes(file: str, code: str, tmp_path: Path) -> None:
    """The rules forbid nothing that the drawing allows."""
    for path, text in {"edges/front_listening.py": "", file: code}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert [breach for rule in RULES for breach in rule(read(tmp_path))] == []
