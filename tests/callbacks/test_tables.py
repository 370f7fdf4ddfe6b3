from __future__ import annotations

from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

from lightning_sdft.callbacks.tables import Cell, log_table, shaded, shortened, table
from tests.inspection.conftest import token_look

HOSTILE = "**a** _b_ `c` [d](e) <b>f</b> | g & h ~~i~~ \\* \x1b[31m"


class Collecting(CSVLogger):
    """A logger that takes tables, as that of Weights & Biases does."""

    def log_table(self, **table: Any) -> None:
        self.table = table


def html_of(text: str) -> str:
    """What TensorBoard shows of Markdown."""
    return unescape(markdown_to_safe_html(text))


def test_text_stays_text() -> None:
    shown = html_of(table(["x"], [[Cell.of(HOSTILE)]]))
    assert "<b>f" not in markdown_to_safe_html(table(["x"], [[Cell.of(HOSTILE)]]))
    assert "<td>**a** _b_ `c` [d](e) <b>f</b> | g & h ~~i~~ \\* \\x1b[31m</td>" in shown
    assert shown.count("<td>") == 1


def test_newlines_stay_in_their_cell() -> None:
    assert "<td>a<br>" in html_of(table(["x"], [[Cell.of("a\n\nb")]]))


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [("short", 5, "short"), ("0123456789", 4, "01 [...] 89"), ("0123456789", 5, "01 [...] 89")],
)
def test_long_text_loses_its_middle(text: str, most: int, shown: str) -> None:
    assert shortened(text, most) == shown


def test_tokens_are_marked_by_their_divergence() -> None:
    cell = shaded([token_look("a", 0.0), token_look(" b", 0.3), token_look(" *c*", 2.0)], 100)
    assert cell.text == "a b *c*"
    assert "<td>a<em> b</em><strong> *c*</strong></td>" in html_of(table(["x"], [[cell]]))


def test_long_rollout_loses_its_middle() -> None:
    cell = shaded([token_look(f"{index:02} ", 0.0) for index in range(50)], 12)
    assert cell.text == "00 01  [...] 48 49 "


def test_first_process_logs_to_whatever_takes_tables(tmp_path: Path) -> None:
    board, other = TensorBoardLogger(tmp_path, name="a", version=""), Collecting(tmp_path, name="b")
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[board, other, CSVLogger(tmp_path)], global_step=7)
    rows = [[Cell("plain", "**bold**"), Cell.of("1")]]
    log_table(trainer, "name", ["x", "y"], rows, note="*note*")
    trainer.is_global_zero = False
    log_table(trainer, "never", ["x", "y"], rows)
    board.finalize("success")
    events = EventAccumulator(board.log_dir, size_guidance={"tensors": 0}).Reload()
    (event,) = events.Tensors("name/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert (event.step, text) == (7, "*note*\n\n| x | y |\n| --- | --- |\n| **bold** | 1 |")
    assert other.table == {"key": "name", "columns": ["x", "y"], "data": [["plain", "1"]], "step": 7}
    assert "never/text_summary" not in events.Tags()["tensors"]
