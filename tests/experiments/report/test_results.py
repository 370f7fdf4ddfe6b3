"""Rows of a comparison, and which learning rate they choose."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from lightning_sdft.experiments.plan import BASE
from lightning_sdft.experiments.report.results import best_rate, chosen, records, write_hyperparameters
from tests.experiments.rows import failed, row


def test_best_learning_rate_has_the_best_mean_on_the_validation_split() -> None:
    rows = [row("SFT", 1e-5, 0, 0.9, new=0.1), row("SFT", 1e-5, 1, 0.1), row("SFT", 5e-5, 0, 0.6, new=0.0)]
    rows += [row("SFT", 5e-5, 1, 0.5), row("DFT", 1e-4, 0, 1.0), row("SFT", 1e-4, 0, 1.0, domain="other")]
    assert best_rate(rows, "double", "SFT") == 5e-5
    assert best_rate(rows, "double", "DFT") == best_rate(rows, "other", "SFT") == 1e-4
    assert chosen(rows, "double", "SFT") == rows[2:4]


@pytest.mark.parametrize("rates", [(1e-5, 5e-5), (5e-5, 1e-5)])
def test_of_equals_the_lower_learning_rate_is_best(rates: tuple[float, float]) -> None:
    assert best_rate([row("SFT", rate, 0, 0.5) for rate in rates], "double", "SFT") == 1e-5


def test_rates_are_compared_on_the_seeds_that_each_of_them_has() -> None:
    rows = [row("SFT", 1e-5, 0, 0.8), row("SFT", 5e-5, 0, 0.9), row("SFT", 5e-5, 1, 0.5), row("SFT", 5e-5, 2, 0.5)]
    assert best_rate(rows, "double", "SFT") == 5e-5
    assert chosen(rows, "double", "SFT") == rows[1:]
    assert best_rate([*rows[1:], row("SFT", 1e-5, 3, 0.7)], "double", "SFT") == 1e-5  # no seed in common


def test_without_validation_only_a_rate_without_others_is_chosen() -> None:
    rows = [row("SFT", 1e-5, 0, None), failed("SFT", 5e-5, 0), row("DFT", 1e-5, 0, None), row("DFT", 5e-5, 0, None)]
    assert best_rate(rows, "double", "SFT") == 1e-5
    assert best_rate(rows, "double", "DFT") is None
    assert best_rate([*rows, row("DFT", 5e-5, 1, 0.1)], "double", "DFT") == 5e-5


def test_failed_runs_are_left_out() -> None:
    rows = [row("SFT", 1e-5, 0, 0.6), failed("SFT", 1e-5, 1), row("SFT", 5e-5, 0, 0.5), row("SFT", 5e-5, 1, 0.5)]
    rows += [failed("DFT", 1e-5, 0), row(BASE, None, 0), failed(BASE, None, 1)]
    assert best_rate(rows, "double", "SFT") == 1e-5
    assert chosen(rows, "double", "SFT") == rows[:1]
    assert best_rate(rows, "double", "DFT") is None
    assert chosen(rows, "double", "DFT") == []
    assert best_rate(rows, "double", BASE) is None
    assert chosen(rows, "double", BASE) == [rows[5]]


def test_record_has_all_that_a_run_says() -> None:
    good, bad = records(
        [row("SFT", 1e-5, 3, 0.75, 0.25, {"copy": 1.0, "sort": 0.5, "average": 0.75}), failed("x", 1, 2)]
    )
    assert good["metrics"].pop("test/prior/sort") == 0.5
    assert list(good["metrics"]) == sorted(good["metrics"])
    del good["metrics"]
    assert good == {
        "method": "SFT",
        "domain": "double",
        "seed": 3,
        "learning_rate": 1e-5,
        "new_task_accuracy": 0.25,
        "prior": {"copy": 1.0, "sort": 0.5},
        "prior_average": 0.75,
        "seconds": 1.5,
        "peak_memory": 300.0,
        "validation_accuracy": 0.75,
        "error": None,
    }
    assert bad["error"] == "killed by SIGKILL"
    assert (bad["new_task_accuracy"], bad["prior"], bad["prior_average"], bad["metrics"]) == (None, {}, None, {})


def test_rows_are_said_in_a_line() -> None:
    assert str(row("SFT", 5e-5, 3, new=0.25)) == "SFT on double at 5e-05, seed 3: new task 0.250, prior 1.000, 2 s"
    assert str(row(BASE, None, 3, prior={})) == "base on double, seed 3: new task 0.500, prior -, 2 s"
    assert str(failed("SFT", 5e-5, 3)) == "SFT on double at 5e-05, seed 3: FAILED: killed by SIGKILL"


def test_tensorboard_shows_runs_as_hyperparameters(tmp_path: Path) -> None:
    (tmp_path / "stale").mkdir()
    rows = [row("SFT + x", 5e-5, 3, new=0.25), row(BASE, None, 3, prior={}), failed("SFT", 1e-5, 0)]
    for _ in range(2):  # in place of what is there
        write_hyperparameters(rows, tmp_path)
        assert not (tmp_path / "stale").exists()
    found = {}
    for file in tmp_path.rglob("events.*"):
        board = EventAccumulator(str(file.parent)).Reload()
        plugin = board.summary_metadata.get("_hparams_/session_start_info")
        if plugin is not None:
            content = plugin_data_pb2.HParamsPluginData.FromString(plugin.plugin_data.content)
            parameters = {
                name: getattr(value, value.WhichOneof("kind"))
                for name, value in content.session_start_info.hparams.items()
            }
            values = {tag: board.Scalars(tag)[0].value for tag in board.Tags()["scalars"]}
            found[parameters["method"]] = (parameters, values)
    assert found == {
        "SFT + x": (
            {"method": "SFT + x", "domain": "double", "seed": 3, "learning_rate": 5e-5},
            {"new_task_accuracy": 0.25, "prior_average": 1.0},
        ),
        BASE: ({"method": BASE, "domain": "double", "seed": 3, "learning_rate": 0}, {"new_task_accuracy": 0.5}),
    }
