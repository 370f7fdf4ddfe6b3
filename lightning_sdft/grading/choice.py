"""Grades answers to multiple-choice questions by the letter that they choose."""

from __future__ import annotations

import re
from typing import Any

from lightning_sdft.errors import DataError, SettingError
from lightning_sdft.grading.base import Grader
from lightning_sdft.grading.references import alternatives, any_right

__all__ = ["Choice"]

OPENING = r"[\s*_`\"'(\[{$]*"
"""What may stand before the letter: spaces, marks of emphasis, opening brackets."""


class Choice(Grader):
    """Whether a response chooses the right letter.

    The letter is the one that is named as the answer last (``the answer is (B)``, ``Answer: **B**``,
    ``<answer>B</answer>``, ``boxed{B}``); if none is, that with which the response begins (``B``, ``(b)``,
    ``B. Paris``); if there is none, the last capital letter that stands alone. The reference is a letter, or begins
    with one (``B. Paris``); a list holds alternatives.

    Args:
        letters: The letters that may be chosen.

    Raises:
        SettingError: If they are not letters, each once.

    Example:
        >>> grader = Choice()
        >>> grader.grade("A is wrong, so the answer is **C**.", "C"), grader.grade("(b) Paris", "B. Paris")
        (True, True)
    """

    def __init__(self, letters: str = "ABCDEFGHIJ") -> None:
        super().__init__()
        if not letters.isalpha() or len(set(letters.upper())) != len(letters):
            raise SettingError(f"data.grader.letters={letters!r} must be letters, each once, such as ABCD")
        self.letters = letters.upper()
        capital, small = f"[{self.letters}]", f"[{self.letters.lower()}]"
        ends = r"(?=\s*(?:$|[.):\]}*<]))"
        word = r"(?i:answer|boxed)\b(?:\s+is)?\W*?"
        self._named = re.compile(rf"{word}({capital}(?!\w|'\w)|{small}{ends})")
        self._first = re.compile(rf"{OPENING}((?:{capital}|{small}){ends})")
        self._alone = re.compile(rf"(?<![\w'])({capital})(?![\w'])(?!(?<=[AI])\s+[a-z])")  # no article

    def check_reference(self, reference: Any) -> None:
        """Refuse a reference that names no letter."""
        if not alternatives(reference) or any(self._letter(each) is None for each in alternatives(reference)):
            raise DataError(
                f"a reference must be one of the letters {self.letters}, or begin with one, not {reference!r}"
            )

    def grade(self, response: str, reference: Any) -> bool:
        """Whether the chosen letter is the right one."""
        chosen = self.chosen(response)
        return chosen is not None and any_right(lambda each: self._letter(each) == chosen, reference)

    def feedback(self, response: str, reference: Any) -> str:
        """Which letter was taken for the answer."""
        chosen = self.chosen(response)
        return "The answer chooses no letter." if chosen is None else f"The answer chooses {chosen}, which is wrong."

    def chosen(self, response: str) -> str | None:
        """The letter that a response chooses, as a capital; ``None`` if it chooses none."""
        named = self._named.findall(response)
        if named:
            return str(named[-1]).upper()
        if first := self._first.match(response):
            return first[1].upper()
        alone = self._alone.findall(response)
        return alone[-1] if alone else None

    def _letter(self, reference: Any) -> str | None:
        found = self._first.match(reference) if isinstance(reference, str) else None
        return None if found is None else found[1].upper()
