"""The table of a comparison, with numbers worked out by hand."""

from __future__ import annotations

from lightning_sdft.experiments.plan import BASE
from lightning_sdft.experiments.report.tables import comparison_table
from tests.experiments.rows import failed, row

TABLE = """\
# Laptop

Percent, mean over seeds ± half of the 95% interval; learning rates chosen on the validation split.

## double

| method | rate | seeds | new task | copy | sort | Avg. |
|---|---|---|---|---|---|---|
| base |  | 1 | 10.0 | 100.0 | 90.0 | 95.0 |
| SFT | 5e-05 | 3 | 71.0 ± 2.5 | 50.0 ± 0.0 | 40.0 ± 0.0 | 45.0 ± 0.0 |
| SDFT | 1e-05 | 2 | 80.0 ± 127.1 | 100.0 ± 0.0 | 90.0 ± 0.0 | 95.0 ± 0.0 |

## swap

| method | rate | seeds | new task | Avg. |
|---|---|---|---|---|
| base |  | 1 | 20.0 | - |
| SFT | 1e-05 | 1 | 30.0 | - |
| SDFT |  | 0 | - | - |

Failed, and left out above:

- SFT on double at 5e-05, seed 3: FAILED: killed by SIGKILL
- SDFT on swap at 1e-05, seed 0: FAILED: killed by SIGKILL
"""


def test_table_is_that_of_the_paper() -> None:
    kept, lost = {"copy": 1.0, "sort": 0.9, "average": 0.95}, {"copy": 0.5, "sort": 0.4, "average": 0.45}
    rows = [row(BASE, None, 0, new=0.1, prior=kept)]
    # The half-width of 70, 72 and 71 is 4.303 times 1 over the root of 3; that of 70 and 90 is 12.706 times 10.
    rows += [row("SFT", 5e-5, seed, 0.9, new, lost) for seed, new in enumerate((0.70, 0.72, 0.71))]
    rows += [row("SFT", 1e-5, 0, 0.8, 0.99, kept), failed("SFT", 5e-5, 3)]
    rows += [row("SDFT", 1e-5, seed, 0.5, new, kept) for seed, new in enumerate((0.7, 0.9))]
    rows += [row(BASE, None, 0, new=0.2, prior={}, domain="swap"), row("SFT", 1e-5, 0, 0.5, 0.3, {}, "swap")]
    rows += [failed("SDFT", 1e-5, 0, "swap")]
    assert comparison_table(rows, ["SFT", "SDFT"], ["double", "swap"], "Laptop") == TABLE


def test_without_a_title_and_failures_there_is_neither() -> None:
    table = comparison_table([row(BASE, None, 0)], [], ["double"])
    assert table.startswith("Percent")
    assert "Failed" not in table


def test_method_whose_rate_cannot_be_chosen_is_named() -> None:
    rows = [row("SFT", rate, 0, None) for rate in (1e-5, 5e-5)] + [row("DFT", 1e-5, 0, None), failed("SDFT", 1e-5, 0)]
    table = comparison_table(rows, ["SFT", "DFT", "SDFT"], ["double"])
    assert "No learning rate could be chosen" in table
    assert table.split("one learning rate:\n\n")[1].startswith("- SFT on double\n\nFailed")
    assert "| DFT | 1e-05 | 1 | 50.0 |" in table
