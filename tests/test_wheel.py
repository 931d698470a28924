"""The wheel has all that creche needs, and runs where nothing else of the checkout is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from creche import __version__

ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder of its own, with nothing of ours in its environment."""
    environ = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "CRECHE_CONFIG"}}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=100)  # noqa: S603 - ours


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, and what it was built from: the source distribution, as `python -m build` does it."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "daemon/creche", source / "daemon/creche", ignore=shutil.ignore_patterns("__pycache__"))
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_has_everything(distributions: tuple[Path, Path]) -> None:
    """Every file of the package that git knows, and nothing else."""
    wheel, _ = distributions
    tracked = subprocess.run(
        ("git", "ls-files", "daemon/creche"),  # noqa: S607 - the one in the path
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("creche/")}
    assert packed == {name.removeprefix("daemon/") for name in tracked}


def test_the_wheel_runs_alone(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """In a new environment that has the packages it needs: the command, every recipe, a check."""
    wheel, _ = distributions
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
    done = run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # What it depends on is taken from here; a path file brings the folder, not the editable creche in it.
    [site] = (tmp_path / "env/lib").glob("python3*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    creche = str(tmp_path / "env/bin/creche")
    assert run(creche, "--version", cwd=tmp_path).stdout == f"creche {__version__}\n"
    assert str(site) in run(str(python), "-c", "import creche; print(creche.__file__)", cwd=tmp_path).stdout
    recipes = run(creche, "recipes", "list", "--json", cwd=tmp_path).stdout.splitlines()
    assert len(recipes) == len(list((ROOT / "daemon/creche/recipes").glob("*.toml")))
    (tmp_path / "config.toml").write_text(
        '[socket]\npath = "s"\n[store]\npath = "x/db"\n[tcp]\nport = 0\n[algorithms.a]\nrecipe = "simulator"\n'
    )
    checked = run(creche, "check", "--config", "config.toml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_source_distribution_is_whole(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """A wheel can be made of it: the same files as in ours."""
    wheel, sdist = distributions
    unpacked = run("tar", "-xzf", str(sdist), cwd=tmp_path)
    assert unpacked.returncode == 0, unpacked.stderr
    [folder] = tmp_path.glob("creche-*")
    done = run(
        sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(folder), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [again] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(again) as theirs:
        assert ours.namelist() == theirs.namelist()
