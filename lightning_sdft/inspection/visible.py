"""Text of models and data as it is shown, in which nothing acts on the terminal or the page."""

from __future__ import annotations

import math
import unicodedata

__all__ = ["level", "visible"]

TURNING = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of text, or break a line, without being seen."""

LEVELS = 5
"""Number of shades."""


def visible(text: str, newline: str = "\n") -> str:
    r"""The text with control characters written out (`\x1b`), so that they do nothing.

    Args:
        text: The text.
        newline: What stands for a newline.

    Example:
        >>> visible("red\x1b[31m\nend", newline="/")
        'red\\x1b[31m/end'
    """
    return "".join(
        newline
        if each == "\n"
        else each.encode("unicode_escape").decode()
        if each in TURNING or unicodedata.category(each) in ("Cc", "Cs")
        else each
        for each in text
    )


def level(kl: float) -> int:
    """How dark a KL in nats is shown, from 0 to 5: 0 below 0.1 nats, 3 around 0.7, and 5 above 1.6.

    Example:
        >>> [level(kl) for kl in (0.0, 0.7, 2.0, float("inf"), float("nan"))]
        [0, 3, 5, 5, 0]
    """
    return math.ceil((1 - math.exp(-kl)) * LEVELS) if kl >= 0.1 else 0
