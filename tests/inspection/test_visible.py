from __future__ import annotations

import pytest

from lightning_sdft.inspection.visible import level, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本 🙂\nnext", "plain é 日本 🙂\nnext"),
        ("\x1b[31m\x07\x00\r\t\x9b", "\\x1b[31m\\x07\\x00\\r\\t\\x9b"),
        ("a\u202eb\u2066c\u2028d", "a\\u202eb\\u2066c\\u2028d"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_shades_grow_with_the_divergence() -> None:
    shades = [level(kl) for kl in (0.0, 0.09, 0.1, 0.3, 0.7, 1.2, 2.0, 50.0)]
    assert shades == [0, 0, 1, 2, 3, 4, 5, 5]
