from __future__ import annotations

from io import StringIO

from rich.console import Console

from lightning_sdft.commands.report import results_table


def rows(metrics: dict[str, float]) -> list[list[str]]:
    console = Console(width=100, file=StringIO())
    console.print(results_table(metrics, "Accuracy of a model"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    cells = [[cell.strip() for cell in line.replace("┃", "│").strip("│ ").split("│")] for line in lines]
    return [row for row in cells if len(row) > 1]  # an empty last cell is stripped away


def test_intervals_stand_beside_their_metric() -> None:
    metrics = {
        "test/accuracy/science": 0.7,
        "test/accuracy_low/science": 0.66,
        "test/accuracy_high/science": 0.74,
        "test/accuracy": 0.7,
        "test/accuracy_low": 0.65,
        "test/accuracy_high": 0.75,
        "test/pass_at_8/science": 0.9,
        "test/pass_at_8_low/science": 0.85,
        "test/pass_at_8_high/science": 0.95,
        "val/kl_to_base": 1.5,
    }
    assert rows(metrics) == [
        ["metric", "value", "95% interval"],
        ["test/accuracy/science", "0.700", "0.660 to 0.740"],
        ["test/accuracy", "0.700", "0.650 to 0.750"],
        ["test/pass_at_8/science", "0.900", "0.850 to 0.950"],
        ["val/kl_to_base", "1.500"],
    ]


def test_ungraded_answers_are_counted_where_there_are_some() -> None:
    metrics = {"test/accuracy/medical": 0.5, "test/accuracy_ungraded/medical": 3.0, "test/accuracy": 0.5}
    metrics |= {"test/pass_at_k_ungraded/medical": 12.0}
    assert rows(metrics) == [
        ["metric", "value", "95% interval", "ungraded"],
        ["test/accuracy/medical", "0.500", "", "3"],
        ["test/accuracy", "0.500", "", "0"],
        ["test/pass_at_k_ungraded/medical", "12.000", "", "0"],
    ]


def test_a_set_whose_name_looks_like_an_end_keeps_its_row() -> None:
    assert rows({"test/accuracy/data_low": 0.5})[1:] == [["test/accuracy/data_low", "0.500"]]
