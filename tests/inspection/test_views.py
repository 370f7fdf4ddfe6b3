from __future__ import annotations

from lightning_sdft.inspection import Inspection
from lightning_sdft.inspection.html import rendered
from tests.inspection.conftest import rollout_look


def test_shows_itself_as_text_and_as_html() -> None:
    inspection = Inspection([rollout_look("hello")], 0.7)
    text = str(inspection)
    assert "at the temperature of the loss, 0.7" in text
    assert "user: hello" in text
    assert "\x1b" not in text
    assert inspection._repr_html_() == rendered(inspection.looks, 0.7)
    assert repr(inspection) == f"<Inspection of {len(inspection.looks)} rollouts; print() shows them>"
