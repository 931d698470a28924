"""The units of systemd/: systemd reads them without complaint, and they agree with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from creche.cli import Exit
from creche.client import default_socket
from creche.config import load
from creche.edges.front_connection import LAST_S
from creche.engine.journal import CLOSE_GRACE_S
from creche.engine.supervisor import ON_WIRE_GRACE_S
from creche.service import FLUSH_S
from creche.service_watchdog import STATUS_EVERY_S

UNITS = Path(__file__).parent.parent / "systemd"
ANALYZE = shutil.which("systemd-analyze")


def options(unit: str) -> dict[str, list[str]]:
    """The options of a unit, all sections together; each may be given more than once."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (UNITS / unit).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            option, _, value = line.partition("=")
            found[option].append(value)
    return found


@pytest.fixture
def service() -> dict[str, list[str]]:
    return options("creche.service")


@pytest.fixture
def socket() -> dict[str, list[str]]:
    return options("creche.socket")


ALL = ("creche.service", "creche.socket", "creche-http.socket", "creche@.service", "creche@.socket")
MAX_EXPOSURE = 1.5


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The units, with a command that is there on any machine."""
    for unit in ALL:
        text = (UNITS / unit).read_text(encoding="utf-8")
        (tmp_path / unit).write_text(text.replace("/opt/creche/.venv/bin/creche", "/bin/true"), encoding="utf-8")
    return tmp_path


def test_systemd_reads_the_units_without_complaint(copies: Path) -> None:
    """`systemd-analyze verify` is silent about all units, where it is installed; its exit code says nothing."""
    if ANALYZE is None:
        return
    for template in ("creche@.service", "creche@.socket"):
        (copies / template.replace("@", "@one")).write_text((copies / template).read_text())
    units = [str(copies / unit.replace("@", "@one")) for unit in ALL]
    done = subprocess.run([ANALYZE, "verify", *units], capture_output=True, check=False, text=True, timeout=60)  # noqa: S603 - our units
    complaints = [line for line in done.stderr.splitlines() if "creche" in line]  # others concern the machine's units
    assert complaints == []


@pytest.mark.parametrize("unit", ["creche.service", "creche@.service"])
def test_the_service_may_do_little(copies: Path, unit: str) -> None:
    """As `systemd-analyze security` sees it, where it is installed."""
    if ANALYZE is None:
        return
    command = [ANALYZE, "security", "--offline=true", str(copies / unit)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)  # noqa: S603 - our units
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= MAX_EXPOSURE


@pytest.mark.parametrize("kind", ["service", "socket"])
def test_the_template_is_the_unit(kind: str) -> None:
    """But for its name in each place: several daemons run as one does."""
    plain, template = options(f"creche.{kind}"), options(f"creche@.{kind}")
    named = {
        option: [
            value.replace("/etc/creche/%i.toml", "/etc/creche/config.toml")
            .replace("creche/%i", "creche")
            .replace("creche@%i", "creche")
            .replace("creche %i", "creche")
            for value in values
        ]
        for option, values in template.items()
    }
    plain["Also"] = [value.removesuffix(" creche-http.socket") for value in plain["Also"]] if "Also" in plain else []
    assert {option: values for option, values in named.items() if values} == {
        option: values for option, values in plain.items() if values
    }


def test_the_port_is_the_default_s(service: dict[str, list[str]]) -> None:
    """The unit that opens it opens what the daemon would; it goes to the same service."""
    http = options("creche-http.socket")
    config = load(None, {"HOME": "/"})
    assert http["ListenStream"] == [f"{config.tcp.host}:{config.tcp.port}"]
    assert http["Service"] == ["creche.service"]
    assert service["Also"] == ["creche.socket creche-http.socket"]


def test_the_user_is_made(service: dict[str, list[str]]) -> None:
    """The one of the service, and its folders' owners."""
    sysusers = (UNITS / "creche.sysusers.conf").read_text(encoding="utf-8")
    tmpfiles = (UNITS / "creche.tmpfiles.conf").read_text(encoding="utf-8")
    assert f"\nu {service['User'][0]} - " in sysusers
    assert "\nd /etc/creche/credentials 0700 root root\n" in tmpfiles
    assert "\nd /run/creche 0755 creche creche\n" in tmpfiles


def test_a_stop_has_the_time_that_it_takes(service: dict[str, list[str]]) -> None:
    """The manager waits longer than a stop may take, and not for ever."""
    [allowed_s] = map(float, service["TimeoutStopSec"])
    # Last requests; creates on the wire; what is written and told; listeners and answers; a store that fails.
    assert 2 * LAST_S + ON_WIRE_GRACE_S + 2 * FLUSH_S + CLOSE_GRACE_S < allowed_s <= 60


def test_a_bad_configuration_is_not_tried_again(service: dict[str, list[str]]) -> None:
    """What would fail again at once is not restarted; what may pass is."""
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == [str(Exit.CONFIG.value)]


def test_readiness_is_told(service: dict[str, list[str]]) -> None:
    """The daemon notifies; systemd 252 knows this type, and not notify-reload. The watchdog waits for four meals."""
    assert service["Type"] == ["notify"]
    assert service["NotifyAccess"] == ["main"]
    assert service["ExecReload"] == ["kill -HUP $MAINPID"]
    assert float(service["WatchdogSec"][0]) >= 4 * STATUS_EVERY_S


def test_the_folders_are_where_the_daemon_looks(service: dict[str, list[str]], socket: dict[str, list[str]]) -> None:
    """With the folders that systemd makes, the defaults are the paths of the units, and clients look there."""
    [runtime], [state], [listen] = service["RuntimeDirectory"], service["StateDirectory"], socket["ListenStream"]
    config = load(None, {"RUNTIME_DIRECTORY": f"/run/{runtime}", "STATE_DIRECTORY": f"/var/lib/{state}", "HOME": "/"})
    assert str(config.socket.path) == listen
    assert str(config.store.path) == "/var/lib/creche/creche.db"
    assert str(default_socket({})) == listen


def test_the_socket_outlives_the_service(service: dict[str, list[str]], socket: dict[str, list[str]]) -> None:
    """A stop leaves the socket's folder alone, a start does not change its owner, and the mode is the default's."""
    assert service["RuntimeDirectoryPreserve"] == ["yes"]
    assert socket["SocketUser"] == service["User"]
    assert socket["SocketGroup"] == service["Group"]
    assert int(socket["SocketMode"][0], 8) == load(None, {"HOME": "/"}).socket.mode


def test_secrets_are_handed_over_by_name(service: dict[str, list[str]]) -> None:
    """The service names no secret; LoadCredential= is shown, switched off."""
    assert "LoadCredential" not in service
    assert "Environment" not in service
    assert "\n#LoadCredential=fal:" in (UNITS / "creche.service").read_text(encoding="utf-8")
