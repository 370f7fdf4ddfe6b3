"""The console script and ``python -m lightning_sdft``: what needs no torch at once, all else by :mod:`.cli`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable

from lightning_sdft.commands.completion import SCRIPTS, candidates
from lightning_sdft.commands.early import check_command, check_configs, first_line
from lightning_sdft.commands.short_help import ASKED, short_help
from lightning_sdft.errors import SettingError

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
    if "--debug" not in arguments:
        _refuse_early(arguments)
    if arguments[:1] == ["configs"] and _listed(arguments[1:]):
        return
    if (line := first_line(arguments)) is not None:
        _say(line)

    _entry_point()()


def _entry_point() -> Callable[[], None]:
    """Import torch, Lightning and all commands, without searching the modules for garbage again and again.

    They stay until the process ends. The search would take an eighth of the CPU time to the first step.
    """
    if "torch" in sys.modules:  # a process with objects of its own, some of which may be garbage
        from lightning_sdft.cli import entry_point
    else:
        gc.disable()
        from lightning_sdft.cli import entry_point

        gc.freeze()
        gc.enable()
    return entry_point


def _refuse_early(arguments: list[str]) -> None:
    """End with code 2 and a line if there is no such command or config."""
    try:
        check_command(arguments[:1])
        check_configs(arguments)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _listed(arguments: list[str]) -> bool:
    """List the configs, unless the arguments are wrong, of which others know more to say."""
    from jsonargparse import ArgumentError, auto_cli  # it takes longer than the help

    from lightning_sdft.commands.configs import configs

    try:
        auto_cli(configs, args=arguments, as_positional=False, exit_on_error=False)
    except (ArgumentError, SettingError):
        return False
    return True


def _say(text: str) -> None:
    """Print a text to whoever may have read enough, such as ``head``."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python writes what is left at its end


if __name__ == "__main__":
    main()
