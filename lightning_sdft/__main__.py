"""The console script and ``python -m lightning_sdft``: help and completion at once, all else by :mod:`.cli`."""

from __future__ import annotations

import os
import sys

from lightning_sdft.commands.completion import SCRIPTS, candidates
from lightning_sdft.commands.short_help import ASKED, short_help

__all__ = ["main"]


def main() -> None:
    """Answer what can be answered without importing torch, and hand everything else on."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--complete"]:
        _say("\n".join(candidates(os.environ.get("COMP_LINE", ""))))
        return
    if arguments[:1] == ["--completion"]:
        shell = arguments[1] if len(arguments) > 1 else "bash"
        if shell not in SCRIPTS:
            sys.exit(f"error: --completion knows {', '.join(SCRIPTS)}, not {shell}")
        _say(SCRIPTS[shell])
        return
    text = short_help(arguments)
    if text is not None:
        _say(text)
        return
    for place in range(len(sys.argv) - 1):
        if sys.argv[place] in ASKED and sys.argv[place + 1] == "all":
            del sys.argv[place + 1]
            break

    from lightning_sdft.cli import entry_point  # it imports torch, which takes seconds

    entry_point()


def _say(text: str) -> None:
    """Print a text to whoever may have read enough, such as ``head``."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python writes what is left at its end


if __name__ == "__main__":
    main()
