"""What the study reports, from files as `lightning-sdft compare` leaves them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from tests.real.curves import CURVES, picture, report


def write_run(folder: Path, values: dict[int, tuple[float, ...]]) -> None:
    """A run whose events have new task, general and, if there is a third value, KL."""
    (folder / "tensorboard").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step, measured in values.items():
            for tag, value in zip(CURVES.values(), measured, strict=False):
                writer.add_scalar(tag, value, step)


def test_methods_are_compared_where_they_have_learned_the_new_task_with_general_questions_and_kl(
    tmp_path: Path,
) -> None:
    sdft, sft = tmp_path / "routing" / "sdft", tmp_path / "routing" / "sft"
    write_run(sdft / "rate-5e-05-seed-0", {0: (0.1, 0.6, 0.0), 24: (0.7, 0.7, 1.0), 49: (0.92, 0.75, 2.0)})
    write_run(sdft / "rate-5e-05-seed-1", {0: (0.1, 0.6, 0.0), 24: (0.94, 0.65, 4.0), 49: (0.9, 0.5, 9.0)})
    # The end of training logs the last validation once more.
    write_run(sft / "rate-1e-05-seed-0", {0: (0.1, 0.6, 0.0), 24: (0.8, 0.5, 8.0), 25: (0.8, 0.5, 8.0)})
    write_run(tmp_path / "routing" / "base" / "seed-0", {0: (0.1, 0.6)})
    lines = report(tmp_path).splitlines()
    assert (
        "| sdft, rate-5e-05-seed-0 | 0: 0.10 / 0.60 / 0.00; 25: 0.70 / 0.70 / 1.00; 50: 0.92 / 0.75 / 2.00 |" in lines
    )
    assert "| sft, rate-1e-05-seed-0 | 0: 0.10 / 0.60 / 0.00; 25: 0.80 / 0.50 / 8.00 |" in lines
    assert "| base, seed-0 | 0: 0.10 / 0.60 / - |" in lines
    assert lines[lines.index("") + 3 :] == [
        "| sdft, rate-5e-05-seed-0 | 50 | 0.92 | 0.75 | 2.00 |",
        "| sdft, rate-5e-05-seed-1 | 25 | 0.94 | 0.65 | 4.00 |",
        "| sft, rate-1e-05-seed-0 | never | - | - | - |",
        "| **sdft, rate-5e-05**: mean of 2 of 2 runs | 38 | 0.93 | 0.70 | 3.00 |",
        "| **sft, rate-1e-05**: mean of 0 of 1 runs | never | - | - | - |",
    ]


def test_runs_without_kl_are_reported_too(tmp_path: Path) -> None:
    write_run(tmp_path / "sft" / "rate-1e-05-seed-0", {0: (0.1, 0.6), 24: (0.95, 0.5)})
    assert "| sft, rate-1e-05-seed-0 | 25 | 0.95 | 0.50 | - |" in report(tmp_path)


def test_picture_has_a_panel_for_each_curve_and_needs_no_kl(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "sdft" / f"rate-5e-05-seed-{seed}", {0: (0.1, 0.6, 0.0), 24: (0.9, 0.7, 1.0 + seed)})
    write_run(tmp_path / "sft" / "rate-1e-05-seed-0", {0: (0.1, 0.6), 24: (0.95, 0.5)})
    write_run(tmp_path / "base" / "seed-0", {0: (0.1, 0.6)})
    picture(tmp_path, tmp_path / "curves.png")
    drawn = Image.open(tmp_path / "curves.png").convert("RGB")
    assert drawn.width > 2 * drawn.height
    colors = {color for _, color in drawn.getcolors(drawn.width * drawn.height) or []}
    assert (31, 119, 180) in colors  # a line for each of the two methods that train, in matplotlib's order
    assert (255, 127, 14) in colors
    assert (44, 160, 44) not in colors
