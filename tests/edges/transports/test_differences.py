"""The table of differences is about this suite, and says why."""

from __future__ import annotations

from pathlib import Path

from tests.edges.transports.differences import DIFFERENCES

KINDS = {f"{kind}{tls}" for kind in ("upstream", "httpx2", "proxy") for tls in ("", "-plain", "-tls")}


def test_every_difference_is_of_a_case_of_the_suite() -> None:
    """A test that meets a declared difference holds it; here, that there is such a test. Each has a reason."""
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for kinds, cases, _, reason in DIFFERENCES:
        assert kinds <= KINDS
        assert [case for case in cases if f'"{case}"' not in tests] == []
        assert reason
