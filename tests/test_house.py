"""The house rules that no linter knows."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import creche

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "daemon").rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "scripts").iterdir(), *(ROOT / ".ci").iterdir()])
LOCKS = sorted(ROOT.glob("requirements*.lock"))

MAX_LINES = 390
# Put together here, so that this file is free of them.
MARKS = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
STAND_INS = re.compile(
    "|".join(["Not" + "Implemented", r"\bmark\." + "skip", r"\bpytest\." + "skip", r"\bx" + r"fail\("])
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def texts() -> Iterator[tuple[Path, str]]:
    for folder in ("daemon", "tests", "scripts", "bench", "docs", "systemd", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if (
                path.suffix in {"", ".py", ".toml", ".md", ".html", ".js", ".css", ".service", ".socket"}
                and path.is_file()
            ):
                yield path, path.read_text(encoding="utf-8")


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def test_no_module_is_too_long() -> None:
    """A module of more than 390 lines has two subjects, and is split."""
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_nothing_is_left_for_later() -> None:
    """No file carries a mark of unfinished work: what is known to be missing is said in the docs, or done."""
    marked = [f"{name(path)}: {found[0]}" for path, text in texts() for found in MARKS.finditer(text)]
    assert marked == []


def test_nothing_stands_in_for_code_or_tests() -> None:
    """No function is a stub and no test is skipped or expected to fail."""
    found = [
        f"{name(path)}: {hit[0]}" for path, text in texts() for hit in STAND_INS.finditer(text) if path.suffix == ".py"
    ]
    assert found == []


def test_cancellation_is_never_caught() -> None:
    """No handler is bare or names BaseException: `trio.Cancelled` always passes."""
    caught = [
        f"{name(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and (node.type is None or "BaseException" in ast.unparse(node.type))
    ]
    assert caught == []


def test_every_module_says_what_it_is() -> None:
    """Every module that holds anything begins with a docstring."""
    silent = [
        name(path)
        for path in MODULES
        if (tree := ast.parse(path.read_text(encoding="utf-8"))).body and not ast.get_docstring(tree)
    ]
    assert silent == []


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_scripts_stop_at_the_first_mistake(script: Path) -> None:
    """Every script can be executed, is for bash, and ends when one of its commands fails."""
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert script.stat().st_mode & 0o111 == 0o111


@pytest.mark.parametrize("lock", LOCKS, ids=name)
def test_locks_name_no_index(lock: Path) -> None:
    """A lock says what to install, never from where: that is the machine's business."""
    found = re.findall(
        r"https?://|file://|--(?:extra-)?index-url|--find-links|--trusted-host", lock.read_text(encoding="utf-8")
    )
    assert found == []


@pytest.mark.parametrize("lock", LOCKS, ids=name)
def test_locks_pin_every_package_by_hash(lock: Path) -> None:
    """Each package has one exact version and the hashes of its files."""
    packages = re.split(r"^(?=[a-z])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert packages
    assert [line for line in packages if not re.match(r"[a-z0-9-]+==\S+ (;.*)?\\\n +--hash=sha256:", line)] == []


def test_locks_hold_what_the_project_asks_for() -> None:
    """What pyproject.toml names is in the lock, and both locks agree on what they share."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    runtime, dev = pins(ROOT / "requirements.lock"), pins(ROOT / "requirements-dev.lock")
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    asked_dev = [*asked, *project["project"]["optional-dependencies"]["dev"]]
    assert {_package(line) for line in asked} - runtime.keys() == set()
    assert {_package(line) for line in asked_dev} - dev.keys() == set()
    assert runtime.items() <= dev.items()


def test_the_changelog_knows_this_version() -> None:
    """The changelog begins with what is not yet released; a release right below that is the version of the code."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1:2] in ([], [creche.__version__])


def _package(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return match[0].lower().replace("_", "-").replace(".", "-")
