"""When a line about long work is due."""

from __future__ import annotations

import time

__all__ = ["Pace"]

SHARE = 0.05
"""Share of the work after which a line is due."""

LONGEST = 600.0
"""Seconds after which a line is due, however little was done."""

SHORTEST = 1.0
"""Seconds between two lines at least, so that short work does not fill the screen."""


class Pace:
    """Says when a line is due: at the first piece of work, and again after a twentieth of it all or ten minutes.

    Args:
        quiet: Seconds without any line, for work that is usually short.
    """

    def __init__(self, quiet: float = 0.0) -> None:
        self._quiet_until = time.monotonic() + quiet
        self._said = 0.0  # the share of the work at the last line
        self._when: float | None = None

    def due(self, share: float) -> bool:
        """Whether to write a line now.

        Args:
            share: The share of the work that is done, between 0 and 1.
        """
        now = time.monotonic()
        if now < self._quiet_until or (self._when is not None and not self._due_again(share, now - self._when)):
            return False
        self._said, self._when = share, now
        return True

    def _due_again(self, share: float, seconds: float) -> bool:
        if share >= 1 > self._said or seconds >= LONGEST:
            return True
        return _parts(share) > _parts(self._said) and seconds >= SHORTEST


def _parts(share: float) -> int:
    return int(share / SHARE + 1e-9)
