"""The table of skills in sequence, with numbers worked out by hand."""

from __future__ import annotations

from lightning_sdft.experiments.report.retention import retention_table
from tests.experiments.stages import SKILLS, sequence, stage

TABLE = """\
# Laptop

Percent, mean over seeds ± half of the 95% interval.

## SFT

Learning rate 1e-05, 2 seeds.

| after | a | b | prior tasks |
|---|---|---|---|
| nothing (base) | 50.0 ± 0.0 | 25.0 ± 0.0 | 75.0 ± 0.0 |
| a | 100.0 ± 0.0 | 50.0 ± 0.0 | 75.0 ± 0.0 |
| b | 70.0 ± 127.1 | 90.0 ± 127.1 | 75.0 ± 0.0 |

| method | average accuracy | forgetting | backward transfer | forward transfer |
|---|---|---|---|---|
| SFT | 80.0 ± 127.1 | 30.0 ± 127.1 | -30.0 ± 127.1 | 25.0 ± 0.0 |

Failed; their sequences are left out above:

- SDFT at 1e-05, seed 0, stage 1 (a): FAILED: killed
"""


def test_table_has_every_stage_and_what_it_comes_to() -> None:
    # 12.706 times 10, which is half the distance of 60 and 80, and of 80 and 100.
    ends = [(0.6, 0.8), (0.8, 1.0)]
    sequences = [sequence("SFT", 1e-5, seed, [[0.5, 0.25], [1.0, 0.5], end]) for seed, end in enumerate(ends)]
    bad = stage("SDFT", 1e-5, 0, 1, (), error="killed")
    rows = [bad, *(row for stages in sequences for row in stages)]
    assert retention_table(sequences, rows, ["SFT", "SDFT"], SKILLS, "Laptop") == TABLE
    assert "Failed" not in retention_table(sequences, rows[1:], ["SFT"], SKILLS)
