"""How far long work is: a bar in a terminal, lines in a pipe, a log file or CI."""

from lightning_sdft.progress.pace import Pace
from lightning_sdft.progress.texts import at_clock, count_text, seconds_text, size_text
from lightning_sdft.progress.work import Work, is_terminal

__all__ = ["Pace", "Work", "at_clock", "count_text", "is_terminal", "seconds_text", "size_text"]
