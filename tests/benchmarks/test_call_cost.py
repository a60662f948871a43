"""What a call costs is measured without launches, beside a launcher by hand."""

from __future__ import annotations

import pytest

from benchmarks import call_cost


def test_both_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(call_cost, "CALLS", 3)
    monkeypatch.setattr(call_cost, "RUNS", 2)
    call_cost.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| forward")]
    assert [row[0].strip() for row in rows] == ["forward", "forward that records", "forward and backward"]
    assert all(float(row[1]) > 0 and float(row[2]) > 0 for row in rows)
