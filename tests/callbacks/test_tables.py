from __future__ import annotations

from html import unescape

import pytest
from tensorboard.plugin_util import markdown_to_safe_html

from lightning_sdft.callbacks.tables import Cell, shaded, shortened, table
from tests.inspection.conftest import token_look

HOSTILE = "**a** _b_ `c` [d](e) <b>f</b> | g & h ~~i~~ \\* \x1b[31m"


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
