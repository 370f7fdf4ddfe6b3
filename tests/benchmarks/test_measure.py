from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.benchmarks import commands, loss, measure
from tests.benchmarks.measure import Row, meter, table, write
from tests.launch import in_processes

FASTER = Row("rate", "tokens/s", [30.0, 32.0, 40.0], [20.0, 19.0, 10.0], 1.5, "greedy", at_least=True)
SMALLER = Row("memory", "MiB", [300.0], [1000.0, 1200.0, 1100.0], 0.25, "float32")


def test_ratio_is_of_medians_and_the_bound_has_a_direction() -> None:
    assert FASTER.ratio == pytest.approx(32 / 19)
    assert FASTER.holds
    assert SMALLER.ratio == pytest.approx(300 / 1100)
    assert not SMALLER.holds


def test_table() -> None:
    assert table([FASTER, SMALLER]).splitlines()[2:] == [
        "| rate | 32.00 (30.00 to 40.00) tokens/s | 19.00 (10.00 to 20.00) tokens/s | **1.68** | ≥ 1.5 | yes |",
        "| memory | 300 MiB | 1,100 (1,000 to 1,200) MiB | **0.27** | ≤ 0.25 | **no** |",
    ]


def test_figure_without_a_bound_is_only_reported() -> None:
    row = replace(SMALLER, must=None)
    assert row.holds
    assert row.line().endswith("| **0.27** |  |  |")


def test_first_line_of_a_command_comes_after_some_seconds_of_the_cpu() -> None:
    assert commands.first_line(["configs"]) > 0.1


def test_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "OUTPUT", tmp_path / "bench")
    monkeypatch.setattr(measure, "versions", lambda: {"trl": "1.16.0"})
    write("loss", [FASTER, SMALLER])
    records = json.loads((tmp_path / "bench" / "loss.json").read_text())
    assert records.keys() == {"rate", "memory"}
    assert records["rate"] | {"ratio": 0} == {
        "ours": 32.0,
        "peer": 19.0,
        "ours_range": [30.0, 40.0],
        "peer_range": [10.0, 20.0],
        "unit": "tokens/s",
        "ratio": 0,
        "must": ">= 1.5",
        "holds": True,
        "setting": "greedy",
        "versions": {"trl": "1.16.0"},
    }


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from the kernel")
def test_meter_sees_a_peak_that_is_gone_again() -> None:
    def work() -> None:
        with meter() as result:
            torch.ones(64 * 2**18).sum()  # 64 MiB
            torch.ones(32 * 2**18).sum()
        assert 60 < result.memory < 96
        assert result.seconds > 0

    in_processes(1, work)  # one from which the kernel takes no memory back that other tests have left


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from the kernel")
def test_losses_must_agree_before_they_are_compared() -> None:
    ours = loss.measure("ours", tokens=4, width=8)
    loss.check_equal({"ours": [ours], "same": [ours]})
    with pytest.raises(SystemExit, match="the losses differ"):
        loss.check_equal({"ours": [ours], "other": [ours | {"loss": ours["loss"] * 1.001}]})
