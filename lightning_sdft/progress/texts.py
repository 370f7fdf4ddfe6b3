"""How counts, times and sizes are written."""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["at_clock", "count_text", "seconds_text", "size_text"]


def at_clock(seconds: float, now: datetime | None = None) -> str:
    """The hour of the clock in so many seconds, with the day if it is another one.

    Example:
        >>> at_clock(3600, datetime(2026, 3, 2, 13, 5)), at_clock(86400, datetime(2026, 3, 2, 13, 5))
        ('14:05', 'Tue 3 Mar 13:05')
    """
    now = now or datetime.now()
    then = now + timedelta(seconds=seconds)
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%a} {then.day} {then:%b %H:%M}"


def count_text(count: int, thing: str) -> str:
    """A number of things, whose plural ends in ``s``, or in ``es`` behind ``ch`` and ``s``.

    Example:
        >>> count_text(1, "process"), count_text(12_000, "step"), count_text(2, "batch")
        ('1 process', '12,000 steps', '2 batches')
    """
    return f"{count:,} {thing}{'' if count == 1 else 'es' if thing.endswith(('ch', 's')) else 's'}"


def seconds_text(seconds: float) -> str:
    """Seconds with two digits or more.

    Example:
        >>> seconds_text(0.1234), seconds_text(12.34), seconds_text(1234.5)
        ('0.12 s', '12 s', '1234 s')
    """
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"


def size_text(size: float) -> str:
    """A number of bytes.

    Example:
        >>> size_text(950), size_text(9_630_000), size_text(2_160_000_000)
        ('950 bytes', '9.6 MB', '2.2 GB')
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.{0 if size >= 100 * unit else 1}f} {name}"
    return f"{size:.0f} bytes"
