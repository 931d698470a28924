"""The tool that has SDKs read recordings, with types of the standard library in their place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.recipes.sdk_reads import main


def recording(folder: Path, name: str, body: object) -> str:
    path = folder / name
    path.write_text(json.dumps({"scenes": [{"answer": {"as": "fractions:Fraction", "body": body}}]}), encoding="utf-8")
    return str(path)


def test_each_answer_with_a_type_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read is told, and counts; a recording without any is as bad."""
    good, bad = recording(tmp_path, "good.json", "1/2"), recording(tmp_path, "bad.json", "half")
    assert main([good]) == 0
    assert main([good, bad]) == 1
    told = capsys.readouterr().out
    assert "good.json: 1 answers read by the SDK" in told
    assert "bad.json: fractions:Fraction does not read" in told
    (tmp_path / "none.json").write_text("{}", encoding="utf-8")
    assert main([str(tmp_path / "none.json")]) == 1
