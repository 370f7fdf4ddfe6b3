"""The command line: the commands, and the entry point."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from jsonargparse import auto_cli
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_sdft.checkpoint import exit_code
from lightning_sdft.commands.configs import configs
from lightning_sdft.commands.demonstrate import demonstrate
from lightning_sdft.commands.early import check_command
from lightning_sdft.commands.export import export
from lightning_sdft.commands.fit import main
from lightning_sdft.commands.init import init
from lightning_sdft.commands.judge import judge
from lightning_sdft.commands.noise import keep_quiet
from lightning_sdft.commands.parser import CommandParser
from lightning_sdft.commands.prior import prior
from lightning_sdft.commands.questions import questions
from lightning_sdft.commands.refusals import one_line, refusal
from lightning_sdft.errors import SettingError
from lightning_sdft.experiments.compare import compare
from lightning_sdft.experiments.continual import continual
from lightning_sdft.experiments.remake import remake
from lightning_sdft.experiments.sweep import sweep
from lightning_sdft.storage.masking import masked_text
from lightning_sdft.trust import split_trust, trusting

__all__ = ["COMMANDS", "entry_point"]

COMMANDS: dict[str, Callable[..., object]] = {
    "compare": compare,
    "configs": configs,
    "continual": continual,
    "demonstrate": demonstrate,
    "export": export,
    "init": init,
    "judge": judge,
    "prior": prior,
    "questions": questions,
    "remake": remake,
    "sweep": sweep,
}
"""Subcommands that are plain functions, by name; the arguments of a function are the options of its command."""

DEBUG = "--debug"
"""Shows where an error comes from."""

SIGTERM_EXIT, SIGINT_EXIT = 128 + signal.SIGTERM, 128 + signal.SIGINT
"""The exit codes that a shell and SLURM expect of a process that SIGTERM or Ctrl-C ended."""


class RefusedExit(SystemExit):
    """The end of a command that is refused, with the exit code that argparse has for it; as text, what was printed."""

    def __init__(self, text: str) -> None:
        super().__init__(2)
        self.text = text

    def __str__(self) -> str:
        return self.text


def run_command(command: Callable[..., object], arguments: list[str]) -> None:
    """Run a plain function with arguments from the command line."""
    auto_cli(command, args=arguments, as_positional=False, parser_class=CommandParser, description="")


def entry_point() -> None:
    """The console script: what users can mend is one line and exit code 2, and anything else a traceback."""
    keep_quiet()
    try:
        _run([each for each in sys.argv[1:] if each != DEBUG])
    except SIGTERMException as error:
        _end(exit_code(error))
    except KeyboardInterrupt:
        _end(SIGINT_EXIT)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning has shut down, and exits with 1
            _end(SIGINT_EXIT)
        raise
    except Exception as error:
        refused = refusal(error)
        if refused is None or DEBUG in sys.argv:
            raise
        text = masked_text(f"error: {one_line(str(refused))}")
        print(text, file=sys.stderr)
        raise RefusedExit(text) from error


def _run(typed: list[str]) -> None:
    """Run the command that the arguments name."""
    trust, arguments = split_trust(typed)
    if not arguments:
        raise SettingError("no command is given, such as fit; `lightning-sdft --help` lists them")
    check_command(arguments[:1])
    if arguments[0] in COMMANDS:
        with trusting(*trust):
            run_command(COMMANDS[arguments[0]], arguments[1:])
    else:
        main(arguments, trust=trust, commands=COMMANDS)


def _end(code: int) -> NoReturn:
    """Exit; other processes than the first with 0, because a launcher would kill the first if they did not."""
    sys.exit(code if getattr(rank_zero_only, "rank", 0) == 0 else 0)


if __name__ == "__main__":
    entry_point()
